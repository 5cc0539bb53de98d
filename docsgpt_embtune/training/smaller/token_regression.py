"""A table of token vectors whose means come out where a model puts the texts.

The mean of a text's rows is linear in the table, so that to teach the table is ridge regression: no epochs, no learning
rate, one answer for each strength with which it is held to its beginning.
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

# In units of a text's own weight: from hardly any change to what fits the texts nearly by heart.
STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
_RARE = 1e-4  # of all tokens: what is rarer than this weighs in full
_TOKENS_AT_ONCE = 256  # put through the model


class Tokens:
    """The vocabulary of a model, without the tokens that it puts around a text.

    Args:
        folder: A tuned folder with a tokenizer.json.

    Attributes:
        tokenizer: Neither cuts, nor pads, nor adds.
    """

    def __init__(self, folder: Path) -> None:
        framed = load_tokenizer(folder).encode("a")
        special = [bool(is_special) for is_special in framed.special_tokens_mask]
        leading, trailing = (len(list(takewhile(bool, mask))) for mask in (special, reversed(special)))
        self._before, self._after = framed.ids[:leading], framed.ids[len(framed) - trailing :]
        self.tokenizer: Any = load_tokenizer(folder)
        self.tokenizer.post_processor = None

    def __len__(self) -> int:
        """Count the vocabulary."""
        return int(self.tokenizer.get_vocab_size())

    def shares(self, texts: Sequence[str]) -> csr_array:
        """Tell of which tokens texts consist: (N, V), each row the shares of a text's tokens."""
        ids = [np.array(encoding.ids, dtype=np.int64) for encoding in self.tokenizer.encode_batch(list(texts))]
        lengths = np.array([len(row) for row in ids])
        shares = 1 / np.repeat(lengths, lengths)
        ends = np.cumsum([0, *lengths])
        return csr_array((shares, np.concatenate(ids), ends), shape=(len(ids), len(self)))

    def weights(self) -> npt.NDArray[np.float64]:
        """Weigh each token, (V,), the frequent ones less: vocabularies are in the order of frequency, or nearly.

        Source:
            Zipf's law for the frequencies, as model2vec (Tulkens and van Dongen, 2024) takes it, and the weights of
            Arora, Liang and Ma, "A simple but tough-to-beat baseline for sentence embeddings", 2017.
        """
        frequencies = 1 / np.arange(2, len(self) + 2)
        return np.asarray(_RARE / (_RARE + frequencies / frequencies.sum()))

    def embed(self, model: SentenceTransformer) -> npt.NDArray[np.float64]:
        """Put each token through a model by itself, framed as a text: (V, D), centred."""
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
    """Embed texts with a table: (N, D), unit norm; zeros for a text without a token."""
    return unit_norm(shares @ table).astype(np.float32)


def taught_tables(
    table: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], shares: csr_array, vectors: Vectors
) -> Iterator[tuple[float, npt.NDArray[np.float64]]]:
    """Move a table towards the one whose means are a model's vectors, for each strength, strongest first.

    A heavy token is moved more readily than a light one: a table T0 and weights w (V,) become T0 + w U, where U is
    what is held to zero. It is found through the texts (N, N), of which there are fewer than tokens.

    Args:
        table: The beginning, (V, D), weighted; brought to the vectors' scale first.
        weights: (V,)
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
