"""Reading text files: uniform errors, and the line in which Excel names the delimiter."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from docsgpt_embtune.errors import DatasetError

UTF8 = "utf-8-sig"  # spreadsheets write a byte order mark
_TOLD_DELIMITER = re.compile(r'"?sep=([^"\w\s]|\t)"?\s*', re.IGNORECASE)


@contextmanager
def reading(path: Path, *, save_as: str = "UTF-8") -> Iterator[None]:
    """Turn errors of the block, which reads a file, into errors that name the file.

    Args:
        path: The file.
        save_as: What to save a file as that is not UTF-8, in the words of the program that writes it.

    Raises:
        DatasetError: If the file cannot be read or is not UTF-8.
    """
    try:
        yield
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except UnicodeDecodeError as error:
        raise not_utf8(path, error, save_as=save_as) from error


def not_utf8(path: Path, error: UnicodeDecodeError, *, save_as: str = "UTF-8") -> DatasetError:
    """Make the error that says where a file stops being UTF-8."""
    return DatasetError(f"{path}: not UTF-8 (byte {error.start}); save it as {save_as}")


def told_delimiter(line: str) -> str | None:
    """Return the delimiter that a `sep=` line names, which Excel accepts before the header, or None for other lines."""
    told = _TOLD_DELIMITER.fullmatch(line)
    return told[1] if told else None
