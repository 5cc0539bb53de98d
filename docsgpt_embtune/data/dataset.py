"""Questions, chunks and judgments: the one dataset that every step takes.

DocsGPT's chunks are the field's documents: a chunk id is a `doc_id` here.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from docsgpt_embtune.errors import DatasetError
from docsgpt_embtune.files import PUBLIC, write_text_atomically

RelevantDocs = Literal["good-bad", "all-good"]
DatasetKey = Literal["queries", "corpus", "relevant_docs", "irrelevant_docs"]


@dataclass(frozen=True)
class RetrievalDataset:
    """Queries, the corpus they are asked of, and which documents answer them.

    Attributes:
        queries: query_id -> text.
        corpus: doc_id -> text.
        relevant_docs: query_id -> ids of the documents that answer, at least one.
        irrelevant_docs: query_id -> ids of documents that look right and are not; absent where none is known.
        sources: The files it was read from, for messages and for the manifest.
    """

    queries: Mapping[str, str]
    corpus: Mapping[str, str]
    relevant_docs: Mapping[str, tuple[str, ...]]
    irrelevant_docs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sources: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Count the queries."""
        return len(self.queries)

    @property
    def qrels(self) -> dict[str, dict[str, int]]:
        """Judgments as trec_eval has them: query_id -> {doc_id: 1}; documents not named are irrelevant."""
        return {query_id: dict.fromkeys(doc_ids, 1) for query_id, doc_ids in self.relevant_docs.items()}

    @property
    def fingerprint(self) -> str:
        """Hex sha256 over queries, corpus and judgments, whatever file layout they came in."""
        content = [dict(self.queries), dict(self.corpus), dict(self.relevant_docs), dict(self.irrelevant_docs)]
        canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()

    def subset(self, query_ids: Iterable[str]) -> "RetrievalDataset":
        """Keep these queries and their judgments, with the whole corpus."""
        kept = list(query_ids)
        return RetrievalDataset(
            queries={query_id: self.queries[query_id] for query_id in kept},
            corpus=self.corpus,
            relevant_docs={query_id: self.relevant_docs[query_id] for query_id in kept},
            irrelevant_docs={q: self.irrelevant_docs[q] for q in kept if q in self.irrelevant_docs},
            sources=self.sources,
        )

    def describe(self) -> str:
        """Say in one line what is in it, so that a misread file is seen at once."""
        good = sum(map(len, self.relevant_docs.values()))
        bad = sum(map(len, self.irrelevant_docs.values()))
        return f"{len(self.queries):,} questions, {len(self.corpus):,} chunks, {good:,} good and {bad:,} bad judgments"


def load_dataset(
    path: str | Path, *, corpus: str | Path | None = None, relevant_docs: RelevantDocs | None = None
) -> RetrievalDataset:
    """Read a dataset in the article's form, in the explicit form, or in LlamaIndex's.

    The three share their keys and differ in what `relevant_docs` holds. With `irrelevant_docs` in the
    file, every id of `relevant_docs` is good. Without it, a file in which no question has more than two
    ids, and one has two, could be the article's (`[good, bad]`) or LlamaIndex's (all good): to take the
    one for the other ruins a model in silence, so such a file is refused until `relevant_docs` says which.

    Args:
        path: JSON with `queries`, `relevant_docs`, and, unless `corpus` is given, `corpus`.
        corpus: JSON {doc_id: text} (or {"corpus": {…}}) when the chunks are in a file of their own.
        relevant_docs: "good-bad" or "all-good", to settle a file that could be either.

    Raises:
        DatasetError: If a file cannot be read, is ambiguous, or contradicts itself; names the first offender
            and how many there are.

    Source:
        The two layouts: DocsGPT's article on tuning embeddings, and LlamaIndex's EmbeddingQAFinetuneDataset.
    """
    if relevant_docs is not None and relevant_docs not in get_args(RelevantDocs):
        raise ValueError(f"relevant_docs must be one of {get_args(RelevantDocs)}, got {relevant_docs!r}")
    path = Path(path)
    content = _read_json_object(path)
    _refuse_unknown_shape(path, content, corpus_is_elsewhere=corpus is not None)
    queries = _texts(path, "queries", content["queries"])
    judged = _ids(path, "relevant_docs", content["relevant_docs"])
    if "irrelevant_docs" in content:
        good, bad = judged, _ids(path, "irrelevant_docs", content["irrelevant_docs"])
    else:
        good, bad = _split_judgments(path, judged, relevant_docs)
    dataset = RetrievalDataset(
        queries=queries,
        corpus=_texts(path, "corpus", content["corpus"]) if corpus is None else load_corpus(corpus),
        relevant_docs=good,
        irrelevant_docs={query_id: doc_ids for query_id, doc_ids in bad.items() if doc_ids},
        sources=(str(path),) if corpus is None else (str(path), str(corpus)),
    )
    _refuse_contradictions(path, dataset)
    return dataset


