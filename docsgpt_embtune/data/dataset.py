"""Questions, chunks and judgments: the one dataset that every step takes.

A chunk of DocsGPT is what retrieval calls a document, so its id is a `doc_id` here.
"""

import hashlib
import json
import random
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import get_args

from docsgpt_embtune.data.formats.content import DatasetContent, named_with_text
from docsgpt_embtune.data.formats.options import ReadOptions, RelevantDocs
from docsgpt_embtune.data.offences import refuse
from docsgpt_embtune.errors import DatasetError
from docsgpt_embtune.files import PUBLIC
from docsgpt_embtune.wording import counted


@dataclass(frozen=True)
class RetrievalDataset(DatasetContent):
    """Queries, their corpus and the relevance judgments, consistent with one another.

    `checked` makes sure that no text is blank, each query has a good document, every id is known, and no text is both
    good and bad for a query. The constructor checks nothing.
    """

    def __len__(self) -> int:
        """Count the queries."""
        return len(self.queries)

    @property
    def qrels(self) -> dict[str, dict[str, int]]:
        """Judgments in the form of trec_eval: query_id -> {doc_id: 1}; documents not named are irrelevant."""
        return {query_id: dict.fromkeys(doc_ids, 1) for query_id, doc_ids in self.relevant_docs.items()}

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of queries, corpus and judgments, the same for every file format."""
        content = [dict(self.queries), dict(self.corpus), dict(self.relevant_docs), dict(self.irrelevant_docs)]
        canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()

    def subset(self, query_ids: Iterable[str]) -> "RetrievalDataset":
        """Keep these queries and their judgments, with the whole corpus."""
        kept = list(query_ids)
        return replace(
            self,
            queries={query_id: self.queries[query_id] for query_id in kept},
            relevant_docs={query_id: self.relevant_docs[query_id] for query_id in kept},
            irrelevant_docs={q: self.irrelevant_docs[q] for q in kept if q in self.irrelevant_docs},
            dates={q: self.dates[q] for q in kept if q in self.dates},
        )

    def sampled(self, count: int, drawn: random.Random) -> "RetrievalDataset":
        """Keep `count` random queries in their original order, or all if there are no more."""
        if count >= len(self):
            return self
        kept = set(drawn.sample(list(self.queries), k=count))
        return self.subset(query_id for query_id in self.queries if query_id in kept)

    def good_texts(self) -> Iterable[str]:
        """Yield the text of each chunk that answers a question, once."""
        return (self.corpus[d] for d in dict.fromkeys(d for good in self.relevant_docs.values() for d in good))

    def __repr__(self) -> str:
        """Return one line: a notebook shows what a cell ends with, which would be all questions and chunks."""
        return f"<{type(self).__name__}: {self.describe()}>"

    def describe(self) -> str:
        """Summarise the dataset in one line, so that a misread file is noticed at once."""
        good = sum(map(len, self.relevant_docs.values()))
        bad = sum(map(len, self.irrelevant_docs.values()))
        return (
            f"{counted(len(self.queries), 'question')}, {counted(len(self.corpus), 'chunk')}, "
            f"{good:,} good and {bad:,} bad judgments"
        )


def load_dataset(
    path: str | Path, *, corpus: str | Path | None = None, relevant_docs: RelevantDocs | None = None
) -> RetrievalDataset:
    """Read a dataset in any of the formats of `formats.registry`, recognised by its content.

    The JSON of DocsGPT's article, the explicit JSON and LlamaIndex's share their keys and differ in what
    `relevant_docs` holds. With `irrelevant_docs` in the file, every id of `relevant_docs` is good. Without it, a file
    in which no question has more than two ids, and one has two, could be the article's (`[good, bad]`) or
    LlamaIndex's (all good). Taking one for the other would silently ruin a model, so such a file is refused unless
    `relevant_docs` says which it is.

    If a text stands in the corpus under several ids, its judgments are moved to the first of them.

    Args:
        path: A file, a folder, or `hub:NAME` for a dataset on Hugging Face's hub.
        corpus: File of the chunks, if they are not in the dataset's: JSON {doc_id: text} (or {"corpus": {…}}), or
            rows of an id and a text. Rows of the dataset that hold chunks as text get the corpus' ids.
        relevant_docs: "good-bad" or "all-good", to settle a file that could be either.

    Raises:
        DatasetError: If a file cannot be read, is ambiguous, or contradicts itself; the message names the first
            offender and how many there are.
        ValueError: If `relevant_docs` has another value.

    Source:
        The two layouts: DocsGPT's article on tuning embeddings, and LlamaIndex's EmbeddingQAFinetuneDataset.
    """
    # Deployment commands run in DocsGPT's environment, where there is no pyarrow.
    from docsgpt_embtune.data.formats.registry import read_content

    if relevant_docs is not None and relevant_docs not in get_args(RelevantDocs):
        raise ValueError(f"relevant_docs must be one of {get_args(RelevantDocs)}, got {relevant_docs!r}")
    options = ReadOptions(corpus=Path(corpus) if corpus is not None else None, relevant_docs=relevant_docs)
    return judge_first_copies(checked(read_content(Path(path), options)))


def load_corpus(path: str | Path) -> dict[str, str]:
    """Read chunks: JSON {doc_id: text}, the same under a `corpus` key, or rows of an id and a text.

    Raises:
        DatasetError: If the file cannot be read, or a chunk is empty or not text.
    """
    from docsgpt_embtune.data.formats.texts import read_corpus

    corpus = read_corpus(Path(path))
    _refuse_blank(Path(path), "corpus", corpus)
    return corpus


def refuse_no_dataset(**given: object) -> None:
    """Raise TypeError for an argument that is no dataset, such as a file's path; None is let through."""
    for name, value in given.items():
        if value is not None and not isinstance(value, RetrievalDataset):
            raise TypeError(
                f"{name} must be a RetrievalDataset, and is {value!r:.80}; give what load_dataset(…) returns"
            )


