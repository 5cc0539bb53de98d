"""Computed vectors on disk, written as they come, so that an interrupted run never embeds a text twice."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np

from docsgpt_embtune.deployment.deployed_model import DeployedModel
from docsgpt_embtune.deployment.file_lock import lock
from docsgpt_embtune.errors import DeploymentError
from docsgpt_embtune.progress import Bar
from docsgpt_embtune.vectors import Vectors

BLOCK = 256  # texts between two writes; a crash loses the vectors of at most one block
DIGEST_BYTES = 32


class VectorJournal:
    """Map of text -> vector for one model, appended block by block; an incomplete block is dropped at the next start.

    There are two files: the vectors as raw float32 rows, and the sha256 of each row's text. The vectors of a block are
    on disk before its keys are written, so every key has its vector.

    Args:
        folder: Folder of the files; created if missing.
        model: The model to embed with. Its fingerprint is in the file names, so models never share vectors.

    Raises:
        DeploymentError: If another process is using the journal.
    """

    def __init__(self, folder: Path, model: DeployedModel) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._model = model
        self._vectors_path, self._keys_path = _paths(folder, model)
        self._lock = self._keys_path.open("ab")
        try:
            lock(self._lock)
        except BlockingIOError as error:
            self._lock.close()
            raise DeploymentError(f"{folder}: another re-embedding is at work here; wait for it, or end it") from error
        self._row_of = self._recover()

    def __contains__(self, text: str) -> bool:
        """Tell whether the journal has a text's vector."""
        return _key(text) in self._row_of

    def embed_missing(self, texts: Iterable[str], *, label: str = "") -> None:
        """Embed the texts that are missing, each distinct one once, longest first, with progress on stderr."""
        missing = sorted({text for text in texts if text not in self}, key=len, reverse=True)
        with Bar(total=len(missing), desc=f"embedding {label}".strip(), unit="chunk") as progress:
            for start in range(0, len(missing), BLOCK):
                block = missing[start : start + BLOCK]
                self._append(block, self._model.embed_many(block))
                progress.update(len(block))

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Read the vectors of embedded texts: (N, D), in order."""
        if not texts:
            return np.empty((0, self._model.dimension), dtype=np.float32)
        stored = np.memmap(self._vectors_path, dtype=np.float32, mode="r").reshape(-1, self._model.dimension)
        return np.asarray(stored[[self._row_of[_key(text)] for text in texts]])

    def close(self) -> None:
        """Release the lock, so that another process can open the journal."""
        self._lock.close()

    def __enter__(self) -> Self:
        """Return the journal, which is closed at the end of the context."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the journal."""
        self.close()

    def _append(self, texts: Sequence[str], vectors: Vectors) -> None:
        keys = [_key(text) for text in texts]
        for path, content in ((self._vectors_path, vectors.tobytes()), (self._keys_path, b"".join(keys))):
            with path.open("ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        self._row_of.update({key: row for row, key in enumerate(keys, start=len(self._row_of))})

    def _recover(self) -> dict[bytes, int]:
        for path in (self._vectors_path, self._keys_path):
            path.touch()
        keys = _whole_keys(self._vectors_path, self._keys_path, self._model)
        os.truncate(self._vectors_path, len(keys) * _row_bytes(self._model))
        os.truncate(self._keys_path, len(keys) * DIGEST_BYTES)
        return {key: row for row, key in enumerate(keys)}


def remove_idle(folder: Path) -> None:
    """Delete a folder's journals that no process is using; one that cannot be deleted is left, and only takes room."""
    for keys_path in folder.glob("*.keys"):
        with suppress(OSError), keys_path.open("ab") as opened:
            lock(opened)
            keys_path.with_suffix(".vectors").unlink(missing_ok=True)
            keys_path.unlink()


def not_embedded(folder: Path, model: DeployedModel, texts: Iterable[str]) -> list[str]:
    """List the distinct texts that a journal lacks, sorted; it is read without a lock, even while it is in use.

    Args:
        folder: The journal's folder; it need not have a journal yet.
        model: The journal's model.
        texts: The texts to look up.
    """
    try:
        keys = set(_whole_keys(*_paths(folder, model), model))
    except FileNotFoundError:
        keys = set()
    return sorted(text for text in set(texts) if _key(text) not in keys)


def _paths(folder: Path, model: DeployedModel) -> tuple[Path, Path]:
    name = f"{model.fingerprint[:16]}-{model.dimension}"
    return folder / f"{name}.vectors", folder / f"{name}.keys"


def _row_bytes(model: DeployedModel) -> int:
    return 4 * model.dimension


def _whole_keys(vectors_path: Path, keys_path: Path, model: DeployedModel) -> list[bytes]:
    whole_rows = min(vectors_path.stat().st_size // _row_bytes(model), keys_path.stat().st_size // DIGEST_BYTES)
    keys = keys_path.read_bytes()
    return [keys[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES] for row in range(whole_rows)]


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
