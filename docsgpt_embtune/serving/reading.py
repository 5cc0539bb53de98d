"""How much of a long chunk goes into its one vector: its beginning, or all of it, window by window."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np

from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.model_folder import ADAPTER_KEY, MANIFEST
from docsgpt_embtune.serving.keywords import Keywords
from docsgpt_embtune.token_table import UNLIMITED
from docsgpt_embtune.tokenizer import load_tokenizer, text_preparation
from docsgpt_embtune.vectors import Vectors

Windows = Literal["off", "mean"]
Encode = Callable[[Sequence[str]], Vectors]


def recorded_reading(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how a manifest says that chunks are read; None where they are read as the model was written."""
    reading: dict[str, Any] | None = manifest.get("serving", {}).get("reading")
    return reading


@dataclass(frozen=True)
class Reading:
    """How chunks are read.

    Attributes:
        max_seq_length: Tokens that the model reads at a time, special ones included.
        windows: "off" leaves out what is longer; "mean" reads a long chunk in windows and stores their mean,
            weighted by their tokens and brought to unit norm. Questions are never windowed.
    """

    max_seq_length: int
    windows: Windows = "off"

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Self:
        """Tell how a tuned folder's chunks are read; as the model was written where no export said otherwise.

        Raises:
            ModelFolderError: If it is a way that this version does not know.
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
        """Return it as the manifest has it."""
        return asdict(self)

    def __str__(self) -> str:
        """Say it in a few words."""
        if self.max_seq_length == UNLIMITED:
            return "the whole chunk"
        whole = "windows over the whole chunk" if self.windows == "mean" else "the chunk's beginning"
        return f"{whole}, {self.max_seq_length} tokens"


def vectors_fingerprint(manifest: Mapping[str, Any], reading: Reading, *, quantised: bool) -> str:
    """Identify all that decides a chunk's vector: hex sha256, to keep vectors by.

    The folder's own fingerprint is of the weights and of how the model was written to read. It stays what it is
    where nothing else decides; another reading, and int8, give other vectors of the same weights.
    """
    own: str = manifest.get(ADAPTER_KEY, {}).get("document_fingerprint", manifest["fingerprint"])
    if reading == Reading(manifest["max_seq_length"]) and not quantised:
        return own
    told_apart = json.dumps([own, reading.to_dict(), quantised], sort_keys=True)
    return hashlib.sha256(told_apart.encode()).hexdigest()


def document_encoder(folder: Path, reading: Reading, encode: Encode, keywords: Keywords | None) -> Encode:
    """Make of what embeds texts what embeds chunks: (texts) -> (N, D) float32, in order, unit norm.

    Args:
        folder: A tuned folder.
        reading: How its chunks are read.
        encode: Embeds texts, each of them cut off where the model's reading ends.
        keywords: The folder's, which read every chunk to its end.
    """
    if reading.windows != "off":
        encode = partial(WindowReader(folder, reading.max_seq_length).encode, encode=encode)
    if keywords is None:
        return encode
    return lambda texts: keywords.beside(encode(texts), keywords.of_documents(texts))


def question_encoder(encode: Encode, keywords: Keywords | None, *, by_meaning: bool = False) -> Encode:
    """Make of what embeds texts what embeds questions: (texts) -> (N, D) float32, in order, unit norm.

    Args:
        encode: Embeds texts.
        keywords: The folder's.
        by_meaning: Whether chunks are ranked as if the questions had no keywords.
    """
    if keywords is None:
        return encode
    if by_meaning:
        return lambda texts: keywords.beside(encode(texts), keywords.of_questions([""] * len(texts)))
    return lambda texts: keywords.beside(encode(texts), keywords.of_questions(texts))


class WindowReader:
    """Cuts chunks into windows that the model reads whole, and makes one vector of theirs.

    Args:
        folder: A tuned folder; its tokenizer counts.
        max_seq_length: Tokens of a window, special ones and the model's prompt included.
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
        means[single] = vectors[np.array(starts)[single]]  # to the last bit what it is without windows
        return means

    def cuts_any(self, texts: Iterable[str]) -> bool:
        """Tell whether any of these texts is longer than a window."""
        return any(len(self._tokenizer.encode(text, add_special_tokens=False)) > self._capacity for text in texts)

    def windows_of(self, text: str) -> list[str]:
        """Cut a text into windows of nearly one length; one that is short enough is its own only window."""
        return [window for window, _ in self._cut(text)]

    def _cut(self, text: str) -> Iterator[tuple[str, int]]:
        """Yield windows of nearly one length, each with its number of tokens; cut between words where it can be."""
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
