"""Atomic writes: a file or folder is either the old one or the complete new one."""

import errno
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PARTIAL = ".*.partial"  # names of files and folders that are being written, or were left by a run that was killed
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LONGEST_REMOVAL = 10.0  # seconds for which another run may have a new folder locked, taking it for a leftover
PUBLIC = 0o644  # mkstemp's 0600 would lock out a container that runs as another user
PRIVATE = 0o600  # for users' questions, which nobody else may read


def write_text_atomically(path: Path, text: str, *, mode: int = PUBLIC) -> None:
    """Write a text as UTF-8 to a file beside the target, then rename it, so that no reader sees a partial file."""
    write_bytes_atomically(path, text.encode("utf-8"), mode=mode)


def write_bytes_atomically(path: Path, content: bytes, *, mode: int = PUBLIC) -> None:
    """Write bytes to a file beside the target, then rename it, so that no reader sees a partial file."""
    with file_written_whole(path, mode=mode) as partial:
        partial.write_bytes(content)


@contextmanager
def file_written_whole(path: Path, *, mode: int = PUBLIC) -> Iterator[Path]:
    """Yield an empty file beside `path` that replaces it if the block ends without an exception.

    A link stays a link, and its target is replaced. The new file keeps the old one's owner, if permitted.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        keep_owner(partial, path)
        partial.chmod(mode)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that replaces it if the block ends without an exception.

    On any exception, including Ctrl-C, the new folder is removed and `path` stays as it was. What a run that was killed
    left is removed by the next one. A link stays a link, and its target is replaced.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    with _locked_folder_beside(path) as partial:
        try:
            yield partial
            partial.chmod(0o755)  # mkdtemp's 0700 would lock out a container that runs as another user
            _put_in_place(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextmanager
def _locked_folder_beside(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, locked so that no other run takes it for a leftover."""
    with ExitStack() as lock:
        while True:
            partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
            with suppress(OSError):  # a file system without locks: none can be had by `_remove_leftovers`, either
                lock.enter_context(locked(partial, wait=_LONGEST_REMOVAL))
            if partial.exists():  # another run may have removed it before it was locked
                break
            lock.close()
        yield partial


def _remove_leftovers(path: Path) -> None:
    """Remove the partial folders of killed runs, which no process has locked; one that cannot be removed stays."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with suppress(OSError), locked(folder):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(path: Path, *, wait: float = 0) -> Iterator[None]:
    """Keep other processes off a file or folder in the block; the lock is gone with the process, however that ends.

    The lock's file lies beside `path`, and goes with the block.

    Args:
        path: What is locked; it need not exist.
        wait: Seconds to wait for a process that has the lock.

    Raises:
        TimeoutError: If another process has the lock.
        OSError: If no file can be made beside `path`.
    """
    from filelock import FileLock  # only where something is written: serving imports this module, and needs no locks

    file = path.with_name(f"{path.name}.lock")
    try:
        with FileLock(file, timeout=wait):
            try:
                yield
            finally:
                # Before the lock is released: who waits for it sees that its file is gone, and makes a new one.
                if os.name == "posix":
                    file.unlink(missing_ok=True)
    finally:
        if os.name == "nt":  # where no file can go that somebody has open
            with suppress(OSError):
                file.unlink()


def tells_of_full_disk(error: Exception) -> bool:
    """Tell whether an error means that a disk is full, by its errno or, for libraries' own errors, by its message."""
    return getattr(error, "errno", None) in _FULL or os.strerror(errno.ENOSPC) in str(error)


def keep_owner(partial: Path, path: Path) -> None:
    """Give a new file the owner of the file that it will replace, if permitted."""
    if path.exists():
        before = path.stat()
        with suppress(PermissionError, AttributeError):  # only root may give a file away; Windows has no such owners
            os.chown(partial, before.st_uid, before.st_gid)


def _put_in_place(folder: Path, path: Path) -> None:
    if not path.exists():
        folder.rename(path)
        return
    aside = folder.with_suffix(".replaced")
    path.rename(aside)
    try:
        folder.rename(path)
    except BaseException:
        aside.rename(path)
        raise
    shutil.rmtree(aside)


def sha256_of(path: Path) -> str:
    """Return a file's hex sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
