"""Test sets made by ragas: version 0.2 and later (user_input, reference_contexts), and 0.1 (question, contexts)."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from docsgpt_embtune.data.formats.content import Row, chunks, text_id
from docsgpt_embtune.data.formats.format import row_format
from docsgpt_embtune.data.formats.options import ReadOptions
from docsgpt_embtune.data.formats.records import Fields, parsed, write_json_lines
from docsgpt_embtune.data.formats.source import Source
from docsgpt_embtune.errors import DatasetError


def rows(source: Source, _options: ReadOptions) -> Iterator[Row]:
    """Stream the questions, with the contexts that they were made from as good chunks.

    Raises:
        DatasetError: If the contexts are what a system under test retrieved, which nobody has judged.
    """
    question, contexts = _columns(source)

    def row(fields: Fields) -> Row:
        query = fields.text(question)
        return Row(text_id(query), query, chunks(fields.texts(contexts)))

    return parsed(source, row)


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Write one line for each question; a ragas test set cannot hold bad chunks."""
    write_json_lines(
        path, ({"user_input": row.query, "reference_contexts": [chunk.text for chunk in row.good]} for row in rows)
    )


def _columns(source: Source) -> tuple[str, str]:
    if {"user_input", "reference_contexts"} <= source.fields:
        return "user_input", "reference_contexts"
    if "user_input" in source.fields or "answer" in source.fields:
        raise DatasetError(
            f"{source.path}: holds what a system answered and retrieved, not what should be found; give the test set "
            "itself, with reference_contexts"
        )
    return "question", "contexts"


RAGAS = row_format(
    name="ragas",
    layout="test set as JSONL, CSV or Parquet: user_input, reference_contexts (0.1: question, contexts)",
    recognises=lambda source: (
        source.has_records
        and ("user_input" in source.fields or {"question", "contexts", "ground_truth"} <= source.fields)
    ),
    rows=rows,
    write_rows=write_rows,
)
