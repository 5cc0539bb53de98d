"""The definition of a dataset format: how it is recognised, read and written."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from docsgpt_embtune.data.formats.content import DatasetContent, Row, collect, placed_in, rows_of
from docsgpt_embtune.data.formats.options import ReadOptions
from docsgpt_embtune.data.formats.source import Source
from docsgpt_embtune.data.formats.texts import read_corpus
from docsgpt_embtune.errors import DatasetError

_FEWEST_IDS = 5
_LIKE_AN_ID = re.compile(r"[!-~]{2,}")  # ASCII without a blank, unlike text in scripts without spaces


@dataclass(frozen=True, kw_only=True)
class Format:
    """One format of dataset files.

    Attributes:
        name: Its name for `--from` and `--to`.
        layout: A short description, for lists of the formats.
        recognises: Tells from a source's content whether it has this format.
        read: Reads a source whole.
        write: Writes content to a path.
        reading_back: Options needed to read what `write` wrote.
        takes_columns: Whether it is a table, so that options for its columns and scores apply.
        has_chunks: Tells whether a source holds the chunks itself, so that it needs no separate corpus.
    """

    name: str
    layout: str
    recognises: Callable[[Source], bool]
    read: Callable[[Source, ReadOptions], DatasetContent]
    write: Callable[[DatasetContent, Path], None]
    reading_back: ReadOptions = field(default_factory=ReadOptions)
    takes_columns: bool = False
    has_chunks: Callable[[Source], bool] = lambda _source: True

    def refuse_useless(self, options: ReadOptions, path: Path) -> None:
        """Refuse a given option that would be ignored.

        Raises:
            DatasetError: If columns or a least good score are given for a format that is not a table.
        """
        given = ("--columns", options.columns), ("--good-score", options.good_score is not None)
        for flag, is_given in given:
            if is_given and not self.takes_columns:
                raise DatasetError(f"{path}: is read as {self.name}, for which {flag} is of no use; leave it out")


@dataclass(frozen=True, kw_only=True)
class RowFormat(Format):
    """A format with one row per question or per pair, which can be streamed.

    Attributes:
        rows: Streams the rows of a source.
        write_rows: Streams rows to a path.
    """

    rows: Callable[[Source, ReadOptions], Iterator[Row]]
    write_rows: Callable[[Iterable[Row], Path], None]


def row_format(
    *,
    name: str,
    layout: str,
    recognises: Callable[[Source], bool],
    rows: Callable[[Source, ReadOptions], Iterator[Row]],
    write_rows: Callable[[Iterable[Row], Path], None],
    takes_columns: bool = False,
    has_chunks: Callable[[Source], bool] = lambda _source: True,
) -> RowFormat:
    """Build a format from functions that stream rows; reading it whole collects the rows."""

    def checked_rows(source: Source, options: ReadOptions) -> Iterator[Row]:
        found = rows(source, options)
        return found if options.corpus else _refusing_ids(source.path, found)

    return RowFormat(
        name=name,
        layout=layout,
        recognises=recognises,
        read=lambda source, options: _read_rows(source, options, checked_rows),
        write=lambda content, path: write_rows(rows_of(content), path),
        rows=checked_rows,
        write_rows=write_rows,
        takes_columns=takes_columns,
        has_chunks=has_chunks,
    )


def _refusing_ids(path: Path, rows: Iterable[Row]) -> Iterator[Row]:
    """Pass rows on; refuse them at the end if all chunks look like ids, as real chunks are not single words."""
    like_ids: set[str] = set()
    for row in rows:
        yield row
        texts = {chunk.text for chunk in (*row.good, *row.bad)}
        if not all(map(_LIKE_AN_ID.fullmatch, texts)):
            yield from rows
            return
        if len(like_ids) < _FEWEST_IDS:
            like_ids |= texts
    if len(like_ids) >= _FEWEST_IDS:
        raise DatasetError(
            f"{path}: its chunks are ids, such as {min(like_ids)!r}, and no texts; give the file that has the texts "
            "with --corpus"
        )


def _read_rows(
    source: Source, options: ReadOptions, rows: Callable[[Source, ReadOptions], Iterator[Row]]
) -> DatasetContent:
    content = collect(source.path, rows(source, options))
    if options.corpus is None:
        return content
    return placed_in(content, read_corpus(options.corpus), options.corpus, keep_unknown=options.keep_unknown)
