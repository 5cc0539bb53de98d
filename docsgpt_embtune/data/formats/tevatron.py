"""Tevatron's JSONL: passages in the row, or their ids with a separate corpus."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from docsgpt_embtune.data.formats.content import Row, RowChunk, text_id
from docsgpt_embtune.data.formats.format import row_format
from docsgpt_embtune.data.formats.options import ReadOptions
from docsgpt_embtune.data.formats.records import Fields, RecordFault, parsed, write_json_lines
from docsgpt_embtune.data.formats.source import Source
from docsgpt_embtune.data.formats.texts import read_corpus, titled
from docsgpt_embtune.errors import DatasetError


def rows(source: Source, options: ReadOptions) -> Iterator[Row]:
    """Stream the questions of either layout."""
    if "positive_passages" in source.fields:
        return parsed(source, _with_passages)
    if options.corpus is None:
        raise DatasetError(f"{source.path}: names its chunks by id; give their file with --corpus")
    corpus = read_corpus(options.corpus)
    return parsed(source, lambda fields: _with_ids(fields, corpus))


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Write one line for each question, with its passages."""
    write_json_lines(
        path,
        (
            {
                "query_id": row.query_id,
                "query": row.query,
                "positive_passages": [_passage(chunk) for chunk in row.good],
                "negative_passages": [_passage(chunk) for chunk in row.bad],
            }
            for row in rows
        ),
    )


def _passage(chunk: RowChunk) -> dict[str, str]:
    return {"docid": chunk.doc_id, "title": "", "text": chunk.text}


def _with_passages(fields: Fields) -> Row:
    query = fields.text("query")
    good, bad = (
        tuple(_chunk(passage) for passage in fields.objects(key)) for key in ("positive_passages", "negative_passages")
    )
    return Row(fields.optional_text("query_id") or text_id(query), query, good, bad)


def _chunk(passage: Fields) -> RowChunk:
    text = titled(passage.value("title"), passage.text("text"))
    return RowChunk(passage.optional_text("docid") or text_id(text), text)


def _with_ids(fields: Fields, corpus: Mapping[str, str]) -> Row:
    query = fields.text("query_text" if fields.value("query_text") is not None else "query")

    def named(key: str) -> tuple[RowChunk, ...]:
        doc_ids = fields.texts(key)
        if any(doc_id not in corpus for doc_id in doc_ids):
            raise RecordFault(f"{key}: chunk is missing from the corpus")
        return tuple(RowChunk(doc_id, corpus[doc_id]) for doc_id in doc_ids)

    query_id = fields.optional_text("query_id") or text_id(query)
    return Row(query_id, query, named("positive_document_ids"), named("negative_document_ids"))


TEVATRON = row_format(
    name="tevatron",
    layout="JSONL: query_id, query, positive_passages, negative_passages (or …_document_ids, with --corpus)",
    recognises=lambda source: (
        source.has_records and bool({"positive_passages", "positive_document_ids"} & source.fields)
    ),
    rows=rows,
    write_rows=write_rows,
    has_chunks=lambda source: "positive_passages" in source.fields,
)
