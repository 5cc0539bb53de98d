"""CSV, TSV, Excel, Parquet or JSONL with columns for the question, the good chunk, and perhaps more."""

import csv
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from docsgpt_embtune.data.formats.content import Row, chunks, cut, text_id
from docsgpt_embtune.data.formats.format import row_format
from docsgpt_embtune.data.formats.options import ROLES, ReadOptions
from docsgpt_embtune.data.formats.records import Fields, RecordFault, parsed, write_json_lines
from docsgpt_embtune.data.formats.source import Container, Source
from docsgpt_embtune.errors import DatasetError
from docsgpt_embtune.files import file_written_whole

# Usual names of columns, by role. A name that could have two roles, such as "answer", is in none.
_SAID_GOOD = r"(good|positive)(_\d+)?"
_NAMES = {
    "question": r"question|query|anchor",
    "good": rf"{_SAID_GOOD}|chunk|passage",
    "bad": r"(bad|negative)(_\d+)?",
    "score": r"score|label",
    "date": r"date|timestamp|created_at",
    "document": r"document|source",
}
# Columns that say whether a chunk is good, unless a column of scores is there or the chunk's own column says it.
_VERDICTS = r"verdict|relevance|relevant|is_relevant|rating|choice|judge?ment|grade"
_VERDICT_WORDS = {
    **dict.fromkeys(("true", "good", "relevant", "yes"), True),
    **dict.fromkeys(("false", "bad", "irrelevant", "not relevant", "no"), False),
}
_OF_A_REVIEW = {"verdict", "query_id"}  # columns that only the review files of `embtune harvest` have together
_WRITTEN_AT_ONCE = 10_000  # rows of Parquet


@dataclass(frozen=True)
class Columns:
    """The names of the columns, by role.

    Attributes:
        question: The question.
        good: Chunks that answer it; each column holds one, or a list of them.
        bad: Chunks that do not.
        score: How good the good chunk is.
        date: When the question was asked.
        document: What the good chunk was cut from.
    """

    question: str
    good: tuple[str, ...]
    bad: tuple[str, ...] = ()
    score: str | None = None
    date: str | None = None
    document: str | None = None


def rows(source: Source, options: ReadOptions) -> Iterator[Row]:
    """Stream the rows; several rows of one question are left for the caller to merge."""
    columns = find_columns(source, options)
    known = set(source.fields)

    def row(fields: Fields) -> Row:
        nonlocal columns
        if not known.issuperset(fields.names):  # JSONL, of which only the first lines were inspected
            known.update(fields.names)
            columns = _with_late_columns(source.path, columns, known, options)
        return _row(fields, columns, options.good_score)

    return parsed(source, row)


def find_columns(source: Source, options: ReadOptions) -> Columns:
    """Find what the columns hold by their names, unless the options say it.

    Raises:
        DatasetError: If a role has no column or several, or a named column is not there; the message names the option
            that helps.
    """
    return _columns_of(source.path, source.fields, options)


def has_scores(source: Source, options: ReadOptions) -> bool:
    """Tell whether a column holds scores, so that --good-score applies."""
    return bool(_score_columns(source.fields, options))


def _columns_of(path: Path, names: Collection[str], options: ReadOptions) -> Columns:
    for named in options.columns.values():
        if named not in names:
            raise DatasetError(f"{path}: has no column {named!r} (it has {_listed(names)})")
    _refuse_review_file(path, names, options)
    found = {role: _matching(names, role, options) for role in ROLES} | {"score": _score_columns(names, options)}
    missing = [role for role in ("question", "good") if not found[role]]
    unclear = [role for role in ROLES if role != "bad" and len(set(map(_without_number, found[role]))) > 1]
    if missing or unclear:
        problem = f"which column is the {(missing or unclear)[0]} one"
        raise DatasetError(
            f"{path}: its columns ({_listed(names)}) do not say {problem}; name them in its first row, or say it with "
            "--columns question=NAME,good=NAME[,bad=NAME][,score=NAME] (of: embtune convert, embtune prepare)"
        )
    if options.good_score is not None and not found["score"]:
        raise DatasetError(
            f"{path}: --good-score {options.good_score:g} is of no use, as no column ({_listed(names)}) is known to "
            "hold scores; say which does with --columns score=NAME, or leave --good-score out"
        )
    single = {role: next(iter(found[role]), None) for role in ("score", "date", "document")}
    return Columns(found["question"][0], tuple(found["good"]), tuple(found["bad"]), **single)


