"""A cache of text vectors by a model that is being trained."""

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count as numbers_from

import numpy as np
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.serving.encoding import Encoder
from docsgpt_embtune.static_model import tokens_read
from docsgpt_embtune.vectors import Vectors

_CHARACTERS_PER_TOKEN = 4.5  # of English wordpieces; only to estimate where a long text is truncated
_STATES_HELD = 5  # a run returns to a stage's starting weights after two other states, and in the end to the best


@dataclass
class _Table:
    """Vectors by one state of the weights, in the blocks in which they were encoded."""

    row_of: dict[str, int] = field(default_factory=dict)
    blocks: list[Vectors] = field(default_factory=list)


class KnownVectors:
    """A cache of a model's vectors: each text is encoded once for each state of the weights.

    Attributes:
        seconds: Time spent on encoding so far.
        characters: Characters encoded so far, without those that the model truncates.
    """

    def __init__(self, encode: Encoder) -> None:
        self.seconds = 0.0
        self.characters = 0.0
        self._encode = encode
        self._tables: dict[bytes, _Table] = {}  # by digest of the weights, the last used at the end

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
        """Return the texts that are not in the cache for the current weights, each once."""
        return _unknown(texts, self._table())

    def _table(self) -> _Table:
        """Return the vectors by the current weights, and drop those that were not asked for the longest."""
        state = _digest_of_weights(self._encode.model)
        table = self._tables.pop(state, None) or _Table()
        self._tables[state] = table  # at the end, whether it is new or was there
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
    """Estimate how many characters of these texts a model reads before truncating them."""
    longest = _CHARACTERS_PER_TOKEN * tokens_read(model)
    return sum(min(len(text), longest) for text in texts)