def load_corpus(path: str | Path) -> dict[str, str]:
    """Read chunks from a JSON file: {doc_id: text}, or the same under a `corpus` key.

    Raises:
        DatasetError: If the file cannot be read, or a chunk is empty or not text.
    """
    path = Path(path)
    content = _read_json_object(path)
    if isinstance(content.get("corpus"), dict):
        content = content["corpus"]
    return _texts(path, "corpus", content)


def query_digest(text: str) -> str:
    """Name a question without telling it: 16 hex digits, the same for all spacings and cases of the text.

    A model's manifest lists the questions that it learned from in this form (`data.seen_queries`).
    """
    return hashlib.sha256(" ".join(text.split()).casefold().encode("utf-8", "surrogatepass")).hexdigest()[:16]


def save_dataset(
    dataset: RetrievalDataset,
    path: str | Path,
    *,
    corpus: str | Path | None = None,
    mode: int = PUBLIC,
    made_by: str = "",
) -> None:
    """Write the explicit form, which no reader can misunderstand.

    Args:
        dataset: What to write.
        path: The questions and judgments, and the corpus with them unless `corpus` is given.
        corpus: Where the chunks go instead, to be shared by several splits.
        mode: Permissions of the questions' file.
        made_by: Where questions come from that no person asked; written for people, passed over by readers.
    """
    content: dict[str, Any] = {"made_by": made_by} if made_by else {}
    content["queries"] = dict(dataset.queries)
    if corpus is None:
        content["corpus"] = dict(dataset.corpus)
    else:
        _write_json(Path(corpus), dict(dataset.corpus))
    content["relevant_docs"] = {query_id: list(ids) for query_id, ids in dataset.relevant_docs.items()}
    content["irrelevant_docs"] = {query_id: list(ids) for query_id, ids in dataset.irrelevant_docs.items()}
    _write_json(Path(path), content, mode=mode)


def _write_json(path: Path, content: Mapping[str, Any], *, mode: int = PUBLIC) -> None:
    write_text_atomically(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n", mode=mode)


def _read_json_object(path: Path) -> dict[str, Any]:
    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(key for key, _ in pairs)
        duplicates = [key for key, count in counts.items() if count > 1]
        if duplicates:
            raise DatasetError(_offence(path, "key stands twice in one object", map(repr, duplicates), of="keys"))
        return dict(pairs)

    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=refuse_duplicates)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}: not JSON (line {error.lineno}, column {error.colno}: {error.msg})") from error
    except RecursionError as error:
        raise DatasetError(f"{path}: nested too deeply to be a dataset") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: holds a JSON {_json_type(content)}; a dataset is an object with a key 'queries'")
    return content


def _refuse_unknown_shape(path: Path, content: Mapping[str, Any], *, corpus_is_elsewhere: bool) -> None:
    for key in ("queries", "relevant_docs"):
        if key not in content:
            raise DatasetError(f"{path}: has no key {key!r} (it has {sorted(content)[:5]})")
    if corpus_is_elsewhere and content.get("corpus"):
        raise DatasetError(f"{path}: carries a corpus of its own; leave out --corpus, or the key 'corpus'")
    if not corpus_is_elsewhere and "corpus" not in content:
        raise DatasetError(f"{path}: has no key 'corpus'; give the chunks' own file with --corpus")


