"""Review by a person: candidates are written as a table, and the verdicts in it are read back as a dataset.

The suffix decides between CSV, for spreadsheets, and JSONL, for scripts. Only `verdict` has to be filled in: good, bad,
or nothing if it cannot be decided. The question may be edited in any of its rows. Rows may be added for other chunks of
the corpus, with `query_id`, `doc_id` and `verdict`, and so may columns, which stay with their rows.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from docsgpt_embtune.data.dataset import RetrievalDataset, query_digest
from docsgpt_embtune.data.text_file import UTF8, reading, told_delimiter
from docsgpt_embtune.errors import DatasetError
from docsgpt_embtune.files import PRIVATE, write_text_atomically
from docsgpt_embtune.sources.candidates import FIRST_SOURCE, Candidate, asked_id

COLUMNS = ("verdict", "question", "chunk", "weight", "why", "asked_on", "query_id", "doc_id")
VERDICTS = ("good", "bad", "")
MIN_WEIGHT = FIRST_SOURCE  # weight of the first chunk behind one liked answer to a first question
_RUNS_IN_SPREADSHEETS = ("=", "+", "-", "@", "\t", "\r")  # a user's text must not become a formula


def write_review(candidates: Iterable[Candidate], path: Path) -> None:
    """Write candidates as CSV or JSONL, readable by their owner alone.

    A CSV that replaces another one keeps its delimiter.

    Raises:
        DatasetError: If the suffix is neither .csv nor .jsonl, or the file to be replaced cannot be read.
    """
    candidates = list(candidates)
    text = _csv_text(candidates, path) if _is_csv(path) else _jsonl_text(candidates)
    write_text_atomically(path, text, mode=PRIVATE)


def _csv_text(candidates: Sequence[Candidate], path: Path) -> str:
    declared, delimiter, _ = _parts_of_table(_text_of(path)) if path.exists() else ("", ",", "")
    own_columns = dict.fromkeys(column for candidate in candidates for column in candidate.own)
    table = io.StringIO()
    writer = csv.DictWriter(table, [*COLUMNS, *own_columns], delimiter=delimiter)
    writer.writeheader()
    for candidate in candidates:
        row = {column: _inert(value) for column, value in _row(candidate).items()}
        writer.writerow(row | dict(candidate.own))  # these are the reviewer's: a formula there may be meant
    # Without a byte order mark, spreadsheets do not recognise UTF-8.
    return f"\ufeff{declared}{table.getvalue()}"


def _jsonl_text(candidates: Iterable[Candidate]) -> str:
    rows = (_row(candidate) | dict(candidate.own) for candidate in candidates)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _row(candidate: Candidate) -> dict[str, Any]:
    return {column: getattr(candidate, column) for column in COLUMNS}


def read_review(path: Path) -> list[Candidate]:
    """Read a review file.

    Raises:
        DatasetError: If it cannot be read, lacks a column, or has a verdict other than good, bad or nothing; the
            message names the row.
    """
    text = _text_of(path)
    rows = _csv_rows(path, text) if _is_csv(path) else _jsonl_rows(path, text)
    return [_candidate(path, number, row) for number, row in rows]


def _text_of(path: Path) -> str:
    with reading(path, save_as="CSV UTF-8"):
        return path.read_text(encoding=UTF8)


def carry_over(earlier: Iterable[Candidate], harvested: Iterable[Candidate]) -> list[Candidate]:
    """Copy what a reviewer wrote, verdicts, edited questions and columns of their own, into a new harvest.

    Args:
        earlier: Rows of the review; those into which nothing was written are ignored.
        harvested: Rows of the new harvest, without any of that.

    Returns:
        The new rows, with what was written into earlier rows on the same question and chunk; then the earlier rows
        that were not harvested again.
    """
    written: dict[tuple[str, str], list[Candidate]] = {}
    for row in earlier:
        if row.verdict or _is_mended(row) or any(row.own.values()):
            written.setdefault((row.query_id, row.doc_id), []).append(row)
    rows = []
    for row in harvested:
        before = written.pop((row.query_id, row.doc_id), [])
        rows += [_written_over(row, old) for old in before] or [row]
    return rows + [row for left in written.values() for row in left]


def _written_over(row: Candidate, old: Candidate) -> Candidate:
    return replace(row, verdict=old.verdict, question=old.question or row.question, own=old.own)


@dataclass(frozen=True)
class ReviewedDataset:
    """A dataset made from verdicts and, if accepted, from ratings.

    Attributes:
        dataset: Questions with at least one good chunk.
        reviewed: How many of them a person has judged.
        unreviewed: How many rest on ratings alone.
        left_out: Questions without a good chunk.
        odd_dates: Questions whose date is left out, as it is not an ISO date.
    """

    dataset: RetrievalDataset
    reviewed: int
    unreviewed: int
    left_out: int
    odd_dates: int


def dataset_from_candidates(
    candidates: Iterable[Candidate],
    corpus: Mapping[str, str],
    *,
    accept_unreviewed: bool = False,
    min_weight: float = MIN_WEIGHT,
    sources: tuple[str, ...] = (),
) -> ReviewedDataset:
    """Make a dataset from a person's verdicts and, only if asked to, from ratings.

    Args:
        candidates: Candidates with or without verdicts.
        corpus: The chunks: doc_id -> text.
        accept_unreviewed: Whether a question that nobody has judged may rest on its ratings.
        min_weight: Least weight of a chunk that then counts as good; ratings never make a chunk bad.
        sources: Files it was made from, for messages.

    Raises:
        DatasetError: If a judged chunk is not in the corpus, a chunk is both good and bad for a question, a question
            was edited in two ways or has no text, or no question is left.
    """
    by_question = _by_question(candidates, corpus)
    good: dict[str, tuple[str, ...]] = {}
    bad: dict[str, tuple[str, ...]] = {}
    reviewed = 0
    for query_id, rows in by_question.items():
        if any(row.verdict for row in rows):
            good[query_id], bad[query_id] = _with_verdict(rows, "good"), _with_verdict(rows, "bad")
            _refuse_contradiction(rows[0], good[query_id], bad[query_id], corpus)
            reviewed += bool(good[query_id])
        elif accept_unreviewed:
            good[query_id] = tuple(row.doc_id for row in rows if row.weight >= min_weight and row.doc_id in corpus)
        if good.get(query_id) and not any(row.question.strip() for row in rows):
            raise DatasetError(f"query_id {query_id!r} has no question in any of its rows; write it into one of them")
    answered = {query_id: by_question[query_id] for query_id, ids in good.items() if ids}
    if not answered:
        raise DatasetError(
            f"none of {len(by_question)} questions has a good chunk; mark chunks as good in the column 'verdict'"
            + ("" if accept_unreviewed else ", or let ratings count as they are: --accept-unreviewed")
        )
    asked_on = {query_id: day for query_id, rows in answered.items() if (day := rows[0].asked_on.strip())}
    dates = {query_id: iso for query_id, day in asked_on.items() if (iso := _iso_date(day))}
    dataset = RetrievalDataset(
        queries={query_id: _question(query_id, rows) for query_id, rows in answered.items()},
        corpus=corpus,
        relevant_docs={query_id: good[query_id] for query_id in answered},
        irrelevant_docs={query_id: bad[query_id] for query_id in answered if bad.get(query_id)},
        sources=sources,
        dates=dates,
    )
    return ReviewedDataset(
        dataset,
        reviewed,
        unreviewed=len(answered) - reviewed,
        left_out=len(by_question) - len(answered),
        odd_dates=len(asked_on) - len(dates),
    )


def _by_question(candidates: Iterable[Candidate], corpus: Mapping[str, str]) -> dict[str, list[Candidate]]:
    found: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        if candidate.verdict and candidate.doc_id not in corpus:
            raise DatasetError(
                f"chunk {candidate.doc_id!r} of question {candidate.question!r} is not in the corpus; give the corpus "
                "that was harvested with"
            )
        found.setdefault(candidate.query_id, []).append(candidate)
    return found


def _iso_date(day: str) -> str:
    """Return an ISO date, or "" for what a spreadsheet made of one: 3/4/2024 has two meanings."""
    try:
        return date.fromisoformat(day[:10]).isoformat()
    except ValueError:
        return ""


def _question(query_id: str, rows: Iterable[Candidate]) -> str:
    """Return the question as edited in any of its rows, or else as it was asked."""
    rows = [row for row in rows if row.question.strip()]
    mended = list(dict.fromkeys(row.question for row in rows if _is_mended(row)))
    wordings = {query_digest(text) for text in mended}
    if len(wordings) > 1:
        raise DatasetError(
            f"query_id {query_id!r} has rows with different questions, {mended[0]!r} and {mended[1]!r}; write the "
            "same into each of its rows, or leave it as it was in all but one"
        )
    return next(iter(mended or [row.question for row in rows]), "")


def _is_mended(row: Candidate) -> bool:
    return bool(row.question.strip()) and asked_id(row.question) != row.query_id


def _with_verdict(rows: Iterable[Candidate], verdict: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row.doc_id for row in rows if row.verdict == verdict))


def _refuse_contradiction(row: Candidate, good: Iterable[str], bad: Iterable[str], corpus: Mapping[str, str]) -> None:
    good_as = {corpus[doc_id]: doc_id for doc_id in good}
    for doc_id in bad:
        if (other := good_as.get(corpus[doc_id])) is not None:
            copy = "" if other == doc_id else f" (as {other!r}, which has the same text)"
            raise DatasetError(
                f"chunk {doc_id!r} is marked both good{copy} and bad for {row.question!r}; keep one of the two rows"
            )


def refuse_other_suffix(path: Path) -> None:
    """Raise DatasetError unless a path ends in .csv or .jsonl."""
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".jsonl"):
        raise DatasetError(f"{path}: a review file ends in .csv or .jsonl, not in {suffix!r}")


def _is_csv(path: Path) -> bool:
    refuse_other_suffix(path)
    return path.suffix.lower() == ".csv"


def _inert(value: Any) -> Any:
    # Text that begins with a quote of its own gets one as well, so that removing one is always right.
    risky = isinstance(value, str) and value.startswith((*_RUNS_IN_SPREADSHEETS, "'"))
    return f"'{value}" if risky else value


def _csv_rows(path: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    declared, delimiter, table = _parts_of_table(text)
    csv.field_size_limit(2**31 - 1)  # a chunk may be larger than the default
    reader = csv.DictReader(io.StringIO(table, newline=""), delimiter=delimiter)
    _require_columns(path, reader.fieldnames or ())
    above = 1 if declared else 0  # lines that the reader does not count
    try:
        return [(above + reader.line_num, _cells(row)) for row in reader]
    except csv.Error as error:
        raise DatasetError(f"{path}: line {above + reader.line_num}: not CSV ({error})") from error


def _parts_of_table(text: str) -> tuple[str, str, str]:
    """Return the line that declares a table's delimiter, empty if there is none, the delimiter, and the table."""
    first, _, rest = text.partition("\n")
    if told := told_delimiter(first):
        return f"{first}\n", told, rest
    return "", max(",;\t", key=first.count), text  # spreadsheets use the separator of their locale


