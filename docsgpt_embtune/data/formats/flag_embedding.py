"""FlagEmbedding's JSONL: query, pos, neg."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from docsgpt_embtune.data.formats.content import Row, chunks, text_id
from docsgpt_embtune.data.formats.format import row_format
from docsgpt_embtune.data.formats.options import ReadOptions
from docsgpt_embtune.data.formats.records import Fields, parsed, write_json_lines
from docsgpt_embtune.data.formats.source import Source


def rows(source: Source, _options: ReadOptions) -> Iterator[Row]:
    """Stream the questions; teacher scores and prompts are not read."""

    def row(fields: Fields) -> Row:
        query = fields.text("query")
        return Row(text_id(query), query, chunks(fields.texts("pos")), chunks(fields.texts("neg")))

    return parsed(source, row)


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Write one line for each question."""
    write_json_lines(
        path,
        (
            {"query": row.query, "pos": [chunk.text for chunk in row.good], "neg": [chunk.text for chunk in row.bad]}
            for row in rows
        ),
    )


FLAG_EMBEDDING = row_format(
    name="flag-embedding",
    layout="JSONL: query, pos, neg",
    recognises=lambda source: source.has_records and {"query", "pos"} <= source.fields,
    rows=rows,
    write_rows=write_rows,
)
