"""A cache of question and chunk vectors on disk, read one shard at a time."""

import hashlib
import io
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.destinations import fault_of_destination, lack_of_room
from docsgpt_embtune.errors import EvaluationError
from docsgpt_embtune.files import PARTIAL, write_bytes_atomically
from docsgpt_embtune.progress import Bar
from docsgpt_embtune.vectors import EmbeddingModel, EmbedTexts, Vectors

logger = logging.getLogger(__name__)

Kind = Literal["query", "document"]  # a model may embed the two differently, so their vectors have separate keys
Shard = tuple[npt.NDArray[np.int64], Vectors]  # (n,) positions among the texts, ascending, and (n, D) vectors

# Texts embedded in one call and written as one file: the most that an interrupted run loses, and one step of the
# progress bar. A 12-layer model takes half a minute for them on a slow core, and a server gets them as four requests
# at once.
ROWS_PER_BLOCK = 128
BLOCKS_PER_SHARD = 256  # searched together, 32,768 vectors; smaller shards are slower, each starting without a best
_DIGEST = 16  # bytes
_LEFTOVER_AGE = 3600.0  # seconds; a block is written within one, so an older partial file is from a killed run


@dataclass(frozen=True)
class StoredVectors:
    """Vectors of a list of N texts, on disk.

    Attributes:
        blocks: Files that hold the vectors.
        block_of: (N,) index into `blocks`, for each text.
        row_of: (N,) row in that block, for each text.
        dimension: Width of the vectors.
    """

    blocks: Sequence[Path]
    block_of: npt.NDArray[np.int32]
    row_of: npt.NDArray[np.int32]
    dimension: int

    def __len__(self) -> int:
        """Count the texts."""
        return len(self.block_of)

    def shards(self) -> Iterator[Shard]:
        """Yield all vectors, a group of blocks at a time; equal texts share one vector."""
        by_block = np.argsort(self.block_of, kind="stable")
        starts = np.searchsorted(self.block_of[by_block], np.arange(0, len(self.blocks) + 1))
        for first in range(0, len(self.blocks), BLOCKS_PER_SHARD):
            last = min(first + BLOCKS_PER_SHARD, len(self.blocks))
            positions = by_block[starts[first] : starts[last]]
            if positions.size:
                yield self._read(np.sort(positions))

    def array(self) -> Vectors:
        """Read all vectors into memory: (N, D), in the order of the texts."""
        vectors = np.empty((len(self), self.dimension), dtype=np.float32)
        for positions, shard in self.shards():
            vectors[positions] = shard
        return vectors

    def _read(self, positions: npt.NDArray[np.int64]) -> Shard:
        vectors = np.empty((len(positions), self.dimension), dtype=np.float32)
        blocks = self.block_of[positions]
        for block in np.unique(blocks):
            here = np.flatnonzero(blocks == block)
            # Mapped anew each time: an open memory map keeps every page that was read in memory.
            mapped = np.load(self.blocks[block], mmap_mode="r")
            vectors[here] = mapped["vector"][self.row_of[positions[here]]]
        return positions, vectors


