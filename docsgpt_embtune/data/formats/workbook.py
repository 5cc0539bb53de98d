"""The rows of an Excel workbook, as it shows them."""

import re
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from docsgpt_embtune.errors import DatasetError

_FORMULA = re.compile(rb"<(\w+:)?f[\s/>]")  # in a sheet's XML


def refuse_archive_without_workbook(path: Path) -> None:
    """Raise DatasetError for another zip archive; a damaged one is left for `workbook_rows` to report."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return
    if not any(name.startswith("xl/") for name in names):
        inside = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
        raise DatasetError(f"{path}: is a zip archive and no Excel workbook ({inside}); unpack it")


def workbook_rows(path: Path) -> Iterator[tuple[Any, ...]]:
    """Read the rows of the only sheet that has any, the names of its columns first.

    Raises:
        DatasetError: If the workbook cannot be read, several sheets have rows, or a formula has no value.
    """
    import pandas

    try:
        sheets = pandas.read_excel(
            # Without a header, as pandas would rename the second of two columns "good" to "good.1".
            path,
            sheet_name=None,
            header=None,
            dtype=object,
            keep_default_na=False,
            engine="openpyxl",
        )
    except ImportError as error:
        raise DatasetError(f"{path}: Excel needs openpyxl; run: pip install openpyxl") from error
    except Exception as error:  # a damaged workbook raises whatever its zip, its XML or openpyxl stumbles over
        raise DatasetError(f"{path}: not an Excel workbook that can be read ({error})") from error
    with_rows = [name for name, sheet in sheets.items() if len(sheet) > 1] or list(sheets)[:1]
    if len(with_rows) != 1:
        raise DatasetError(
            f"{path}: has rows in {len(with_rows)} sheets ({', '.join(map(repr, with_rows))}), where one is "
            "wanted; save that one as a workbook of its own"
        )
    _refuse_formulas_without_value(path, with_rows[0])
    return (tuple(map(_unescaped, row)) for row in sheets[with_rows[0]].itertuples(index=False, name=None))


def _refuse_formulas_without_value(path: Path, sheet: str) -> None:
    """Raise if formulas have no value: libraries store a text that begins with "=" as one, and compute nothing."""
    cells = _formulas_without_value(path, sheet) if _has_formulas(path) else []
    if cells:
        shown = ", ".join(cells[:3]) + (" …" if len(cells) > 3 else "")
        raise DatasetError(
            f"{path}: holds formulas without a value (in {shown}), which would be read as empty; open it in a "
            "spreadsheet program, which computes them, and save it, or write texts that begin with '=' as CSV"
        )


def _has_formulas(workbook: Path) -> bool:
    with zipfile.ZipFile(workbook) as archive:
        sheets = [name for name in archive.namelist() if name.startswith("xl/worksheets/")]
        return any(_FORMULA.search(archive.read(name)) for name in sheets)


def _formulas_without_value(workbook: Path, sheet: str) -> list[str]:
    """Return the cells whose formulas nobody has computed, such as "B2"."""
    from openpyxl import load_workbook

    with ExitStack() as stack:
        tables = []
        for data_only in (True, False):
            file = stack.enter_context(workbook.open("rb"))  # openpyxl refuses a path without a suffix that it knows
            book = load_workbook(file, read_only=True, data_only=data_only, keep_links=False)
            stack.callback(book.close)
            book[sheet].reset_dimensions()  # which may be wrong
            tables.append(book[sheet].rows)
        pairs = (pair for rows in zip(*tables, strict=True) for pair in zip(*rows, strict=True))
        # Where a formula's result is the empty text, the type is "str".
        return [
            formula.coordinate
            for result, formula in pairs
            if formula.data_type == "f" and result.value is None and result.data_type == "n"
        ]


def _unescaped(cell: Any) -> Any:
    """Undo Excel's escapes of characters that XML cannot hold: `_x000D_` for a carriage return."""
    from openpyxl.utils.escape import unescape

    return unescape(cell) if isinstance(cell, str) and "_x" in cell else cell