def _texts(path: Path, key: DatasetKey, value: Any) -> dict[str, str]:
    texts = _object(path, key, value)
    if not texts:
        raise DatasetError(f"{path}: {key!r} is empty")
    _refuse(path, f"{key}: text is not a string", (k for k, v in texts.items() if not isinstance(v, str)), len(texts))
    _refuse(path, f"{key}: text is empty", (k for k, v in texts.items() if not v.strip()), len(texts))
    return texts


def _ids(path: Path, key: DatasetKey, value: Any) -> dict[str, tuple[str, ...]]:
    def is_id_list(ids: Any) -> bool:
        return isinstance(ids, list) and all(isinstance(doc_id, str) for doc_id in ids)

    judgments = _object(path, key, value)
    _refuse(
        path,
        f"{key}: not a list of chunk ids (strings)",
        (k for k, v in judgments.items() if not is_id_list(v)),
        len(judgments),
    )
    _refuse(
        path,
        f"{key}: the same id stands twice",
        (k for k, v in judgments.items() if len(set(v)) < len(v)),
        len(judgments),
    )
    return {query_id: tuple(ids) for query_id, ids in judgments.items()}


def _object(path: Path, key: DatasetKey, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DatasetError(f"{path}: {key!r} must be an object, is a JSON {_json_type(value)}")
    return value


def _split_judgments(
    path: Path, judged: Mapping[str, tuple[str, ...]], relevant_docs: RelevantDocs | None
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    longest = max(map(len, judged.values()), default=0)
    if relevant_docs is None and longest == 2:
        raise DatasetError(
            f"{path}: relevant_docs has two ids for a question, which could be [good, bad] or two good ones; "
            "say which with --relevant-docs good-bad or --relevant-docs all-good"
        )
    if relevant_docs != "good-bad":
        return dict(judged), {}
    _refuse(path, "relevant_docs: more than [good, bad]", (q for q, ids in judged.items() if len(ids) > 2), len(judged))
    return {q: ids[:1] for q, ids in judged.items()}, {q: ids[1:] for q, ids in judged.items()}


def _refuse_contradictions(path: Path, dataset: RetrievalDataset) -> None:
    good, bad = dataset.relevant_docs, dataset.irrelevant_docs
    total = len(dataset.queries)
    _refuse(path, "question has no good chunk", (q for q in dataset.queries if not good.get(q)), total)
    for key, judgments in (("relevant_docs", good), ("irrelevant_docs", bad)):
        _refuse(path, f"{key}: unknown question", (q for q in judgments if q not in dataset.queries), len(judgments))
        _refuse(
            path,
            f"{key}: chunk is missing from the corpus",
            (f"{q}' -> '{d}" for q, ids in judgments.items() for d in ids if d not in dataset.corpus),
            sum(map(len, judgments.values())),
        )
    _refuse(path, "chunk is both good and bad for", (q for q in bad if set(good[q]) & set(bad[q])), total)
    _refuse(
        path,
        "the same text is both good and bad, under two ids, for",
        (q for q in bad if {dataset.corpus[d] for d in good[q]} & {dataset.corpus[d] for d in bad[q]}),
        total,
    )


def _refuse(path: Path, what: str, offenders: Iterable[str], total: int) -> None:
    message = _offence(path, what, (f"'{offender}'" for offender in offenders), of=str(total))
    if message:
        raise DatasetError(message)


def _offence(path: Path, what: str, offenders: Iterable[str], *, of: str) -> str:
    found = list(offenders)
    if not found:
        return ""
    return f"{path}: {what}: {found[0]} (first of {len(found)}, of {of})"


def _json_type(value: Any) -> str:
    names: dict[type, str] = {list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
