"""Vectors of many texts, each text encoded once for each state of a model that is being trained."""

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count as numbers_from

import numpy as np
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.serving.encoding import Encoder
from docsgpt_embtune.token_table import tokens_read
from docsgpt_embtune.vectors import Vectors

_CHARACTERS_PER_TOKEN = 4.5  # of English wordpieces; it only has to tell where a long text is cut
_STATES_HELD = 5  # a run comes back to the beginning of a stage after two others, and in the end to the best of all


@dataclass
class _Table:
    """Vectors of one state of the weights, in the blocks that they were encoded in."""

    row_of: dict[str, int] = field(default_factory=dict)
    blocks: list[Vectors] = field(default_factory=list)


class KnownVectors:
    """The vectors of a model that is being trained: each text is encoded once for each state of its weights.

    Attributes:
        seconds: Spent on encoding so far.
        characters: Encoded so far, of what the model reads.
    """

    def __init__(self, encode: Encoder) -> None:
        self.seconds = 0.0
        self.characters = 0.0
        self._encode = encode
        self._tables: dict[bytes, _Table] = {}  # the one used last at the end

    def embed(self, texts: Iterable[str], *, show_progress: bool = True) -> Vectors:
        """Return (N, D) float32, one row per text, unit norm."""
        texts = list(texts)
        table = self._table()
        if new := _unknown(texts, table):
            started = time.monotonic()
            table.blocks.append(self._encode(new, show_progress=show_progress))
            self.seconds += time.monotonic() - started
            table.row_of.update(zip(new, numbers_from(len(table.row_of)), strict=False))
            self.characters += characters_read(new, self._encode.model)
        return np.concatenate(table.blocks)[[table.row_of[text] for text in texts]]

    def unknown(self, texts: Iterable[str]) -> list[str]:
        """Return those that would have to be encoded, each once."""
        return _unknown(texts, self._table())

    def _table(self) -> _Table:
        state = _digest_of_weights(self._encode.model)
        self._tables[state] = table = self._tables.pop(state, None) or _Table()
        if len(self._tables) > _STATES_HELD:
            del self._tables[next(iter(self._tables))]
        return table


def _unknown(texts: Iterable[str], table: _Table) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text not in table.row_of]


def _digest_of_weights(model: SentenceTransformer) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.digest()


def characters_read(texts: Iterable[str], model: SentenceTransformer) -> float:
    """Estimate how much of these texts a model reads, in characters."""
    longest = _CHARACTERS_PER_TOKEN * tokens_read(model)
    return sum(min(len(text), longest) for text in texts)