def _refuse_review_file(path: Path, names: Iterable[str], options: ReadOptions) -> None:
    if "score" not in options.columns and {str(name).strip().lower() for name in names} >= _OF_A_REVIEW:
        raise DatasetError(
            f"{path}: is a review file, with verdicts of a person; make a dataset of it with embtune harvest "
            f"--reviewed {path} --corpus CORPUS --out DATASET"
        )


def _score_columns(names: Collection[str], options: ReadOptions) -> list[str]:
    """Find the columns of scores; a column such as "relevance" is one where no other column says what is good."""
    scores = _matching(names, "score", options)
    says_good = [name for name in _matching(names, "good", options) if _is_named(name, _SAID_GOOD)]
    return scores if scores or says_good else sorted(name for name in names if _is_named(name, _VERDICTS))


def _matching(names: Iterable[str], role: str, options: ReadOptions) -> list[str]:
    named = options.columns.get(role)
    if named is not None:
        return [named]
    return sorted(name for name in names if _is_named(name, _NAMES[role]))


def _is_named(name: str, pattern: str) -> bool:
    return re.fullmatch(pattern, str(name).strip(), re.IGNORECASE) is not None


def _without_number(name: str) -> str:
    return re.sub(r"_\d+\s*$", "", name)


def _with_late_columns(path: Path, before: Columns, names: Collection[str], options: ReadOptions) -> Columns:
    columns = _columns_of(path, names, options)
    if columns.score != before.score:
        raise DatasetError(
            f"{path}: its first rows have no column {columns.score!r}, by which later ones are good or bad; give each "
            "row its score"
        )
    return columns


def write_lines(rows: Iterable[Row], path: Path) -> None:
    """Write JSONL: a line for each question, with lists of chunks."""
    write_json_lines(path, map(record, rows))


def write_delimited(rows: Iterable[Row], path: Path) -> None:
    """Write CSV, or TSV to a .tsv file; each row pairs a good chunk with a bad one, while there are any."""
    with file_written_whole(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, _HEADER, delimiter="\t" if path.suffix == ".tsv" else ","
        )  # ends lines with CRLF: only then is a CR quoted
        writer.writeheader()
        writer.writerows(record for row in rows for record in _pairs(row))


def write_excel(rows: Iterable[Row], path: Path) -> None:
    """Write an Excel sheet with the rows of `write_delimited`.

    Raises:
        DatasetError: If a text is longer than the 32,767 characters of a cell or holds control characters, or there
            are more rows than a sheet has.
    """
    import pandas
    from openpyxl.utils.exceptions import IllegalCharacterError

    records = [{name: _escaped(text) for name, text in record.items()} for row in rows for record in _pairs(row)]
    if any(len(value) > 32_767 for record in records for value in record.values()):
        raise DatasetError(f"{path}: a text is longer than the 32,767 characters of an Excel cell; write CSV or JSONL")
    with file_written_whole(path) as partial, partial.open("wb") as file:
        try:
            with pandas.ExcelWriter(file, engine="openpyxl") as writer:
                pandas.DataFrame(records, columns=_HEADER).to_excel(writer, index=False)
                for cell in (cell for row in writer.book.active.iter_rows() for cell in row if cell.value is not None):
                    cell.data_type = "s"  # or "=1+1" would be a formula, and "#N/A" an error
        except (IllegalCharacterError, ValueError) as error:  # ValueError: more rows than a sheet has
            raise DatasetError(f"{path}: Excel cannot hold it ({error}); write CSV or JSONL") from error


