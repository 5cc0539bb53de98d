"""Keyword search inside a vector: BM25 scores beside the model's cosines, for a store that only knows vectors.

An embedding model blurs the names, numbers and error codes that a keyword search depends on. So a text's vector gets a
second part beside the model's. Each word of the text adds its BM25 weight along a direction of its own, so that the
inner product of a question's part and a chunk's part is approximately their BM25 score. Both parts have unit norm, and
a store that ranks by L2 or by cosine ranks by

    (1 - weight) * the model's cosine + weight * the BM25 score, relative to a high one.

The directions are the principal directions of the corpus's own chunks (`training.keywords.fitting`): for their number,
these change the scores of the chunks least. A word that is rare in the corpus, or missing, gets a random direction: in
a few hundred dimensions random directions are nearly orthogonal to everything. How much a question's words count beyond
their rarity may be learned from training questions (`training.keywords.question_words`).

Words are stored as hashes, so that the folder holds no text. But whoever guesses a word can find out in how many chunks
it occurs and which other words occur with it. A word's first five letters count as a further word: they stand in for a
stem, without a dictionary, in any language with an alphabet.

Only `TunedEmbeddings` does this. A DocsGPT without the plugin loads the folder as the model alone, whose vectors are
narrower: searching chunks that were embedded with keywords then fails because of the width.

Sources:
    Robertson and Zaragoza, 2009, "The probabilistic relevance framework: BM25 and beyond".
    Achlioptas, 2003, "Database-friendly random projections": directions of random signs keep products.
    Deerwester et al., 1990, "Indexing by latent semantic analysis": directions taken from the corpus.
    Bachrach et al., 2014, "Speeding up the Xbox recommender system using a Euclidean transformation": with one more
    number, vectors of any length rank by L2 as by their inner product.
"""

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.files import write_bytes_atomically
from docsgpt_embtune.vectors import Vectors
from docsgpt_embtune.words import K1, B, words_and_pairs

KEYWORDS_FILE = "keywords.safetensors"
_START = 5  # letters of a word that stand in for its stem
HOST_WIDTH = 768  # width that DocsGPT assumes for every remote model
_LEAST_WIDTH = 256  # with less, too many words share a direction
_USUAL_WIDTH = 384
_WIDE = 1536  # width of OpenAI's vectors, which every store supports
PADDING = 2  # numbers that only bring the norm to 1: one for chunks, one for questions without words
_HIGH = 0.9  # quantile of the chunks' lengths; longer vectors are cut to length 1
_MEASURED = 2000  # chunks from which that quantile is taken
TINY = 1e-6  # below this, a length is only rounding error
_WORDS_AT_ONCE = 4096  # words of one text per step; their directions take 6 MB
_KEY = 8  # bytes of a word's hash that identify it


class Words(NamedTuple):
    """A text's distinct words.

    Attributes:
        tokens: T words.
        keys: (T,) uint64: their hashes.
        weights: (T,) float32: their weights; a chunk's times a question's is what the word adds to the BM25 score.
    """

    tokens: list[str]
    keys: npt.NDArray[np.uint64]
    weights: Vectors


@dataclass(frozen=True, eq=False)
class FittedDirections:
    """Directions of words, fitted to a corpus and quantised to int8.

    Attributes:
        words: (F,) uint64, ascending: hashes of the words.
        steps: (F, D) int8: each word's quantised direction.
        sizes: (F,) float32: each word's quantisation step.
    """

    words: npt.NDArray[np.uint64]
    steps: npt.NDArray[np.int8]
    sizes: npt.NDArray[np.float32]

    @classmethod
    def of(cls, words: npt.NDArray[np.uint64], directions: Vectors) -> Self:
        """Quantise directions to int8, which makes the folder a quarter as large without a visible effect on rankings.

        Args:
            words: Hashes of the words, (F,), ascending.
            directions: Their directions, (F, D), of any length.
        """
        sizes = np.abs(directions).max(axis=1, initial=0.0) / np.iinfo(np.int8).max
        sizes[sizes == 0] = 1.0
        return cls(words, np.rint(directions / sizes[:, None]).astype(np.int8), sizes.astype(np.float32))

    def of_words(self, keys: npt.NDArray[np.uint64]) -> tuple[Vectors, npt.NDArray[np.bool_]]:
        """Return the directions (K, D) of the K words that have one, and a mask (T,) of these words in `keys`."""
        places, known = find(keys, self.words)
        return self.steps[places] * self.sizes[places, None], known


