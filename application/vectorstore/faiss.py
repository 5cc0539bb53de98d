"""DocsGPT's default store: exact search by L2 distance, here in memory only.

A stand-in for DocsGPT's module of the same name, so that the modules here run without DocsGPT. Only
`application/vectorstore/base.py` replaces a file in DocsGPT.
"""

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import faiss
import numpy as np

from application.core.settings import settings
from application.vectorstore.base import BaseVectorStore
from application.vectorstore.document_class import Document


class FaissStore(BaseVectorStore):
    """A flat L2 index over the chunks of one source.

    Args:
        source_id: Name of the source; nothing is read from disk here.
        embeddings_key: Key for embeddings that need one.
        docs_init: Initial chunks, each with `page_content` and `metadata`.
    """

    score_kind = "l2_distance"

    def __init__(
        self, source_id: str = "", embeddings_key: str | None = None, docs_init: Iterable[Document] = ()
    ) -> None:
        super().__init__()
        self.source_id = source_id
        self.embeddings = self._get_embeddings(settings.EMBEDDINGS_NAME, embeddings_key)
        self.index: Any = None  # created with the first vectors, when their width is known
        self.documents: dict[str, Document] = {}  # chunk id -> chunk, in row order
        documents = list(docs_init)
        self.add_texts([document.page_content for document in documents], [d.metadata for d in documents])

    def add_texts(
        self,
        texts: Sequence[str],
        metadatas: Sequence[dict[str, Any]] | None = None,
        *args: Any,
        ids: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Embed texts in one call, append them, and return their ids."""
        if not texts:
            return []
        vectors = np.array(self.embeddings.embed_documents(list(texts)), dtype=np.float32)  # (N, D)
        ids = list(ids) if ids else [str(uuid.uuid4()) for _ in texts]
        if self.index is None:
            self.index = faiss.IndexFlatL2(vectors.shape[1])
        self.index.add(vectors)
        for doc_id, text, metadata in zip(ids, texts, metadatas or [{} for _ in texts], strict=True):
            self.documents[doc_id] = Document(text, dict(metadata))
        return ids

    def search(self, question: str, k: int = 4, *args: Any, **kwargs: Any) -> list[Document]:
        """Return the k nearest chunks."""
        return [document for document, _ in self.search_with_scores(question, k, *args, **kwargs)]

    def search_with_scores(
        self, question: str, k: int = 4, *args: Any, query_vector: Sequence[float] | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the k nearest chunks, each with its squared L2 distance; `query_vector` saves the embedding call."""
        if not self.documents:
            return []
        vector = self.embeddings.embed_query(question) if query_vector is None else query_vector
        distances, rows = self.index.search(np.array([vector], dtype=np.float32), min(k, len(self.documents)))
        in_row_order = list(self.documents.values())
        return [(in_row_order[row], float(distance)) for distance, row in zip(distances[0], rows[0], strict=True)]

    def get_chunks(self, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """Return every chunk."""
        return [
            {"doc_id": doc_id, "text": document.page_content, "metadata": document.metadata}
            for doc_id, document in self.documents.items()
        ]
