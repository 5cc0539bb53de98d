"""Wording of numbers, sizes and times, and the type of functions that take a line of plain text."""

import math
from collections.abc import Callable

Say = Callable[[str], None]  # takes one line of plain text


def silent(line: str) -> None:
    """Say nothing."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, whose plural takes an s: 1 question, 2,000 questions."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def megabytes(count: int) -> str:
    """Return a number of bytes in megabytes, rounded up: 5 MB."""
    return f"{math.ceil(count / 1e6):,} MB"


def clock(seconds: float) -> str:
    """Return a duration in words: 16 s, 2 min 05 s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