@dataclass(frozen=True, eq=False)
class Keywords:
    """The keyword part of a vector, and its weight.

    Attributes:
        weight: Share of the keyword part in a score, from 0 to 1.
        width: Numbers that the keyword part adds to a vector.
        chunks: Number of chunks in which the words were counted.
        average_length: Mean number of words in a chunk.
        high: Length from which on a chunk's keyword vector is cut to unit length; shorter ones are divided by it.
        known: (T,) uint64, ascending: hashes of the words that occur in the corpus.
        occurs_in: (T,) int64: number of chunks that each word occurs in.
        fitted: Directions fitted to the corpus; other words have random ones.
        stresses: (T,) float32: factor of each known word's weight in a question, besides its rarity; None if all are 1.
    """

    weight: float
    width: int
    chunks: int
    average_length: float
    high: float
    known: npt.NDArray[np.uint64]
    occurs_in: npt.NDArray[np.int64]
    fitted: FittedDirections | None = None
    stresses: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Check the shapes, since the values may come from a file."""
        if self.fitted:
            shape = (len(self.fitted.words), self.width - PADDING)
            if self.fitted.steps.shape != shape:
                raise ValueError(f"directions of shape {self.fitted.steps.shape} instead of {shape}")
        if self.stresses is not None and self.stresses.shape != self.known.shape:
            raise ValueError(f"{len(self.stresses)} stresses for {len(self.known)} words")

    @classmethod
    def of(cls, corpus: Iterable[str], model_width: int) -> Self:
        """Count the words of a corpus; the weight is 0 until validation chooses one, and every direction is random.

        Args:
            corpus: The chunks, at least one.
            model_width: Width of the model's own vectors. The keyword part fills a vector up to the width that DocsGPT
                assumes for a remote model, if that leaves enough room for it.
        """
        left = HOST_WIDTH - model_width
        width = left if left >= _LEAST_WIDTH else _USUAL_WIDTH
        occurrences: Counter[str] = Counter()  # keyed by word: hashing every occurrence would take five times as long
        words = 0
        texts = []
        for text in corpus:
            texts.append(text)
            tokens = _tokens(text)
            words += len(tokens)
            occurrences.update(set(tokens))
        counts = {_key(token): count for token, count in occurrences.items()}
        in_order = sorted(counts)
        known = np.array(in_order, dtype=np.uint64)
        occurs_in = np.array([counts[key] for key in in_order], dtype=np.int64)
        counted = cls(0.0, width, len(texts), max(1.0, words / len(texts)), 1.0, known, occurs_in)
        some = texts if len(texts) <= _MEASURED else random.Random(0).sample(texts, _MEASURED)
        lengths = np.linalg.norm(counted._laid(map(counted.of_chunk, some))[0], axis=1)
        return replace(counted, high=high_among(lengths))

    def wider(self, model_width: int) -> Self:
        """Return the same keywords with a wider vector part, which is closer to BM25 and takes more room in the store.

        `high` stays the same, since a chunk's expected length does not depend on the number of random directions.

        Args:
            model_width: Width of the model's own vectors.
        """
        return replace(self, width=max(_WIDE - model_width, 2 * self.width))

    def of_documents(self, texts: Sequence[str]) -> Vectors:
        """Return the keyword part of chunks: (N, width) float32, unit norm."""
        vectors, lengths = self._laid(map(self.of_chunk, texts))
        laid = np.linalg.norm(vectors, axis=1)
        if self.fitted:
            # A chunk that the directions were not fitted to lies partly outside their span. Without rescaling to its
            # true length it would be found less often than the others.
            vectors *= (lengths / np.maximum(laid, TINY))[:, None]
            laid = lengths
        vectors /= np.maximum(laid, self.high)[:, None]
        missing = np.sqrt(np.maximum(0.0, 1.0 - (vectors**2).sum(axis=1)))
        return np.column_stack([vectors, missing, np.zeros_like(missing)])

    def of_questions(self, texts: Sequence[str]) -> Vectors:
        """Return the keyword part of questions: (N, width) float32, unit norm."""
        vectors, _ = self._laid(map(self.of_question, texts))
        laid = np.linalg.norm(vectors, axis=1)
        wordless = laid <= TINY
        vectors /= np.where(wordless, 1.0, laid)[:, None]
        return np.column_stack([vectors, np.zeros(len(texts), np.float32), wordless.astype(np.float32)])

    def beside(self, vectors: Vectors, part: Vectors) -> Vectors:
        """Concatenate the weighted model's vectors (N, D) and keyword part (N, width): (N, D + width), unit norm."""
        return np.concatenate([math.sqrt(1 - self.weight) * vectors, math.sqrt(self.weight) * part], axis=1)

    def write(self, folder: Path) -> None:
        """Write the keywords into a model folder."""
        numbers = {name: getattr(self, name) for name in ("weight", "width", "chunks", "average_length", "high")}
        tensors: dict[str, Any] = {"known": self.known, "occurs_in": self.occurs_in}
        if self.fitted:
            tensors |= vars(self.fitted)
        if self.stresses is not None:
            tensors["stresses"] = self.stresses
        write_bytes_atomically(folder / KEYWORDS_FILE, save(tensors, metadata={"keywords": json.dumps(numbers)}))

    def of_chunk(self, text: str) -> Words:
        """Weigh a chunk's words: more if rare, hardly more for each repetition, and less in a long chunk."""
        tokens, keys, often = _counted(text)
        norm = 1 - B + B * often.sum() / self.average_length
        places, seen = find(keys, self.known)
        return Words(tokens, keys, np.sqrt(self._rarity(places, seen)) * often * (K1 + 1) / (often + K1 * norm))

    def of_question(self, text: str) -> Words:
        """Weigh a question's words by their rarity and their learned factors."""
        tokens, keys, often = _counted(text)
        places, seen = find(keys, self.known)
        weights = np.sqrt(self._rarity(places, seen)) * often
        if self.stresses is not None:
            weights[seen] *= self.stresses[places]
        return Words(tokens, keys, weights)

    def _laid(self, texts: Iterable[Words]) -> tuple[Vectors, Vectors]:
        """Sum each text's weighted word directions: (N, width - 2); also return the norms of the word weights: (N,)."""
        vectors, lengths = [np.empty((0, self.width - PADDING), np.float32)], []
        for words in texts:
            vector = np.zeros((1, self.width - PADDING), np.float32)
            for start in range(0, len(words.tokens), _WORDS_AT_ONCE):
                some = slice(start, start + _WORDS_AT_ONCE)
                vector += words.weights[None, some] @ self._directions(words.tokens[some], words.keys[some])
            vectors.append(vector)
            lengths.append(np.linalg.norm(words.weights))
        return np.concatenate(vectors), np.array(lengths, dtype=np.float32)

    def _directions(self, tokens: Sequence[str], keys: npt.NDArray[np.uint64]) -> Vectors:
        """Return the direction of each word, fitted or else random: (T, width - 2)."""
        directions = np.empty((len(tokens), self.width - PADDING), dtype=np.float32)
        others = np.ones(len(tokens), dtype=bool)
        if self.fitted:
            fitted, known = self.fitted.of_words(keys)
            directions[known], others = fitted, ~known
        directions[others] = _random_directions(list(compress(tokens, others)), directions.shape[1])
        return directions

    def _rarity(self, places: npt.NDArray[np.int64], seen: npt.NDArray[np.bool_]) -> Vectors:
        """Return inverse document frequencies (T,) by Lucene's formula; an unseen word gets the highest."""
        in_chunks = np.zeros(len(seen), dtype=np.int64)
        in_chunks[seen] = self.occurs_in[places]
        return np.log1p((self.chunks - in_chunks + 0.5) / (in_chunks + 0.5)).astype(np.float32)


