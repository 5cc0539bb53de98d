"""Three JSON formats with the same keys: that of DocsGPT's article, the explicit one, and LlamaIndex's.

`relevant_docs` holds [good, bad] in the article's, and only good chunks in the other two.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docsgpt_embtune.data.formats.content import DatasetContent, text_fault
from docsgpt_embtune.data.formats.format import Format
from docsgpt_embtune.data.formats.options import ReadOptions
from docsgpt_embtune.data.formats.source import Source
from docsgpt_embtune.data.formats.texts import json_object, read_corpus, text_object
from docsgpt_embtune.data.offences import refuse
from docsgpt_embtune.errors import DatasetError
from docsgpt_embtune.files import PUBLIC, write_text_atomically

Ids = dict[str, tuple[str, ...]]


def read(source: Source, options: ReadOptions) -> DatasetContent:
    """Read any of the three; refuse a file that could be the article's or LlamaIndex's if no option says which."""
    path, content = source.path, source.object
    _refuse_unknown_shape(path, content, corpus_is_elsewhere=options.corpus is not None)
    queries = text_object(path, "queries", content["queries"])
    judged = _ids(path, "relevant_docs", content["relevant_docs"])
    if "irrelevant_docs" in content:
        good, bad = judged, _ids(path, "irrelevant_docs", content["irrelevant_docs"])
    else:
        good, bad = _split_judgments(path, judged, options)
    return DatasetContent(
        queries=queries,
        corpus=_chunks(path, content, options.corpus),
        relevant_docs=good,
        irrelevant_docs={query_id: doc_ids for query_id, doc_ids in bad.items() if doc_ids},
        sources=(str(path),) if options.corpus is None else (str(path), str(options.corpus)),
        dates=text_object(path, "dates", content["dates"]) if content.get("dates") else {},
        documents=text_object(path, "documents", content["documents"]) if content.get("documents") else {},
    )


def write_explicit(
    content: DatasetContent, path: Path, corpus: Path | None = None, *, mode: int = PUBLIC, made_by: str = ""
) -> None:
    """Write explicit JSON, which is never ambiguous, with the corpus in a separate file if one is given."""
    document: dict[str, Any] = {"made_by": made_by} if made_by else {}
    document["queries"] = dict(content.queries)
    if corpus is None:
        document["corpus"] = dict(content.corpus)
    else:
        _write_json(corpus, dict(content.corpus))
    document["relevant_docs"] = {query_id: list(ids) for query_id, ids in content.relevant_docs.items()}
    document["irrelevant_docs"] = {query_id: list(ids) for query_id, ids in content.irrelevant_docs.items()}
    document |= {"dates": dict(content.dates)} if content.dates else {}
    document |= {"documents": dict(content.documents)} if content.documents else {}
    _write_json(path, document, mode=mode)


def write_article(content: DatasetContent, path: Path) -> None:
    """Write [good, bad] for each question, as DocsGPT's article has it.

    Raises:
        DatasetError: If a question has several good chunks or several bad ones, which this format cannot hold.
    """
    bad = content.irrelevant_docs
    crowded = (q for q, good in content.relevant_docs.items() if len(good) > 1 or len(bad.get(q, ())) > 1)
    refuse(path, "the article's form holds one good and one bad chunk, but not those of", crowded, len(content.queries))
    judged = {query_id: [*good, *bad.get(query_id, ())] for query_id, good in content.relevant_docs.items()}
    _write_json(path, {"queries": dict(content.queries), "corpus": dict(content.corpus), "relevant_docs": judged})


def write_llamaindex(content: DatasetContent, path: Path) -> None:
    """Write LlamaIndex's EmbeddingQAFinetuneDataset, which cannot hold bad chunks."""
    good = {query_id: list(ids) for query_id, ids in content.relevant_docs.items()}
    keys = {"queries": dict(content.queries), "corpus": dict(content.corpus), "relevant_docs": good, "mode": "text"}
    _write_json(path, keys)


def _recognises(source: Source) -> bool:
    return source.container == "JSON object" and bool({"queries", "relevant_docs"} & source.fields)