class VectorCache:
    """The cached vectors of one model, in a folder of blocks.

    Each block is a file of at most 128 rows (digest of the text, checksum, float32 vector). Blocks are written
    atomically. The checksum covers text, vector and model: if a row was changed or comes from another model, its block
    is deleted and the texts are embedded again.

    Args:
        folder: Folder for the blocks of all models.
        fingerprint: Hex digest of what determines the model's vectors, of at most 64 bytes.
        dimension: Width of the vectors.
    """

    def __init__(self, folder: Path, fingerprint: str, dimension: int) -> None:
        self.folder = folder / fingerprint[:32]
        self.dimension = dimension
        self._secret = bytes.fromhex(fingerprint)
        self._row = np.dtype([("key", f"V{_DIGEST}"), ("check", f"V{_DIGEST}"), ("vector", "<f4", (dimension,))])

    def embed(self, texts: Sequence[str], kind: Kind, call: EmbedTexts, label: str | None = None) -> StoredVectors:
        """Look texts up, and embed those that are missing.

        Missing texts are embedded longest first, in blocks of 128: texts of similar length waste no padding, and a
        resumed run writes the same blocks as an uninterrupted one.

        Args:
            texts: Texts in any order, with or without duplicates.
            kind: Whether `call` embeds queries or documents.
            call: Function that embeds texts.
            label: Name of the texts in the progress bar; without one, there is no bar.

        Raises:
            EvaluationError: If a vector is not finite or not `dimension` wide, or the disk is full.
        """
        keys = [self._key(kind, text) for text in texts]
        text_of = dict(zip(keys, texts, strict=True))
        blocks, places = self._find(text_of.keys())
        missing = sorted((key for key in text_of if key not in places), key=lambda key: (-len(text_of[key]), key))
        self._remove_leftovers()
        self._refuse_full_disk(len(missing))
        done = len(text_of) - len(missing)
        with Bar(total=len(text_of), initial=done, desc=label, unit=kind, disable=label is None) as progress:
            for start in range(0, len(missing), ROWS_PER_BLOCK):
                block = missing[start : start + ROWS_PER_BLOCK]
                block_texts = [text_of[key] for key in block]
                vectors = _checked(call(block_texts), block_texts, self.dimension)
                blocks.append(self._write(block, vectors))
                places.update((key, (len(blocks) - 1, row)) for row, key in enumerate(block))
                progress.update(len(block))
        found = np.array([places[key] for key in keys], dtype=np.int32).reshape(-1, 2)  # (N, 2)
        return StoredVectors(blocks=blocks, block_of=found[:, 0], row_of=found[:, 1], dimension=self.dimension)

    def _key(self, kind: Kind, text: str) -> bytes:
        return hashlib.blake2b(f"{kind}\n{text}".encode("utf-8", "surrogatepass"), digest_size=_DIGEST).digest()

    def _check(self, key: bytes, vector: bytes) -> bytes:
        return hashlib.blake2b(key + vector, key=self._secret, digest_size=_DIGEST).digest()

    def _find(self, wanted: Iterable[bytes]) -> tuple[list[Path], dict[bytes, tuple[int, int]]]:
        blocks: list[Path] = []
        places: dict[bytes, tuple[int, int]] = {}
        wanted = set(wanted)
        for path in sorted(self.folder.glob("*.npy")):
            keys = self._keys_of(path)
            rows = [(key, (len(blocks), row)) for row, key in enumerate(keys) if key in wanted]
            if rows:
                blocks.append(path)
                places.update(rows)
        return blocks, places

    def _keys_of(self, path: Path) -> list[bytes]:
        try:
            block = np.load(path, allow_pickle=False)
            if block.dtype != self._row:
                raise ValueError(f"holds {block.dtype}")
            keys = [key.tobytes() for key in block["key"]]
            for key, check, vector in zip(keys, block["check"], block["vector"], strict=True):
                if self._check(key, vector.tobytes()) != check.tobytes():
                    raise ValueError("check sum")
        except OSError as error:
            raise EvaluationError(
                f"{path}: cannot be read ({error.strerror}); remove it, or give another --cache"
            ) from error
        except (ValueError, EOFError) as error:
            logger.warning("%s: not what this model wrote (%s); thrown away, its texts are embedded again", path, error)
            path.unlink(missing_ok=True)
            return []
        return keys

    def _write(self, keys: Sequence[bytes], vectors: Vectors) -> Path:
        block = np.empty(len(keys), dtype=self._row)
        block["vector"] = vectors
        for row, key in enumerate(keys):
            block["key"][row] = np.void(key)
            block["check"][row] = np.void(self._check(key, block["vector"][row].tobytes()))
        content = io.BytesIO()
        np.save(content, block)
        name = hashlib.blake2b(b"".join(keys), digest_size=_DIGEST).hexdigest()
        path = self.folder / f"{name}.npy"
        try:
            write_bytes_atomically(path, content.getvalue())
        except OSError as error:
            raise EvaluationError(
                f"{path}: cannot be written ({error.strerror}); free space or give another --cache, and run again: "
                "what is embedded stays"
            ) from error
        return path

    def _remove_leftovers(self) -> None:
        for path in self.folder.glob(PARTIAL):
            with suppress(FileNotFoundError):  # another run may have removed or renamed it meanwhile
                if time.time() - path.stat().st_mtime > _LEFTOVER_AGE:
                    path.unlink()

    def _refuse_full_disk(self, rows: int) -> None:
        needed = rows * self._row.itemsize
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EvaluationError(f"{self.folder}: cannot be made ({error.strerror}); give another --cache") from error
        if lack := lack_of_room(self.folder / "vectors", needed):
            raise EvaluationError(f"{lack} for {rows:,} vectors; free space or give another --cache")