def _cells(row: Mapping[str | None, Any]) -> dict[str, str]:
    ours = {column: (row.get(column) or "").removeprefix("'") for column in COLUMNS}
    return ours | {column: value or "" for column, value in row.items() if column and column not in COLUMNS}


def _jsonl_rows(path: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # besides broken JSON, numbers too long and nesting too deep
            raise DatasetError(f"{path}: line {number} is not JSON ({error})") from error
        _require_columns(path, row if isinstance(row, dict) else ())
        rows.append((number, row))
    return rows


def _require_columns(path: Path, found: Iterable[str]) -> None:
    missing = {"verdict", "question", "query_id", "doc_id"} - set(found)
    if missing:
        raise DatasetError(f"{path}: has no column {sorted(missing)[0]!r}; keep the header that harvest wrote")


def _candidate(path: Path, number: int, row: Mapping[str, Any]) -> Candidate:
    values = {column: str(row.get(column) or "") for column in COLUMNS}
    verdict = values["verdict"].strip().lower()
    if verdict not in VERDICTS:
        raise DatasetError(f"{path}: line {number}: verdict {values['verdict']!r} is neither good, bad nor empty")
    try:
        weight = float(values["weight"].replace(",", ".") or 0)  # the decimal comma of many locales
    except ValueError as error:
        if not verdict:  # with a verdict, the weight is not used
            raise DatasetError(f"{path}: line {number}: weight {values['weight']!r} is not a number") from error
        weight = 0.0
    texts = {name: value for name, value in values.items() if name not in ("verdict", "weight")}
    own = {column: value for column, value in row.items() if column not in COLUMNS}
    return Candidate(**texts, weight=weight, verdict=verdict, own=own)
