"""New output files and folders: nothing is overwritten, and nothing is left behind on failure."""

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
    """Refuse, before any work is done, a path where no new file or folder can be put.

    Raises:
        DatasetError: If something is there, even a dangling link, or the folder above cannot be written to.
    """
    if os.path.lexists(path):
        raise DatasetError(f"{path}: exists already; give a name that does not, or remove it first")
    if fault := fault_of_destination(path):
        raise DatasetError(f"{path}: {fault}; give another path")


def is_private(source: Path) -> bool:
    """Tell whether only its owner can access a file or folder, as with harvested questions."""
    return source.exists() and not source.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)


@contextmanager
def moved_when_good(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path of the same name; what the block writes there is moved to `path` at the end.

    If the block raises, it is removed, and no folder above `path` has been made.

    Args:
        path: Where the file or folder goes.
        private: Whether only its owner may read it and everything in it.

    Raises:
        DatasetError: If something exists at `path` by then.
    """
    above = folder_above(path)
    with tempfile.TemporaryDirectory(prefix=".embtune-", dir=above) as folder:
        partial = Path(folder) / path.name
        yield partial
        if private:
            for each in [partial, *partial.rglob("*")]:
                each.chmod(stat.S_IRWXU if each.is_dir() else PRIVATE)
        path.parent.mkdir(parents=True, exist_ok=True)  # before it is looked for, as in new/../path
        refuse_existing_output(path)
        partial.rename(path)
