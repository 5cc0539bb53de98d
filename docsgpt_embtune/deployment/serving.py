"""The model that stored chunks are to be embedded with, and how large amounts of text go through it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from docsgpt_embtune.embeddings import StockEmbeddings, TunedEmbeddings
from docsgpt_embtune.model_folder import document_fingerprint, is_tuned_folder
from docsgpt_embtune.training.base_models import resolve_base

Vectors = npt.NDArray[np.float32]

BATCH_SIZE = 64  # texts of like length, so that little padding is computed
SAME_VECTOR = 0.999  # cosine; the same model gives 1 - 1e-6 on any machine, another model hardly ever more than .99


@dataclass(frozen=True)
class ServingModel:
    """A model on this machine, tuned or stock.

    Attributes:
        folder: Where it is; what EMBEDDINGS_NAME has to say.
        fingerprint: Identifies the model that embeds chunks; a query adapter does not change it.
        embeddings: What DocsGPT would call.
    """

    folder: Path
    fingerprint: str
    embeddings: StockEmbeddings

    @property
    def dimension(self) -> int:
        """Width of the vectors."""
        return self.embeddings.dimension

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed chunks as DocsGPT would: (N, D) float32, in order."""
        vectors = self.embeddings.embed_documents(texts)
        return np.array(vectors, dtype=np.float32).reshape(len(texts), self.dimension)

    def seen_share(self, texts: Sequence[str]) -> float:
        """Share of the texts' wordpieces that the model reads before it cuts them off, from 0 to 1."""
        tokenizer = self.embeddings.model.tokenizer
        limit = self.embeddings.model.max_seq_length
        lengths = [len(ids) for ids in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]
        if limit is None or not lengths:
            return 1.0
        return sum(min(length, limit) for length in lengths) / sum(lengths)


def load_serving_model(name: str) -> ServingModel:
    """Load a tuned folder, any other model folder, `bundled`, or a hub name.

    Raises:
        ModelFolderError: If it is nowhere, or a tuned folder is not whole.
    """
    folder = resolve_base(name).folder
    embeddings = (TunedEmbeddings if is_tuned_folder(folder) else StockEmbeddings)(
        str(folder), encode_kwargs={"batch_size": BATCH_SIZE}
    )
    return ServingModel(folder, document_fingerprint(folder), embeddings)


def cosines(vectors: Vectors, others: Vectors) -> Vectors:
    """Cosine of each row with its counterpart: (N, D), (N, D) -> (N,); 0 where a vector is all zeros."""
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(others, axis=1)
    products = (vectors * others).sum(axis=1)
    return np.asarray(np.divide(products, norms, out=np.zeros_like(products), where=norms > 0), dtype=np.float32)
