"""Typed access to the fields of records; faults are reported by row at the end of the file."""

import ast
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from docsgpt_embtune.data.formats.content import cut, digits_as_text, text_fault
from docsgpt_embtune.data.formats.source import Record, Source
from docsgpt_embtune.data.offences import Offences
from docsgpt_embtune.errors import DatasetError
from docsgpt_embtune.files import file_written_whole

T = TypeVar("T")
# A list in a cell, as Python, JSON or NumPy prints it. NumPy, which pandas uses for lists read from Parquet, prints no
# commas, so that Python's parser would concatenate the texts.
_ITEM = re.compile(r"""'(?:[^'\\\n]|\\.)*+'|"(?:[^"\\\n]|\\.)*+"|None|null|nan""")
_LIST = re.compile(rf"\[\s*+(?:(?:{_ITEM.pattern})(?:\s*+,\s*+|\s++|(?=\])))*+\]")


class RecordFault(Exception):
    """A fault of one record; `parsed` counts it and goes on to the next.

    Args:
        what: The fault, in the same words for each record that has it.
        value: The value at fault, if it helps to see it.
    """

    def __init__(self, what: str, value: Any = None) -> None:
        super().__init__(what)
        self.shown = "" if value is None else f" ({cut(str(value))!r})"


class Fields:
    """One record's fields, by type.

    Args:
        record: Column -> value.
        place: Its row, such as "row 3".
    """

    def __init__(self, record: Record, place: str = "") -> None:
        self._record = record
        self.place = place

    @property
    def names(self) -> Iterable[str]:
        """The columns that the record has."""
        return self._record.keys()

    def value(self, name: str) -> Any:
        """Return the value unchanged, or None if there is none."""
        return self._record.get(name)

    def text(self, name: str) -> str:
        """Return a text; a null is returned as blank text, which the check of the whole dataset then finds.

        Raises:
            RecordFault: If there is no such field, or it is not text.
        """
        return self._as_text(name, self._record.get(name))

    def text_or_digits(self, name: str) -> str:
        """Return a text, or a whole number as text: spreadsheets make a number of a question such as 404.

        Raises:
            RecordFault: If there is no such field, or it is neither.
        """
        return self._as_text(name, digits_as_text(self._record.get(name)))

    def optional_text(self, name: str) -> str:
        """Return a text, a number or a date as text, or "" where there is none."""
        value = self._record.get(name)
        if _is_missing(value):
            return ""
        if text_fault(str(value)):
            raise RecordFault(f"{name}: {text_fault(str(value))}")
        return str(value)

    def texts(self, name: str) -> list[str]:
        """Return a list of texts, from a list, one text, or a list in a CSV cell as printed by Python or NumPy.

        Whole numbers are taken for chunk ids, unless the list also holds texts. Missing and repeated items are left
        out.

        Raises:
            RecordFault: If it is none of these.
        """
        value = digits_as_text(self._record.get(name))
        if isinstance(value, str):
            value = _as_list(value)
        if _is_missing(value):
            return []
        if not isinstance(value, (list, tuple)):
            raise RecordFault(f"{name}: neither a text nor a list of texts, but a {type(value).__name__}")
        value = [text for text in value if not _is_missing(text)]
        if not any(isinstance(text, str) for text in value):
            value = [digits_as_text(text) for text in value]
        faults = [fault for text in value if (fault := text_fault(text))]
        if faults:
            raise RecordFault(f"{name}: {faults[0]}")
        return list(dict.fromkeys(value))

    def _as_text(self, name: str, value: object) -> str:
        if name in self._record and _is_missing(value):
            return ""
        fault = text_fault(value)
        if fault:
            raise RecordFault(f"{name}: {fault}")
        return str(value)

    def objects(self, name: str) -> list["Fields"]:
        """Return a list of objects, empty where there is none.

        Raises:
            RecordFault: If it is something else.
        """
        value = self._record.get(name)
        value = [] if value is None else value
        if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
            raise RecordFault(f"{name}: not a list of objects")
        return [Fields(item) for item in value]


def parsed(source: Source, parse: Callable[[Fields], T]) -> Iterator[T]:
    """Parse each record.

    Raises:
        DatasetError: After the last record, if any had a fault or there was no record.
    """
    offences = Offences(source.path)
    number = 0
    for number, record in source.numbered_records():
        try:
            yield parse(Fields(record, source.place(number)))
        except RecordFault as fault:
            offences.add(str(fault), f"{source.place(number)}{fault.shown}")
    offences.refuse(number)
    if not number:
        raise DatasetError(f"{source.path}: holds no row")


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Stream records to a JSONL file."""
    with file_written_whole(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _is_missing(value: Any) -> bool:
    return value is None or bool(value != value)  # NaN, which stands for an empty spreadsheet cell


def _as_list(text: str) -> list[str]:
    if not text:
        return []
    if not _LIST.fullmatch(text):
        return [text]
    try:
        return [ast.literal_eval(item) for item in _ITEM.findall(text) if item[0] in "'\""]
    except (ValueError, SyntaxError):
        return [text]  # a text that happens to stand in brackets
