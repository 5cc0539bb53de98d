"""Fit a table of token vectors, so that the mean of a text's rows is near a model's vector of the text.

The mean is linear in the table, so that teaching the table is ridge regression: no epochs, no learning rate, and one
solution for each strength with which the table is held to its beginning.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.progress import Bar
from docsgpt_embtune.tokenizer import load_tokenizer
from docsgpt_embtune.vectors import Vectors, unit_norm

# Ridge penalties in units of a text's own weight, from hardly any change to nearly memorising the texts.
STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
_RARE = 1e-4  # a token's share of all tokens; far below it, a token has its full weight
_TOKENS_AT_ONCE = 256  # in a pass of the model


class Tokens:
    """The vocabulary of a model, and a tokenizer without the special tokens around a text.

    Args:
        folder: A tuned folder with a tokenizer.json.

    Attributes:
        tokenizer: Neither truncates, nor pads, nor adds special tokens.
    """

    def __init__(self, folder: Path) -> None:
        framed = load_tokenizer(folder).encode("a")
        special = [bool(is_special) for is_special in framed.special_tokens_mask]
        leading, trailing = (len(list(takewhile(bool, mask))) for mask in (special, reversed(special)))
        self._before, self._after = framed.ids[:leading], framed.ids[len(framed) - trailing :]
        self.tokenizer: Any = load_tokenizer(folder)
        self.tokenizer.post_processor = None

    def __len__(self) -> int:
        """Return the size of the vocabulary."""
        return int(self.tokenizer.get_vocab_size())

    def shares(self, texts: Sequence[str]) -> csr_array:
        """Return each token's share of each text's tokens: (N, V), with rows that sum to 1."""
        ids = [np.array(encoding.ids, dtype=np.int64) for encoding in self.tokenizer.encode_batch(list(texts))]
        lengths = np.array([len(row) for row in ids])
        shares = 1 / np.repeat(lengths, lengths)
        ends = np.cumsum([0, *lengths])
        return csr_array((shares, np.concatenate(ids), ends), shape=(len(ids), len(self)))

    def weights(self) -> npt.NDArray[np.float64]:
        """Weigh each token, (V,), frequent ones less, taking the vocabulary to be in order of frequency, as most are.

        Source:
            Zipf's law for the frequencies, as model2vec (Tulkens and van Dongen, 2024) takes it, and the weights of
            Arora, Liang and Ma, "A simple but tough-to-beat baseline for sentence embeddings", 2017.
        """
        frequencies = 1 / np.arange(2, len(self) + 2)
        return np.asarray(_RARE / (_RARE + frequencies / frequencies.sum()))

    def embed(self, model: SentenceTransformer) -> npt.NDArray[np.float64]:
        """Embed each token by itself, with the special tokens of a text: (V, D), centred."""
        vectors = []
        starts = range(0, len(self), _TOKENS_AT_ONCE)
        with torch.inference_mode():
            for start in Bar(starts, desc="tokens", unit_scale=_TOKENS_AT_ONCE):
                ids = range(start, min(start + _TOKENS_AT_ONCE, len(self)))
                framed = torch.tensor([[*self._before, token, *self._after] for token in ids], device=model.device)
                features = {"input_ids": framed, "attention_mask": torch.ones_like(framed)}
                vectors.append(model(features)["sentence_embedding"].cpu().numpy())
        table = np.concatenate(vectors, dtype=np.float64)
        return np.asarray(table - table.mean(axis=0))


def means(shares: csr_array, table: npt.NDArray[Any]) -> Vectors:
    """Embed texts as the means of their rows of a table: (N, D), unit norm; zeros for a text without a token."""
    return unit_norm(shares @ table).astype(np.float32)


def taught_tables(
    table: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], shares: csr_array, vectors: Vectors
) -> Iterator[tuple[float, npt.NDArray[np.float64]]]:
    """Move a table towards one whose means are a model's vectors, with each strength, strongest first.

    Tokens of high weight are moved more readily: the table T0 becomes T0 + w U, with the weights w (V,) and a U that is
    held to zero. U is found in the dual form (N, N), as there are fewer texts than tokens.

    Args:
        table: The table to begin with, (V, D), weighted; it is first scaled to the vectors.
        weights: The tokens' weights, (V,).
        shares: The tokens' shares of the texts, (N, V).
        vectors: The model's vectors of the texts, (N, D).

    Yields:
        Strength and (V, D) table.
    """
    begun = shares @ table
    scale = float((begun * vectors).sum() / (begun**2).sum())
    weighted = shares.multiply(weights).tocsr()
    alike = (weighted @ weighted.T).toarray()  # (N, N)
    for strength in STRENGTHS:
        held = np.array(alike, order="F")  # can be factored in place
        held[np.diag_indices_from(held)] += strength * np.trace(alike) / len(alike)
        moved = weighted.T @ cho_solve(cho_factor(held, overwrite_a=True), vectors - scale * begun)  # (V, D)
        yield strength, scale * table + weights[:, None] * moved