def _escaped(text: str) -> str:
    """Write a carriage return, which XML turns into a line feed, as Excel does; and `_x000D_` so that it stays one."""
    return re.sub(r"_(?=x[0-9A-Fa-f]{4}_)", "_x005F_", text).replace("\r", "_x000D_")


def write_parquet(rows: Iterable[Row], path: Path) -> None:
    """Write Parquet: a row for each question, with lists of chunks."""
    import pyarrow
    import pyarrow.parquet

    texts = pyarrow.list_(pyarrow.string())
    schema = pyarrow.schema({name: texts if name in ("good", "bad") else pyarrow.string() for name in _HEADER})
    records = map(record, rows)
    with file_written_whole(path) as partial, pyarrow.parquet.ParquetWriter(partial, schema) as writer:
        while block := list(islice(records, _WRITTEN_AT_ONCE)):
            writer.write_table(pyarrow.Table.from_pylist(block, schema))


_HEADER = ["question", "good", "bad", "date", "document"]


def record(row: Row) -> dict[str, Any]:
    """Return a row as column -> value, with chunks as lists of texts; date and document only if known."""
    texts: dict[str, Any] = {
        "question": row.query,
        "good": [chunk.text for chunk in row.good],
        "bad": [chunk.text for chunk in row.bad],
    }
    return texts | {name: value for name, value in (("date", row.date), ("document", row.document)) if value}


def _pairs(row: Row) -> Iterator[dict[str, str]]:
    for good, bad in zip_longest(row.good, row.bad):
        texts = {"good": good.text if good else "", "bad": bad.text if bad else ""}
        yield {"question": row.query, **texts, "date": row.date, "document": row.document}


def _row(fields: Fields, columns: Columns, good_score: float | None) -> Row:
    query = fields.text_or_digits(columns.question)
    good, bad = (
        chunks(text for column in named for text in fields.texts(column)) for named in (columns.good, columns.bad)
    )
    if columns.score and not _is_good(fields.value(columns.score), columns.score, good_score):
        good, bad = (), (*good, *bad)
    date = fields.optional_text(columns.date) if columns.date else ""
    document = fields.optional_text(columns.document) if columns.document else ""
    # A blank question is identified by its row, so that it can be found and is not merged with other blank ones.
    query_id = text_id(query) if query.strip() else fields.place
    return Row(query_id, query, good, bad, date, document)


def _is_good(value: Any, column: str, good_score: float | None) -> bool:
    word = _VERDICT_WORDS.get(str(value).strip().casefold())
    if word is not None:
        return word
    try:
        score = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordFault(f"{column}: not a score; write 1 or 0", value) from error
    if good_score is not None and score == score:
        return score >= good_score
    if score not in (0.0, 1.0):
        raise RecordFault(
            f"{column}: neither 0 nor 1; say from which score on a chunk is good with --good-score X (of: embtune "
            "convert, embtune prepare)",
            value,
        )
    return score == 1.0


def _listed(names: Iterable[str]) -> str:
    # Shortened, as a file without a header has texts here.
    shown = sorted(repr(cut(str(name))) for name in names)
    return ", ".join(shown[:12]) + (" …" if len(shown) > 12 else "")


# Name of the format, kinds of content that it reads, and the function that writes it.
_TABLES: tuple[tuple[str, tuple[Container, ...], Callable[[Iterable[Row], Path], None]], ...] = (
    ("jsonl", ("JSONL", "JSON list"), write_lines),
    ("csv", ("delimited text",), write_delimited),
    ("excel", ("Excel",), write_excel),
    ("parquet", ("Parquet",), write_parquet),
)


def _is_in(containers: tuple[Container, ...]) -> Callable[[Source], bool]:
    return lambda source: source.container in containers


TABLES = tuple(
    row_format(
        name=name,
        layout=f"{' or '.join(containers)}: question, good[, bad][, score][, date][, document]",
        recognises=_is_in(containers),
        rows=rows,
        write_rows=write_rows,
        takes_columns=True,
    )
    for name, containers, write_rows in _TABLES
)