def _recognises_explicit(source: Source) -> bool:
    return _recognises(source) and "irrelevant_docs" in source.fields


def _has_corpus(source: Source) -> bool:
    return bool(source.object.get("corpus"))


def _refuse_unknown_shape(path: Path, content: Mapping[str, Any], *, corpus_is_elsewhere: bool) -> None:
    for key in ("queries", "relevant_docs"):
        if key not in content:
            raise DatasetError(f"{path}: has no key {key!r} (it has {sorted(content)[:5]})")
    if not corpus_is_elsewhere and content.get("corpus") in (None, {}):
        fault = "'corpus' is empty" if "corpus" in content else "has no key 'corpus'"
        raise DatasetError(f"{path}: {fault}; give the chunks' own file with --corpus")


def _chunks(path: Path, content: Mapping[str, Any], elsewhere: Path | None) -> dict[str, str]:
    """Read the chunks, from `elsewhere` if given; the file may repeat some of those, as `embtune synthesize` does."""
    if elsewhere is None:
        return text_object(path, "corpus", content["corpus"])
    corpus = read_corpus(elsewhere)
    if content.get("corpus"):
        own = text_object(path, "corpus", content["corpus"])
        others = (doc_id for doc_id, text in own.items() if corpus.get(doc_id) != text)
        what = f"carries other chunks than {elsewhere}; leave out --corpus, or the key 'corpus'"
        refuse(path, what, others, len(own))
    return corpus


def _ids(path: Path, key: str, value: Any) -> Ids:
    def is_id_list(ids: Any) -> bool:
        return isinstance(ids, list) and not any(map(text_fault, ids))

    judgments = json_object(path, key, value)
    total = len(judgments)
    refuse(
        path, f"{key}: not a list of chunk ids (strings)", (k for k, v in judgments.items() if not is_id_list(v)), total
    )
    refuse(path, f"{key}: the same id stands twice", (k for k, v in judgments.items() if len(set(v)) < len(v)), total)
    return {query_id: tuple(ids) for query_id, ids in judgments.items()}


def _split_judgments(path: Path, judged: Ids, options: ReadOptions) -> tuple[Ids, Ids]:
    longest = max(map(len, judged.values()), default=0)
    if options.relevant_docs is None and longest == 2:
        raise DatasetError(
            f"{path}: relevant_docs has two ids for a question, which could be [good, bad] or two good ones; "
            "say which with --relevant-docs good-bad or --relevant-docs all-good"
        )
    if options.relevant_docs != "good-bad":
        return judged, {}
    refuse(path, "relevant_docs: more than [good, bad]", (q for q, ids in judged.items() if len(ids) > 2), len(judged))
    return {q: ids[:1] for q, ids in judged.items()}, {q: ids[1:] for q, ids in judged.items()}


def _write_json(path: Path, content: Mapping[str, Any], *, mode: int = PUBLIC) -> None:
    write_text_atomically(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n", mode=mode)


EXPLICIT = Format(
    name="explicit",
    layout="JSON: queries, corpus, relevant_docs (all good), irrelevant_docs (all bad)",
    recognises=_recognises_explicit,
    read=read,
    write=write_explicit,
    has_chunks=_has_corpus,
)
ARTICLE = Format(
    name="article",
    layout="JSON of DocsGPT's article: queries, corpus, relevant_docs with [good, bad]",
    recognises=lambda source: _recognises(source) and not _recognises_explicit(source) and "mode" not in source.fields,
    read=read,
    write=write_article,
    reading_back=ReadOptions(relevant_docs="good-bad"),
    has_chunks=_has_corpus,
)
LLAMAINDEX = Format(
    name="llamaindex",
    layout="JSON of LlamaIndex's EmbeddingQAFinetuneDataset: queries, corpus, relevant_docs, mode",
    recognises=lambda source: _recognises(source) and not _recognises_explicit(source) and "mode" in source.fields,
    read=read,
    write=write_llamaindex,
    reading_back=ReadOptions(relevant_docs="all-good"),
    has_chunks=_has_corpus,
)