def load_keywords(folder: Path) -> Keywords | None:
    """Load the keywords of a model folder; None if it has none.

    Raises:
        ModelFolderError: If the file cannot be read.
    """
    path = folder / KEYWORDS_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as kept:
            numbers = json.loads(kept.metadata()["keywords"])
            tensors = {name: kept.get_tensor(name) for name in kept.keys()}
        known, occurs_in = tensors.pop("known"), tensors.pop("occurs_in")
        stresses = tensors.pop("stresses", None)
        fitted = FittedDirections(**tensors) if tensors else None
        return Keywords(**numbers, known=known, occurs_in=occurs_in, fitted=fitted, stresses=stresses)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelFolderError(f"{path}: the keywords cannot be read ({error}); copy the folder again") from error


def high_among(lengths: Vectors) -> float:
    """Return the length from which on a chunk's vector is cut, given the lengths of many chunks, (N,)."""
    return float(np.quantile(lengths, _HIGH)) or 1.0  # the length is 0 for chunks without words


def find(
    keys: npt.NDArray[np.uint64], among: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the positions in `among`, ascending, of the keys that it contains, and a mask of these keys."""
    places = np.searchsorted(among, keys)
    there = np.searchsorted(among, keys, side="right") > places
    return places[there], there


def _tokens(text: str) -> list[str]:
    words, pairs = words_and_pairs(text)
    return [*words, *(f"{word[:_START]}…" for word in words), *pairs]


def _counted(text: str) -> tuple[list[str], npt.NDArray[np.uint64], Vectors]:
    """Return a text's distinct words, their hashes, and how often each occurs."""
    counts = Counter(_tokens(text))
    keys = np.frombuffer(b"".join(_digest(token, _KEY) for token in counts), dtype="<u8").astype(np.uint64)
    return list(counts), keys, np.fromiter(counts.values(), dtype=np.float32, count=len(counts))


def _random_directions(tokens: Sequence[str], numbers: int) -> Vectors:
    """Derive a pseudo-random direction from each word's hash: (T, numbers), unit norm."""
    size = math.ceil(numbers / 8)
    digests = b"".join(_digest(token, _KEY + size)[_KEY:] for token in tokens)
    bits = np.unpackbits(np.frombuffer(digests, np.uint8).reshape(len(tokens), size), axis=1)[:, :numbers]
    return (bits.astype(np.float32) * 2 - 1) / np.float32(math.sqrt(numbers))


@lru_cache(maxsize=1 << 16)
def _digest(token: str, size: int) -> bytes:
    return hashlib.shake_128(token.encode("utf-8", "surrogatepass")).digest(size)


def _key(token: str) -> int:
    return int.from_bytes(_digest(token, _KEY), "little")
