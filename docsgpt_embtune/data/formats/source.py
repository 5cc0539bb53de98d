"""A file or folder, read according to its content: as one JSON object, or as a stream of records."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow
import pyarrow.parquet

from docsgpt_embtune.data.formats.workbook import refuse_archive_without_workbook, workbook_rows
from docsgpt_embtune.data.offences import Offences, offence
from docsgpt_embtune.data.text_file import UTF8, not_utf8, told_delimiter
from docsgpt_embtune.errors import DatasetError

Container = Literal["hub", "folder", "JSON object", "JSON list", "JSONL", "delimited text", "Excel", "Parquet"]
Record = Mapping[str, Any]

# hub:ORGANISATION/NAME or hub:ORGANISATION/NAME#SPLIT. With the prefix, no mistyped path starts a download.
HUB = "hub:"
_LARGEST = 16 * 2**20  # characters of a line or value of CSV: an unclosed quote would swallow the whole file
_ROWS = 4096  # of Parquet, held in memory at a time
_DELIMITERS = ("\t", ";", ",")
_TABLE_OF_TEXT = "UTF-8 (a table in Excel as CSV UTF-8)"
# First bytes of files in another format than their names may suggest, and what to do about them.
_OTHER_PACKINGS = {
    b"\x1f\x8b": "is packed with gzip; unpack it with gunzip",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook of before 2007, or one with a password; save it as .xlsx, without one",
}


class Source:
    """A file or folder, opened when its content is asked for.

    Args:
        path: A file or a folder.

    Raises:
        DatasetError: If it cannot be read, or is not what its first bytes promise; the message names the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def container(self) -> Container:
        """The kind of content, recognised by the first bytes; JSONL of a single line only by the file's name."""
        if str(self.path).startswith(HUB):
            return "hub"
        if self.path.is_dir():
            return "folder"
        with self._open("rb") as file:
            start = file.read(4096)
        if start.startswith(b"PAR1"):
            return "Parquet"
        if start.startswith(b"PK\x03\x04"):
            refuse_archive_without_workbook(self.path)
            return "Excel"
        for magic, what in _OTHER_PACKINGS.items():
            if start.startswith(magic):
                raise DatasetError(f"{self.path}: {what}")
        opening = start.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")[:1]
        if opening == "[" or (self.path.suffix == ".json" and opening != "{"):
            return "JSON list" if opening == "[" and isinstance(self._json, list) else "JSON object"
        if opening == "{":
            return "JSONL" if self._is_one_object_a_line() else "JSON object"
        return "delimited text"

    @cached_property
    def fields(self) -> frozenset[str]:
        """Keys of the object, or columns of the records (of JSONL: of the first hundred lines)."""
        if self.container in ("hub", "folder"):
            return frozenset()
        if self.container == "JSON object":
            return frozenset(self.object)
        if self.container == "Parquet":
            return frozenset(self._parquet().schema_arrow.names)
        if self.container == "delimited text":
            return frozenset(self._header()[1])
        read = islice(self.records(), 100) if self.container == "JSONL" else self.records()
        return frozenset(name for record in read for name in record)

    @cached_property
    def object(self) -> dict[str, Any]:
        """The file's content as a JSON object."""
        if not isinstance(self._json, dict):
            raise DatasetError(
                f"{self.path}: holds a JSON {json_type(self._json)}; a dataset is an object with a key 'queries'"
            )
        return self._json

    @property
    def has_records(self) -> bool:
        """Whether the content is rows with named columns."""
        return self.container not in ("hub", "folder", "JSON object")

    def records(self) -> Iterator[Record]:
        """Stream the rows, in bounded memory except for JSON lists and Excel sheets."""
        readers = {
            "JSON list": self._list_records,
            "JSONL": self._line_records,
            "delimited text": self._delimited_records,
            "Excel": self._excel_records,
            "Parquet": self._parquet_records,
        }
        if self.container not in readers:
            raise DatasetError(f"{self.path}: a {self.container}, where rows with named columns are wanted")
        return readers[self.container]()

    def numbered_records(self) -> Iterator[tuple[int, Record]]:
        """Stream (number from 1, row), without the blank rows that spreadsheets leave."""
        blank_rows = self.container in ("delimited text", "Excel")
        for number, record in enumerate(self.records(), 1):
            if not (blank_rows and all(map(_is_blank, record.values()))):
                yield number, record

    def place(self, number: int) -> str:
        """Name a numbered row for a message; in Excel, where the names are row 1, as the sheet counts."""
        return f"row {number + (self.container == 'Excel')}"

    def _open(self, mode: str, newline: str | None = None) -> IO[Any]:
        try:
            return self.path.open(mode, encoding=None if "b" in mode else UTF8, newline=newline)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = getattr(error, "strerror", None) or error
            raise DatasetError(f"{self.path}: cannot be read ({reason}); check the path") from error

    @cached_property
    def _json(self) -> Any:
        try:
            with self._open("r") as file:
                return json.load(file, object_pairs_hook=_with_each_key_once)
        except _KeysTwiceError as error:
            raise DatasetError(
                offence(self.path, "key stands twice in one object", map(repr, error.keys), of="keys")
            ) from error
        except UnicodeDecodeError as error:
            raise not_utf8(self.path, error) from error
        except json.JSONDecodeError as error:
            raise DatasetError(
                f"{self.path}: not JSON (line {error.lineno}, column {error.colno}: {error.msg})"
            ) from error
        except (RecursionError, ValueError) as error:  # ValueError: a number of more digits than Python converts
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise DatasetError(f"{self.path}: not JSON that a dataset is made of ({reason})") from error

    def _is_one_object_a_line(self) -> bool:
        if self.path.suffix in (".jsonl", ".ndjson"):
            return True
        with self._open("rb") as file:
            first = file.readline()
            more = any(line.strip() for line in islice(file, 3))
        try:
            return isinstance(json.loads(first.decode(UTF8)), dict) and more
        except (ValueError, RecursionError):
            return False

    def _list_records(self) -> Iterator[Record]:
        offences = Offences(self.path)
        for number, record in enumerate(self._json, 1):
            if isinstance(record, dict):
                yield record
            else:
                offences.add("not an object with named columns", f"item {number}")
        offences.refuse(len(self._json))

    def _line_records(self) -> Iterator[Record]:
        offences = Offences(self.path)
        number = 0
        with self._open("r") as file:
            try:
                for number, line in enumerate(file, 1):
                    if not line.strip():
                        continue
                    try:
                        record = _json_object(line)
                    except _KeysTwiceError:
                        offences.add("key stands twice in one object", f"line {number}")
                        continue
                    if record is None:
                        offences.add("not a JSON object", f"line {number}")
                    else:
                        yield record
            except UnicodeDecodeError as error:
                raise not_utf8(self.path, error) from error
        offences.refuse(number)

    def _header(self) -> tuple[str, list[str]]:
        with self._open("r", newline="") as file:
            try:
                line = file.readline(_LARGEST)
                delimiter = told_delimiter(line) or max(_DELIMITERS, key=line.count)
                if delimiter not in line:
                    raise DatasetError(
                        f"{self.path}: neither JSON, JSONL, CSV, TSV, Excel nor Parquet (its first line has no columns)"
                    )
                file.seek(0)
                return delimiter, _all_named(next(self._rows(file, delimiter), (1, []))[1])
            except UnicodeDecodeError as error:
                raise not_utf8(self.path, error, save_as=_TABLE_OF_TEXT) from error

    def _delimited_records(self) -> Iterator[Record]:
        delimiter, names = self._header()
        self._refuse_columns_twice(names)
        offences = Offences(self.path)
        number = 0
        with self._open("r", newline="") as file:
            rows = self._rows(file, delimiter)
            try:
                next(rows)
                for line, values in rows:
                    number += 1
                    if len(values) == len(names):
                        yield dict(zip(names, values, strict=True))
                    else:
                        what = f"not {len(names)} columns, as in the first line, but {len(values)}"
                        offences.add(what, f"line {line}")
            except UnicodeDecodeError as error:
                raise not_utf8(self.path, error, save_as=_TABLE_OF_TEXT) from error
        offences.refuse(number)

    def _rows(self, file: IO[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
        """Stream (line on which the row begins, row), without empty lines."""
        csv.field_size_limit(_LARGEST)  # for the whole process; Python's default is 128 KiB
        reader = csv.reader(self._lines(file), delimiter=delimiter, strict=True)
        line = 1
        try:
            for values in reader:
                if values and not (line == 1 and told_delimiter(delimiter.join(values))):
                    yield line, values
                line = reader.line_num + 1
        except csv.Error as error:
            raise DatasetError(
                f"{self.path}: the row that begins in line {line} cannot be read ({error}); a quote in it is not "
                'closed, or stands within a quoted value and is not doubled ("")'
            ) from error

    def _lines(self, file: IO[str]) -> Iterator[str]:
        for number, line in enumerate(iter(lambda: file.readline(_LARGEST), ""), 1):
            if len(line) == _LARGEST:
                raise DatasetError(
                    f"{self.path}: line {number} has {_LARGEST:,} characters or more; no text is so long"
                )
            yield line

    def _parquet(self) -> pyarrow.parquet.ParquetFile:
        with arrow_errors(self.path):
            return pyarrow.parquet.ParquetFile(self.path)

    def _parquet_records(self) -> Iterator[Record]:
        file = self._parquet()
        self._refuse_columns_twice(file.schema_arrow.names)
        with arrow_errors(self.path):
            for batch in file.iter_batches(batch_size=_ROWS):
                yield from batch.to_pylist()

    def _excel_records(self) -> Iterator[Record]:
        rows = workbook_rows(self.path)
        names = _all_named(map(str, next(rows, ())))
        self._refuse_columns_twice(names)
        return (dict(zip(names, values, strict=True)) for values in rows)

    def _refuse_columns_twice(self, names: list[str]) -> None:
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise DatasetError(offence(self.path, "column stands twice", map(repr, twice), of=str(len(names))))


def _all_named(header: Iterable[str]) -> list[str]:
    """Name columns without a name by their number: spreadsheets leave some, mostly empty."""
    return [name if name.strip() else f"column {number}" for number, name in enumerate(header, 1)]


@contextmanager
def arrow_errors(path: Path) -> Iterator[None]:
    """Turn Arrow's errors into a DatasetError that names the file."""
    try:
        yield
    # Damaged Parquet shows as any of these: a broken schema as ValueError, a made-up length as MemoryError.
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DatasetError(f"{path}: cannot be read ({error})") from error


class _KeysTwiceError(Exception):
    """A JSON object repeats keys, of which Python would silently keep the last."""

    def __init__(self, keys: list[str]) -> None:
        super().__init__()
        self.keys = keys


def _with_each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _KeysTwiceError([key for key, count in Counter(key for key, _ in pairs).items() if count > 1])
    return found


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line, object_pairs_hook=_with_each_key_once)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _is_blank(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def json_type(value: Any) -> str:
    """Name a JSON value's type as JSON does."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
