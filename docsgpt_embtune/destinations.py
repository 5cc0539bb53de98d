"""Whether something can be written where it is to go: told before the work, and not after it."""

import os
from pathlib import Path


def fault_of_destination(path: Path) -> str:
    """Say why nothing can be put at a path, by the folder above it; empty where something can."""
    above = path.absolute().parent
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        return f"{above} is no folder"
    if not os.access(above, os.W_OK | os.X_OK):
        return f"{above} cannot be written to"
    return ""
