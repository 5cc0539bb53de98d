"""Atomic writes: a file or folder is either the old one or the complete new one."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
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

    On any exception, including Ctrl-C, the new folder is removed and `path` stays as it was. A link stays a link, and
    its target is replaced.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp's 0700 would lock out a container that runs as another user
        _put_in_place(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def tells_of_full_disk(error: Exception) -> bool:
    """Tell whether an error means that a disk is full, by its errno or, for libraries' own errors, by its message."""
    return getattr(error, "errno", None) in _FULL or os.strerror(errno.ENOSPC) in str(error)


def keep_owner(partial: Path, path: Path) -> None:
    """Give a new file the owner of the file that it will replace, if permitted."""
    if path.exists():
        before = path.stat()
        with suppress(PermissionError):  # only root may give a file away
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
