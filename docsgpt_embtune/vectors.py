"""Vectors of texts: what makes them, their norm, and whether two are of one model and one text."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
EmbedTexts = Callable[[Sequence[str]], list[list[float]]]
_Float = TypeVar("_Float", bound=np.floating)

SAME_VECTOR = 0.999  # cosine; the same model gives 1 - 1e-6 on any machine, another model hardly ever more than .99
SAME_VECTOR_IN_INT8 = 0.997  # the same where one of them may be of int8: .9986 and more, of MiniLM and mpnet


class EmbeddingModel(Protocol):
    """What the host asks of an embeddings class."""

    dimension: int

    def embed_query(self, text: str) -> list[float]:
        """Embed one question."""

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed chunks, in order."""


def unit_norm(vectors: npt.NDArray[_Float]) -> npt.NDArray[_Float]:
    """Bring each row (N, D) to length 1; what is all zeros, as a static model's vector of "", stays zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)  # (N, 1)
    unit: npt.NDArray[_Float] = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return unit


def cosines(vectors: Vectors, others: Vectors) -> Vectors:
    """Cosine of each row with its counterpart: (N, D), (N, D) -> (N,); 0 where a vector is all zeros."""
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(others, axis=1)
    products = (vectors * others).sum(axis=1)
    return np.asarray(np.divide(products, norms, out=np.zeros_like(products), where=norms > 0), dtype=np.float32)
