"""Vectors of questions and chunks, through the calls that the host makes."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from docsgpt_embtune.errors import EvaluationError

FloatArray = npt.NDArray[np.float32]

DOCUMENTS_PER_CALL = 1024  # the model sorts a call's texts by length, so a call should hold many batches


class EmbeddingModel(Protocol):
    """What the host asks of an embeddings class."""

    dimension: int

    def embed_query(self, text: str) -> list[float]:
        """Embed one question."""

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed chunks, in order."""


def embed_queries(model: EmbeddingModel, texts: Sequence[str], *, label: str = "questions") -> FloatArray:
    """Embed questions one by one, as the host does: (Q, D), in order.

    Raises:
        EvaluationError: If a vector is not finite or not `dimension` wide, naming the text.
    """
    vectors = np.empty((len(texts), model.dimension), dtype=np.float32)  # (Q, D)
    for index, text in enumerate(tqdm(texts, desc=label, unit="question", disable=None, leave=False)):
        vectors[index] = _checked([model.embed_query(text)], [text], model.dimension)
    return vectors


def embed_corpus(model: EmbeddingModel, texts: Sequence[str], *, label: str = "chunks") -> FloatArray:
    """Embed chunks: (N, D), in order; a text that stands twice is embedded once, so its copies tie exactly.

    Raises:
        EvaluationError: If a vector is not finite or not `dimension` wide, naming the text.
    """
    distinct = list(dict.fromkeys(texts))
    row_of = {text: row for row, text in enumerate(distinct)}
    vectors = np.empty((len(distinct), model.dimension), dtype=np.float32)
    with tqdm(total=len(distinct), desc=label, unit="chunk", disable=None, leave=False) as progress:
        for start, block in _blocks(distinct):
            vectors[start : start + len(block)] = _checked(model.embed_documents(block), block, model.dimension)
            progress.update(len(block))
    return vectors[[row_of[text] for text in texts]]


def _blocks(texts: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    for start in range(0, len(texts), DOCUMENTS_PER_CALL):
        yield start, texts[start : start + DOCUMENTS_PER_CALL]


def _checked(vectors: list[list[float]], texts: Sequence[str], dimension: int) -> FloatArray:
    widths = {len(vector) for vector in vectors}
    if len(vectors) != len(texts) or widths - {dimension}:
        raise EvaluationError(
            f"the model returned {len(vectors)} vectors of width {sorted(widths)} for {len(texts)} texts, "
            f"and says that its dimension is {dimension}"
        )
    array = np.asarray(vectors, dtype=np.float32)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise EvaluationError(
            f"the model's vector is not finite for {(~finite).sum()} of {len(texts)} texts "
            f"(first: {texts[int(np.argmin(finite))][:60]!r}); train again with a lower learning rate"
        )
    return array
