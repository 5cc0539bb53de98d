"""Output that must not exist yet, and that leaves nothing behind where it fails."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from docsgpt_embtune.destinations import fault_of_destination, folder_above
from docsgpt_embtune.errors import DatasetError
from docsgpt_embtune.files import PRIVATE


def refuse_existing_output(path: Path) -> None:
    """Tell before the work that a new file or folder cannot be put at a path.

    Raises:
        DatasetError: If something is there, a dangling link included, or the folder above cannot be written to.
    """
    if os.path.lexists(path):
        raise DatasetError(f"{path}: exists already; give a name that does not, or remove it first")
    if fault := fault_of_destination(path):
        raise DatasetError(f"{path}: {fault}; give another path")


def is_private(source: Path) -> bool:
    """Tell whether a file or folder is its owner's alone, as what was harvested is."""
    return source.exists() and not source.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)


@contextmanager
def moved_when_good(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield a path in a folder of its own, of the same name, for a file or folder that is moved when the block ends.

    On any exception it is removed, and no folder was made above `path`.

    Args:
        path: Where it goes.
        private: Whether it is for its owner alone to read, with all that is in it.

    Raises:
        DatasetError: If something has come to stand at `path`.
    """
    above = folder_above(path)
    with tempfile.TemporaryDirectory(prefix=".embtune-", dir=above) as folder:
        partial = Path(folder) / path.name
        yield partial
        if private:
            for each in [partial, *partial.rglob("*")]:
                each.chmod(stat.S_IRWXU if each.is_dir() else PRIVATE)
        refuse_existing_output(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(path)
