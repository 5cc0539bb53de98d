"""Whether something can be written where it is to go: told before the work, and not after it."""

import os
import shutil
from pathlib import Path

from docsgpt_embtune.wording import megabytes


def fault_of_destination(path: Path) -> str:
    """Say why nothing can be put at a path, by the folder above it; empty where something can."""
    above = folder_above(path)
    if not above.is_dir():
        return f"{above} is not a folder"
    if not os.access(above, os.W_OK | os.X_OK):
        return f"{above} cannot be written to"
    return ""


def lack_of_room(path: Path, needed: int) -> str:
    """Say what is free and what is needed where a disk has no room for so many bytes at a path; empty where it has."""
    above = folder_above(path)
    free = shutil.disk_usage(above).free
    if needed <= free:
        return ""
    return f"{above} has {free / 1e6:,.0f} MB free, and {megabytes(needed)} are needed"


def folder_above(path: Path) -> Path:
    """Return the nearest that is there of what a path lies in: a folder, where something can be put at the path."""
    above = path.absolute().parent
    while not above.exists():
        above = above.parent
    return above