def default_cache_folder() -> Path | None:
    """Return the folder for the vectors of all models, inside the user's cache folder.

    None if the user has none that can be written to, as in many a container.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "docsgpt-embtune" / "vectors"
    except RuntimeError:  # no HOME, and a user id that has no entry in /etc/passwd
        return None
    return None if fault_of_destination(folder / "vectors") else folder


@contextmanager
def cache_folder(folder: str | Path | None) -> Iterator[Path]:
    """Yield the given folder, or else a temporary one that is deleted when the block ends."""
    if folder is not None:
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="embtune-vectors-") as temporary:
        yield Path(temporary)


def embed_queries(model: EmbeddingModel, texts: Sequence[str], cache: VectorCache) -> Vectors:
    """Embed questions one by one, as DocsGPT does: (Q, D), in order."""
    return cache.embed(texts, "query", lambda block: [model.embed_query(text) for text in block], "questions").array()


def embed_corpus(model: EmbeddingModel, texts: Sequence[str], cache: VectorCache) -> StoredVectors:
    """Embed chunks; duplicate texts are embedded once, so that they tie exactly."""
    return cache.embed(texts, "document", model.embed_documents, "chunks")


def embed_both(
    model: EmbeddingModel, fingerprint: str, dataset: RetrievalDataset, cache: Path | None
) -> tuple[Vectors, Vectors]:
    """Embed a dataset's questions (Q, D) and its whole corpus (N, D), each in the dataset's order.

    Args:
        model: Embeds the texts that are not cached.
        fingerprint: Hex sha256 over everything that determines its vectors.
        dataset: Questions and corpus.
        cache: Folder that caches vectors; none if not given.
    """
    with cache_folder(cache) as folder:
        kept = VectorCache(folder, fingerprint, model.dimension)
        queries = embed_queries(model, list(dataset.queries.values()), kept)
        return queries, embed_corpus(model, list(dataset.corpus.values()), kept).array()


def remembered(embed: EmbedTexts, cache: VectorCache) -> EmbedTexts:
    """Wrap a function that embeds chunks so that it uses a cache, without a progress bar."""
    return lambda texts: cache.embed(texts, "document", embed).array().tolist()


class RememberedDocuments:
    """A model whose chunk vectors are cached.

    Args:
        model: Embeds questions, always anew, and the chunks that are not cached.
        cache: The model's cache.
    """

    def __init__(self, model: EmbeddingModel, cache: VectorCache) -> None:
        self.model = model
        self.cache = cache
        self.dimension = model.dimension
        self.embed_query = model.embed_query

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed chunks, in order."""
        vectors: list[list[float]] = embed_corpus(self.model, texts, self.cache).array().tolist()
        return vectors


def _checked(vectors: list[list[float]], texts: Sequence[str], dimension: int) -> Vectors:
    widths = {len(vector) for vector in vectors}
    if len(vectors) != len(texts) or widths - {dimension}:
        raise EvaluationError(
            f"the model returned {len(vectors)} vectors of width {sorted(widths)} for {len(texts)} texts, "
            f"and says that its dimension is {dimension}"
        )
    array = np.asarray(vectors, dtype=np.float32)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise EvaluationError(
            f"the model's vector is not finite for {(~finite).sum()} of {len(texts)} texts "
            f"(first: {texts[int(np.argmin(finite))][:60]!r}); train again with a lower learning rate"
        )
    return array
