"""A lock on an open file, which needs no library that DocsGPT's Python may lack, or have in an old version."""

from importlib.util import find_spec
from typing import IO

from docsgpt_embtune.errors import DeploymentError


def lock(file: IO[bytes], *, wait: bool = False) -> None:
    """Lock an open file; the lock is released when it is closed or the process ends, however it ends.

    Raises:
        BlockingIOError: If another process has the lock, and this one is not to wait for it.
        DeploymentError: On Windows.
        OSError: If the file system has no locks.
    """
    refuse_windows()
    import fcntl  # not at the top: `doctor` and `chunks` import this module on Windows, too

    fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def refuse_windows() -> None:
    """Raise DeploymentError on Windows, which cannot lock, sync and replace as a switch in one step takes it."""
    if find_spec("fcntl") is None:
        raise DeploymentError(
            "re-embedding takes locks and renames that Windows does not have; run it where DocsGPT runs, in its "
            "container, or under WSL"
        )
