"""How much of a long chunk its vector represents: the beginning, or the whole chunk, read in windows."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np

from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.manifest import MANIFEST, Manifest
from docsgpt_embtune.serving.keywords import Keywords
from docsgpt_embtune.static_model import UNLIMITED
from docsgpt_embtune.tokenizer import load_tokenizer, text_preparation
from docsgpt_embtune.vectors import Vectors

Windows = Literal["off", "mean"]
Encode = Callable[[Sequence[str]], Vectors]


def recorded_reading(manifest: Manifest) -> dict[str, Any] | None:
    """Return the way of reading chunks that an export recorded in a manifest; None for the model's original way."""
    return manifest.get("serving", {}).get("reading")


@dataclass(frozen=True)
class Reading:
    """The way that a model reads chunks.

    Attributes:
        max_seq_length: Tokens that the model reads at a time, special tokens included.
        windows: "off" truncates a longer chunk. "mean" reads it in windows; its vector is the mean of theirs, weighted
            by their numbers of tokens and normalised to unit norm. Questions are never read in windows.
    """

    max_seq_length: int
    windows: Windows = "off"

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Return how a tuned folder's chunks are read: the model's original way, unless an export recorded another.

        Raises:
            ModelFolderError: If this version does not know the recorded way.
        """
        recorded = recorded_reading(manifest) or {"max_seq_length": manifest.get("max_seq_length")}
        known = {"max_seq_length", "windows"}.issuperset(recorded) and isinstance(recorded.get("max_seq_length"), int)
        if not known or recorded.get("windows", "off") not in get_args(Windows):
            raise ModelFolderError(
                f"{MANIFEST} of model {manifest['fingerprint'][:12]}…: this version cannot read chunks as {recorded}; "
                "upgrade docsgpt-embtune, or copy the folder again"
            )
        return cls(**recorded)

    def to_dict(self) -> dict[str, Any]:
        """Return the reading in the manifest's format."""
        return asdict(self)

    def __str__(self) -> str:
        """Describe the reading in a few words."""
        if self.max_seq_length == UNLIMITED:
            return "the whole chunk"
        whole = "windows over the whole chunk" if self.windows == "mean" else "the chunk's beginning"
        return f"{whole}, {self.max_seq_length} tokens"


def vectors_fingerprint(manifest: Manifest, reading: Reading, *, quantised: bool) -> str:
    """Return a fingerprint of everything that determines a chunk's vector: hex sha256, the key of stored vectors.

    The folder's own fingerprint covers the weights and the original way of reading, and is returned if nothing else
    plays a part. Another way of reading, or int8, makes other vectors with the same weights.
    """
    own = manifest.get("query_adapter", {}).get("document_fingerprint", manifest["fingerprint"])
    if reading == Reading(manifest["max_seq_length"]) and not quantised:
        return own
    told_apart = json.dumps([own, reading.to_dict(), quantised], sort_keys=True)
    return hashlib.sha256(told_apart.encode()).hexdigest()


def document_encoder(folder: Path, reading: Reading, encode: Encode, keywords: Keywords | None) -> Encode:
    """Turn a function that embeds texts into one that embeds chunks: texts -> (N, D) float32, in order, unit norm.

    Args:
        folder: A tuned folder.
        reading: How the folder's chunks are read.
        encode: Embeds texts, truncating each after the tokens that the model reads.
        keywords: The folder's keywords, which cover every chunk to its end; None without.
    """
    if reading.windows != "off":
        encode = partial(WindowReader(folder, reading.max_seq_length).encode, encode=encode)
    if keywords is None:
        return encode
    return lambda texts: keywords.beside(encode(texts), keywords.of_documents(texts))


def question_encoder(encode: Encode, keywords: Keywords | None, *, by_meaning: bool = False) -> Encode:
    """Turn a function that embeds texts into one that embeds questions: texts -> (N, D) float32, in order, unit norm.

    Args:
        encode: Embeds texts.
        keywords: The folder's keywords; None without.
        by_meaning: Whether to rank chunks by the model alone, as if the questions contained no words.
    """
    if keywords is None:
        return encode
    if by_meaning:
        return lambda texts: keywords.beside(encode(texts), keywords.of_questions([""] * len(texts)))
    return lambda texts: keywords.beside(encode(texts), keywords.of_questions(texts))


class WindowReader:
    """A reader that splits chunks into windows that the model reads whole, and averages the windows' vectors.

    Args:
        folder: A tuned folder, whose tokenizer counts the tokens.
        max_seq_length: Tokens of a window, special tokens and the model's prompt included.
    """

    def __init__(self, folder: Path, max_seq_length: int) -> None:
        self._tokenizer = load_tokenizer(folder)
        prompt = text_preparation(folder)("")
        taken = len(self._tokenizer.encode(prompt)) if prompt else self._tokenizer.num_special_tokens_to_add(False)
        self._capacity = max(1, max_seq_length - taken)

    def encode(self, texts: Sequence[str], encode: Encode) -> Vectors:
        """Embed chunks: (N, D) float32, in order, unit norm.

        Args:
            texts: Chunks.
            encode: Embeds the windows: texts -> (windows, D), unit norm.
        """
        windows: list[str] = []
        tokens: list[int] = []
        starts: list[int] = []
        for text in texts:
            starts.append(len(windows))
            for window, count in self._cut(text):
                windows.append(window)
                tokens.append(count)
        vectors = encode(windows)  # (W, D)
        if len(windows) == len(texts):
            return vectors
        weighted = vectors * np.array(tokens, dtype=np.float32)[:, None]
        sums = np.add.reduceat(weighted, starts)  # (N, D)
        means: Vectors = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        single = np.diff([*starts, len(windows)]) == 1
        means[single] = vectors[np.array(starts)[single]]  # bit for bit the vector without windows
        return means

    def cuts_any(self, texts: Iterable[str]) -> bool:
        """Tell whether any of the texts is longer than a window."""
        return any(len(self._tokenizer.encode(text, add_special_tokens=False)) > self._capacity for text in texts)

    def windows_of(self, text: str) -> list[str]:
        """Split a text into windows of nearly equal length; a text that is short enough is a single window."""
        return [window for window, _ in self._cut(text)]

    def _cut(self, text: str) -> Iterator[tuple[str, int]]:
        """Yield windows of nearly equal length with their numbers of tokens, split between words where possible."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        total = len(encoding)
        if total <= self._capacity:
            yield text, max(1, total)
            return
        words, offsets = encoding.word_ids, encoding.offsets
        start = 0
        while start < total:
            windows_left = math.ceil((total - start) / self._capacity)
            end = start + math.ceil((total - start) / windows_left)
            if end < total:
                between_words = (cut for cut in range(end, start, -1) if words[cut] != words[cut - 1])
                end = next(between_words, end)
            yield text[offsets[start][0] : offsets[end - 1][1]], end - start
            start = end
