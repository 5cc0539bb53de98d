"""Messages about a file's faults: what is wrong, the first offender, and how many there are."""

from collections.abc import Iterable
from pathlib import Path

from docsgpt_embtune.errors import DatasetError


def offence(path: Path, what: str, offenders: Iterable[str], *, of: str) -> str:
    """Return the message for a fault, or an empty string if there is no offender."""
    found = list(offenders)
    return _worded(path, what, found[0], len(found), of) if found else ""


def refuse(path: Path, what: str, offenders: Iterable[str], total: int) -> None:
    """Raise if there is an offender.

    Args:
        path: The file at fault.
        what: The fault.
        offenders: Ids of what has the fault.
        total: How many were checked.

    Raises:
        DatasetError: Naming the first offender and how many there are.
    """
    message = offence(path, what, (f"'{offender}'" for offender in offenders), of=str(total))
    if message:
        raise DatasetError(message)


class Offences:
    """Faults collected while a file is streamed, to be raised at its end: the first of a kind, and their number.

    Args:
        path: The file being read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._first: dict[str, str] = {}
        self._count: dict[str, int] = {}

    def add(self, what: str, offender: str) -> None:
        """Record one offender."""
        self._first.setdefault(what, offender)
        self._count[what] = self._count.get(what, 0) + 1

    def refuse(self, total: int) -> None:
        """Raise if there was any fault, for the kind that was met first.

        Raises:
            DatasetError: Naming the first offender and how many there are.
        """
        for what, offender in self._first.items():
            raise DatasetError(_worded(self.path, what, offender, self._count[what], str(total)))


def _worded(path: Path, what: str, first: str, count: int, of: str) -> str:
    return f"{path}: {what}: {first} (first of {count}, of {of})"
