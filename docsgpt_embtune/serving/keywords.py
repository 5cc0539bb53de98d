"""Keywords beside meaning in one vector: what BM25 finds, in a store that knows vectors alone.

An embedding model blurs the names, numbers and error codes that a keyword search lives by. Here a text has a second
part beside the model's: the BM25 weight of each of its words, laid along a direction that belongs to the word. In a few
hundred dimensions random directions are nearly at right angles, so that the product of a question's part and a chunk's
is nearly their BM25 score. Both parts are of unit norm, and a store that ranks by L2 or by cosine ranks by

    (1 - weight) * the model's cosine + weight * the score, as a share of what is a high one.

A direction is drawn from the word itself and a word is kept as a hash, so that the folder holds no text; who guesses a
word can tell in how many chunks it occurs. A word's first five letters count as a word, too: they stand in for a stem,
with no dictionary, in any language with an alphabet.

Only `TunedEmbeddings` does this. A DocsGPT without the plugin loads the same folder as the model alone, which is
narrower: it does not search what was embedded with keywords, and says so by the width.

Sources:
    Robertson and Zaragoza, 2009, "The probabilistic relevance framework: BM25 and beyond".
    Achlioptas, 2003, "Database-friendly random projections": directions of random signs keep products.
    Bachrach et al., 2014, "Speeding up the Xbox recommender system using a Euclidean transformation": one more number
    makes vectors of any length rank by L2 as by their product.
"""

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.files import write_bytes_atomically
from docsgpt_embtune.words import K1, B, plain_tokens

Vectors = npt.NDArray[np.float32]

KEYWORDS_FILE = "keywords.safetensors"
_START = 5  # letters of a word that stand in for its stem
HOST_WIDTH = 768  # what DocsGPT takes every remote model's width for
_LEAST_WIDTH = 256  # below, too many words share a direction
_USUAL_WIDTH = 384
_WIDE = 1536  # of OpenAI's vectors, which every store is used to
_PADDING = 2  # numbers that only make the norm 1: one for chunks, one for questions without a word
_HIGH = 0.9  # quantile of the chunks' lengths from which on a vector is cut to length 1
_MEASURED = 2000  # chunks that it is taken from
_KEY = 8  # bytes of a word's hash that it is known by


