"""Vectors of texts: the interface that makes them, their norm, and their similarity."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
EmbedTexts = Callable[[Sequence[str]], list[list[float]]]
_Float = TypeVar("_Float", bound=np.floating)

# Cosine from which two vectors count as the same model's for the same text. The same model gives 1 - 1e-6 on any
# machine, another model hardly ever more than .99.
SAME_VECTOR = 0.999
SAME_VECTOR_IN_INT8 = 0.997  # if one of the two may be from int8, which gives .9986 or more with MiniLM and mpnet


class EmbeddingModel(Protocol):
    """The interface that DocsGPT expects of an embeddings class."""

    dimension: int

    def embed_query(self, text: str) -> list[float]:
        """Embed one question."""

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed chunks, in order."""


def unit_norm(vectors: npt.NDArray[_Float]) -> npt.NDArray[_Float]:
    """Normalise each row (N, D) to length 1; zero vectors, such as a static model's for "", stay zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)  # (N, 1)
    unit: npt.NDArray[_Float] = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return unit


def cosines(vectors: Vectors, others: Vectors) -> Vectors:
    """Return the cosine of each row with its counterpart: (N, D), (N, D) -> (N,); 0 if a vector is all zeros."""
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(others, axis=1)
    products = (vectors * others).sum(axis=1)
    return np.asarray(np.divide(products, norms, out=np.zeros_like(products), where=norms > 0), dtype=np.float32)
