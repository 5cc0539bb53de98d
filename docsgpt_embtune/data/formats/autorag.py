"""AutoRAG's folder: qa.parquet and corpus.parquet."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from docsgpt_embtune.data.formats.content import DatasetContent, digits_as_text, text_id
from docsgpt_embtune.data.formats.format import Format
from docsgpt_embtune.data.formats.options import ReadOptions
from docsgpt_embtune.data.formats.records import Fields, RecordFault, parsed
from docsgpt_embtune.data.formats.source import Source
from docsgpt_embtune.data.formats.texts import read_text_records
from docsgpt_embtune.data.offences import refuse
from docsgpt_embtune.files import folder_written_whole

QUESTIONS, CORPUS = "qa.parquet", "corpus.parquet"
_QUESTION_FIELDS = {"qid", "query", "retrieval_gt"}


def read(source: Source, options: ReadOptions) -> DatasetContent:
    """Read the folder, or its qa.parquet; every id in `retrieval_gt`, however nested, is a good chunk."""
    qa = Source(source.path / QUESTIONS) if source.container == "folder" else source
    corpus = Source(options.corpus or _corpus_beside(source))
    asked = list(parsed(qa, _question))
    times = Counter(query_id for query_id, _, _ in asked)
    refuse(qa.path, "the same qid stands twice", (q for q, count in times.items() if count > 1), len(asked))
    return DatasetContent(
        queries={query_id: query for query_id, query, _ in asked},
        corpus=read_text_records(corpus),
        relevant_docs={query_id: good for query_id, _, good in asked},
        sources=(str(qa.path), str(corpus.path)),
        documents=_documents(corpus),
    )


def write(content: DatasetContent, path: Path) -> None:
    """Write the folder with the columns that AutoRAG requires; it cannot hold bad chunks."""
    asked = [
        {
            "qid": query_id,
            "query": query,
            "retrieval_gt": [list(content.relevant_docs[query_id])],
            "generation_gt": [""],
        }
        for query_id, query in content.queries.items()
    ]
    written = {"last_modified_datetime": datetime.now(UTC).replace(tzinfo=None)}
    chunks = [
        {"doc_id": doc_id, "contents": text, "path": content.documents.get(doc_id, ""), "metadata": written}
        for doc_id, text in content.corpus.items()
    ]
    with folder_written_whole(path) as folder:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(asked), folder / QUESTIONS)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(chunks), folder / CORPUS)


def _recognises(source: Source) -> bool:
    if source.container == "folder":
        return (source.path / QUESTIONS).is_file() and (source.path / CORPUS).is_file()
    return source.has_records and source.fields >= _QUESTION_FIELDS


def _corpus_beside(source: Source) -> Path:
    return (source.path if source.container == "folder" else source.path.parent) / CORPUS


def _question(fields: Fields) -> tuple[str, str, tuple[str, ...]]:
    query = fields.text("query")
    query_id = fields.optional_text("qid") or text_id(query)
    return query_id, query, tuple(dict.fromkeys(_flat(fields.value("retrieval_gt"))))


def _flat(ids: Any) -> Iterable[str]:
    own_id = digits_as_text(ids)
    if isinstance(own_id, str):
        yield own_id
    elif isinstance(ids, list):
        for item in ids:
            yield from _flat(item)
    elif ids is not None:
        raise RecordFault("retrieval_gt: neither an id nor lists of ids")


def _documents(corpus: Source) -> dict[str, str]:
    if not {"doc_id", "path"} <= corpus.fields:
        return {}
    named = ((str(digits_as_text(record["doc_id"])), record.get("path")) for record in corpus.records())
    return {doc_id: path for doc_id, path in named if isinstance(path, str) and path}


AUTORAG = Format(
    name="autorag",
    layout=f"folder: {QUESTIONS}, {CORPUS}",
    recognises=_recognises,
    read=read,
    write=write,
    has_chunks=lambda source: _corpus_beside(source).is_file(),
)
