"""How a file's faults are told: what is wrong, the first offender, and how many there are."""

from collections.abc import Iterable
from pathlib import Path

from docsgpt_embtune.errors import DatasetError


def offence(path: Path, what: str, offenders: Iterable[str], *, of: str) -> str:
    """Word a fault, or give an empty string where nobody offends."""
    found = list(offenders)
    return _worded(path, what, found[0], len(found), of) if found else ""


def refuse(path: Path, what: str, offenders: Iterable[str], total: int) -> None:
    """Raise if anybody offends.

    Args:
        path: The file at fault.
        what: The fault.
        offenders: Ids of those that have it.
        total: How many were looked at.

    Raises:
        DatasetError: Naming the first offender and how many there are.
    """
    message = offence(path, what, (f"'{offender}'" for offender in offenders), of=str(total))
    if message:
        raise DatasetError(message)


class Offences:
    """Faults met while a file streams past, told when it has ended: the first of a kind, and their number.

    Args:
        path: The file that is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._first: dict[str, str] = {}
        self._count: dict[str, int] = {}

    def add(self, what: str, offender: str) -> None:
        """Note one offender."""
        self._first.setdefault(what, offender)
        self._count[what] = self._count.get(what, 0) + 1

    def refuse(self, total: int) -> None:
        """Raise if there was any, with the kind that was met first.

        Raises:
            DatasetError: Naming the first offender and how many there are.
        """
        for what, offender in self._first.items():
            raise DatasetError(_worded(self.path, what, offender, self._count[what], str(total)))


def _worded(path: Path, what: str, first: str, count: int, of: str) -> str:
    return f"{path}: {what}: {first} (first of {count}, of {of})"