def checked(content: DatasetContent) -> RetrievalDataset:
    """Turn content into a dataset, after checking that it is consistent.

    Raises:
        DatasetError: If it is not; the message names the first offender, how many there are, and what repairs them.
    """
    dataset = RetrievalDataset(**{each.name: getattr(content, each.name) for each in fields(content)})
    path = Path(content.sources[0]) if content.sources else Path("dataset")
    try:
        _refuse_blank(path, "queries", dataset.queries)
        _refuse_blank(path, "corpus", dataset.corpus)
        _refuse_contradictions(path, dataset)
    except DatasetError as error:
        raise DatasetError(f"{error}; embtune prepare --fix --out FOLDER mends such data") from error
    return dataset


def judge_first_copies(dataset: RetrievalDataset) -> RetrievalDataset:
    """Move the judgments of repeated chunks to the first chunk with the same text.

    A chunk that stands in the corpus twice answers equally well under both ids, but is usually judged under one.
    Copies tie in every ranking and then keep corpus order, so that the first of them is found first. Questions
    about any copy now share one answer, and so stay on one side of every split.
    """
    first_of = _first_ids(dataset.corpus)
    if len(first_of) == len(dataset.corpus):
        return dataset

    def first_copies(judged: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        return {
            query_id: tuple(dict.fromkeys(first_of[dataset.corpus[doc_id]] for doc_id in doc_ids))
            for query_id, doc_ids in judged.items()
        }

    return replace(
        dataset,
        relevant_docs=first_copies(dataset.relevant_docs),
        irrelevant_docs=first_copies(dataset.irrelevant_docs),
    )


def without_copies(corpus: Mapping[str, str]) -> dict[str, str]:
    """Keep only the first of chunks with the same text."""
    return {doc_id: text for text, doc_id in _first_ids(corpus).items()}


def _first_ids(corpus: Mapping[str, str]) -> dict[str, str]:
    """Return text -> the id of the first chunk that has it, in the order of the corpus."""
    first_of: dict[str, str] = {}
    for doc_id, text in corpus.items():
        first_of.setdefault(text, doc_id)
    return first_of


def query_digest(text: str) -> str:
    """Identify a question without revealing it: 16 hex digits, the same for any spacing and case of the text.

    Composed and decomposed accents give the same digest, too. A model's manifest lists the questions that it learned
    from in this form (`data.seen_queries`).
    """
    spaced = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.sha256(spaced.casefold().encode("utf-8", "surrogatepass")).hexdigest()[:16]


def save_dataset(
    dataset: RetrievalDataset,
    path: str | Path,
    *,
    corpus: str | Path | None = None,
    mode: int = PUBLIC,
    made_by: str = "",
) -> None:
    """Write a dataset as explicit JSON, which is never ambiguous.

    Args:
        dataset: What to write.
        path: File for the questions and judgments, and for the corpus unless `corpus` is given.
        corpus: File for the chunks, which several splits can then share.
        mode: Permissions of the file at `path`.
        made_by: Origin of questions that no person asked; written for people, ignored when the file is read.
    """
    from docsgpt_embtune.data.formats.native import write_explicit

    write_explicit(dataset, Path(path), None if corpus is None else Path(corpus), mode=mode, made_by=made_by)


def _refuse_blank(path: Path, key: str, texts: Mapping[str, str]) -> None:
    blank = (named_with_text(name, text) for name, text in texts.items() if not text.strip())
    refuse(path, f"{key}: text is empty", blank, len(texts))


def refuse_unknown_ids(path: Path, content: DatasetContent) -> None:
    """Refuse judgments that name an unknown question or chunk.

    Raises:
        DatasetError: If there are any; the message names the first and how many there are.
    """
    for key, judgments in (("relevant_docs", content.relevant_docs), ("irrelevant_docs", content.irrelevant_docs)):
        unknown = (query_id for query_id in judgments if query_id not in content.queries)
        refuse(path, f"{key}: unknown question", unknown, len(judgments))
        refuse(
            path,
            f"{key}: chunk is missing from the corpus",
            (f"{q}' -> '{d}" for q, ids in judgments.items() for d in ids if d not in content.corpus),
            sum(map(len, judgments.values())),
        )


def _refuse_contradictions(path: Path, dataset: RetrievalDataset) -> None:
    good, bad = dataset.relevant_docs, dataset.irrelevant_docs
    total = len(dataset.queries)

    def named(query_ids: Iterable[str]) -> Iterable[str]:
        return (named_with_text(query_id, dataset.queries[query_id]) for query_id in query_ids)

    refuse(path, "question has no good chunk", named(q for q in dataset.queries if not good.get(q)), total)
    refuse_unknown_ids(path, dataset)
    refuse(path, "chunk is both good and bad for", named(q for q in bad if set(good[q]) & set(bad[q])), total)
    refuse(
        path,
        "the same text is both good and bad, under two ids, for",
        named(q for q in bad if {dataset.corpus[d] for d in good[q]} & {dataset.corpus[d] for d in bad[q]}),
        total,
    )
