"""Checks that a destination can be written, made before the work instead of after it."""

import os
import shutil
from pathlib import Path

from docsgpt_embtune.wording import megabytes


def fault_of_destination(path: Path) -> str:
    """Return why nothing can be created at a path, judging by its nearest existing parent; empty if it can."""
    above = folder_above(path)
    if not above.is_dir():
        return f"{above} is not a folder"
    if not os.access(above, os.W_OK | os.X_OK):
        return f"{above} cannot be written to"
    return ""


def lack_of_room(path: Path, needed: int) -> str:
    """Return how much is free and needed if the disk has no room for this many bytes; empty if it has.

    Args:
        path: Destination.
        needed: Bytes.
    """
    above = folder_above(path)
    free = shutil.disk_usage(above).free
    if needed <= free:
        return ""
    return f"{above} has {free / 1e6:,.0f} MB free, and {megabytes(needed)} are needed"


def folder_above(path: Path) -> Path:
    """Return the nearest existing parent of a path, which must be a folder for the path to be created."""
    above = path.absolute().parent
    while not above.exists():
        above = above.parent
    return above
