"""What a format is: how it is recognised, read and written."""

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
_LIKE_AN_ID = re.compile(r"[!-~]{2,}")  # no blank, and ASCII alone: scripts without spaces have neither


@dataclass(frozen=True, kw_only=True)
class Format:
    """One layout of a dataset.

    Attributes:
        name: What `--from` and `--to` call it.
        layout: What it looks like, for lists of the formats.
        recognises: Tells from a source's content whether it is this.
        read: Reads it whole.
        write: Writes content to a path.
        reading_back: What settles a file that `write` wrote.
        takes_columns: Whether it is a table, whose columns and scores options can settle.
        has_chunks: Tells whether a source holds the chunks itself, so that no corpus need be given.
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
        """Raise where an option that somebody gave would be passed over.

        Raises:
            DatasetError: If columns or a score are told of what is no table.
        """
        given = ("--columns", options.columns), ("--good-score", options.good_score is not None)
        for flag, is_given in given:
            if is_given and not self.takes_columns:
                raise DatasetError(f"{path}: is read as {self.name}, for which {flag} is of no use; leave it out")


@dataclass(frozen=True, kw_only=True)
class RowFormat(Format):
    """A layout of one row for each question or pair, read and written without holding it in memory.

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
    """Make a format of its streams: to read whole is to collect the rows."""

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
    """Pass rows on, and refuse them in the end if what should be chunks is ids: nobody's chunks are single words."""
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