@dataclass(frozen=True, eq=False)
class Keywords:
    """The keywords' part of a vector, and how much it counts.

    Attributes:
        weight: Its share of a score, from 0 to 1.
        width: Numbers that it adds to a vector.
        chunks: How many the words were counted in.
        average_length: Words of a chunk, in the mean.
        high: Length of a chunk's vector from which on it is cut to 1.
        known: (T,) uint64, ascending: hashes of the words that occur.
        occurs_in: (T,) int64: chunks that each occurs in.
    """

    weight: float
    width: int
    chunks: int
    average_length: float
    high: float
    known: npt.NDArray[np.uint64]
    occurs_in: npt.NDArray[np.int64]

    @classmethod
    def of(cls, corpus: Iterable[str], model_width: int) -> Self:
        """Count the words of a corpus; the weight is 0 until validation chooses one.

        Args:
            corpus: The chunks, at least one.
            model_width: Numbers of the model's own vectors; with the keywords a vector is as wide as what DocsGPT
                takes a remote model's for, where the model leaves enough of that.
        """
        left = HOST_WIDTH - model_width
        width = left if left >= _LEAST_WIDTH else _USUAL_WIDTH
        counts: Counter[int] = Counter()
        words = 0
        texts = []
        for text in corpus:
            texts.append(text)
            tokens = _tokens(text)
            words += len(tokens)
            counts.update({_key(token) for token in tokens})
        in_order = sorted(counts)
        known = np.array(in_order, dtype=np.uint64)
        occurs_in = np.array([counts[key] for key in in_order], dtype=np.int64)
        counted = cls(0.0, width, len(texts), max(1.0, words / len(texts)), 1.0, known, occurs_in)
        some = texts if len(texts) <= _MEASURED else random.Random(0).sample(texts, _MEASURED)
        lengths = np.linalg.norm(counted._weighted(some, _saturated), axis=1)
        return replace(counted, high=float(np.quantile(lengths, _HIGH)) or 1.0)

    def wider(self, model_width: int) -> Self:
        """Return the same keywords in more numbers: nearer to BM25, and more of the store.

        A chunk's length is the same in any number of random directions, in the mean, so that `high` stays.

        Args:
            model_width: Numbers of the model's own vectors.
        """
        return replace(self, width=max(_WIDE - model_width, 2 * self.width))

    def of_documents(self, texts: Sequence[str]) -> Vectors:
        """Return the keywords' part of chunks: (N, width) float32, unit norm."""
        vectors = self._weighted(texts, _saturated)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), self.high)
        missing = np.sqrt(np.maximum(0.0, 1.0 - (vectors**2).sum(axis=1)))
        return np.column_stack([vectors, missing, np.zeros_like(missing)])

    def of_questions(self, texts: Sequence[str]) -> Vectors:
        """Return the keywords' part of questions: (N, width) float32, unit norm."""
        vectors = self._weighted(texts, _as_they_are)
        lengths = np.linalg.norm(vectors, axis=1)
        wordless = lengths == 0
        vectors /= np.where(wordless, 1.0, lengths)[:, None].astype(np.float32)
        return np.column_stack([vectors, np.zeros(len(texts), np.float32), wordless.astype(np.float32)])

    def beside(self, vectors: Vectors, part: Vectors) -> Vectors:
        """Put the model's vectors (N, D) and the keywords' part (N, width) side by side: (N, D + width), unit norm."""
        return np.concatenate([math.sqrt(1 - self.weight) * vectors, math.sqrt(self.weight) * part], axis=1)

    def write(self, folder: Path) -> None:
        """Write them into a model folder."""
        numbers = {name: getattr(self, name) for name in ("weight", "width", "chunks", "average_length", "high")}
        content = save({"known": self.known, "occurs_in": self.occurs_in}, metadata={"keywords": json.dumps(numbers)})
        write_bytes_atomically(folder / KEYWORDS_FILE, content)

    def _weighted(self, texts: Sequence[str], weigh: "_Weigh") -> Vectors:
        """Lay each text's words along their directions: (N, width - 2), of any length."""
        numbers = self.width - _PADDING
        size = _KEY + math.ceil(numbers / 8)
        vectors = np.zeros((len(texts), numbers), dtype=np.float32)
        for row, text in enumerate(texts):
            counts = Counter(_tokens(text))
            if not counts:
                continue
            digests = np.frombuffer(b"".join(_digest(token, size) for token in counts), dtype=np.uint8)
            digests = digests.reshape(-1, size)
            keys = np.ascontiguousarray(digests[:, :_KEY]).view("<u8")[:, 0]
            signs = np.unpackbits(digests[:, _KEY:], axis=1)[:, :numbers].astype(np.float32) * 2 - 1
            often = np.fromiter(counts.values(), dtype=np.float32)
            weights = np.sqrt(self._rarity(keys)) * weigh(often, counts.total() / self.average_length)
            vectors[row] = weights.astype(np.float32) @ signs / math.sqrt(numbers)
        return vectors

    def _rarity(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
        """Inverse document frequencies (T,), as Lucene has them; a word that was never seen is the rarest."""
        places = np.searchsorted(self.known, keys)
        seen = np.searchsorted(self.known, keys, side="right") > places
        in_chunks = np.zeros(len(keys), dtype=np.int64)
        in_chunks[seen] = self.occurs_in[places[seen]]
        rarity: npt.NDArray[np.float64] = np.log1p((self.chunks - in_chunks + 0.5) / (in_chunks + 0.5))
        return rarity


def load_keywords(folder: Path) -> Keywords | None:
    """Load the keywords of a model folder; None where it has none.

    Raises:
        ModelFolderError: If the file cannot be read.
    """
    path = folder / KEYWORDS_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as kept:
            numbers = json.loads(kept.metadata()["keywords"])
            return Keywords(**numbers, known=kept.get_tensor("known"), occurs_in=kept.get_tensor("occurs_in"))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelFolderError(f"{path}: the keywords cannot be read ({error}); copy the folder again") from error


_Weigh = Callable[[npt.NDArray[np.float32], float], npt.NDArray[np.float32]]


def _saturated(often: npt.NDArray[np.float32], length: float) -> npt.NDArray[np.float32]:
    """Weigh a chunk's words: how often each occurs, and the chunk's length as a multiple of the average."""
    return often * (K1 + 1) / (often + K1 * (1 - B + B * length))


def _as_they_are(often: npt.NDArray[np.float32], length: float) -> npt.NDArray[np.float32]:
    """Weigh a question's words."""
    return often


def _tokens(text: str) -> list[str]:
    words = plain_tokens(text)
    return words + [f"{word[:_START]}…" for word in words]


@lru_cache(maxsize=1 << 16)
def _digest(token: str, size: int) -> bytes:
    return hashlib.shake_128(token.encode("utf-8", "surrogatepass")).digest(size)


def _key(token: str) -> int:
    return int.from_bytes(_digest(token, _KEY), "little")
