"""Writing that leaves the old file, or the new one, and never a half."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
PUBLIC = 0o644  # mkstemp's 0600 would lock out a container's own user
PRIVATE = 0o600  # what users typed is nobody else's to read


def write_text_atomically(path: Path, text: str, *, mode: int = PUBLIC) -> None:
    """Write UTF-8 beside the target, then rename, so that a reader never sees a part of it."""
    write_bytes_atomically(path, text.encode("utf-8"), mode=mode)


def write_bytes_atomically(path: Path, content: bytes, *, mode: int = PUBLIC) -> None:
    """Write beside the target, then rename, so that a reader never sees a part of it."""
    with file_written_whole(path, mode=mode) as partial:
        partial.write_bytes(content)


@contextmanager
def file_written_whole(path: Path, *, mode: int = PUBLIC) -> Iterator[Path]:
    """Yield an empty file beside `path` that takes its place when the block ends well.

    A link stays a link: what it names is replaced. The new file keeps the old one's owner, where that is allowed.
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
    """Yield an empty folder beside `path` that takes its place when the block ends well.

    On any exception, Ctrl-C included, the new folder is removed and what stood at `path` stays. A link stays a link:
    the folder that it names is replaced.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp's 0700 would lock out a container's own user
        _put_in_place(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def tells_of_full_disk(error: Exception) -> bool:
    """Tell whether an error says that a disk is full: by its number, or by its words where a library has its own."""
    return getattr(error, "errno", None) in _FULL or os.strerror(errno.ENOSPC) in str(error)


def keep_owner(partial: Path, path: Path) -> None:
    """Give a file that is to take another's place that one's owner, where that is allowed."""
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
    """Hash a file's bytes: hex sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
