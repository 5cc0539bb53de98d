"""Rank the corpus for each question as DocsGPT does: exact L2 search over the embeddings class's vectors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import numpy.typing as npt

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.evaluation.vector_cache import (
    Shard,
    StoredVectors,
    VectorCache,
    cache_folder,
    embed_corpus,
    embed_queries,
)
from docsgpt_embtune.vectors import EmbeddingModel, Vectors, unit_norm

Run = dict[str, dict[str, float]]
StoreName = Literal["faiss", "langchain"]

DEPTH = 100  # documents kept per query; nobody feeds more to a language model
_UNIT_TOLERANCE = 1e-4  # deviation of a norm from 1 up to which L2 distance and cosine similarity rank alike
_SPARE = 32  # rows searched beyond k, in case rounding has pushed a row of the top k behind the k-th
_NO_MODEL = "00"  # fingerprint for vectors in a temporary cache, which are never looked up again


@dataclass(frozen=True)
class Ranking:
    """The documents nearest to each query, nearest first.

    Attributes:
        query_ids: Queries, in the dataset's order.
        doc_ids: The whole corpus, in the dataset's order.
        nearest: (Q, k) indices into `doc_ids`; -1 where a query found fewer than k documents.
        nearest_by_cosine: The same by cosine similarity, for a model whose vectors are not unit-norm; None
            if they are, since L2 distance and cosine similarity then rank alike.
    """

    query_ids: Sequence[str]
    doc_ids: Sequence[str]
    nearest: npt.NDArray[np.int64]
    nearest_by_cosine: npt.NDArray[np.int64] | None = None

    @property
    def by_cosine(self) -> "Ranking":
        """The ranking by cosine similarity; this same ranking if the vectors are unit-norm."""
        return self if self.nearest_by_cosine is None else replace(self, nearest=self.nearest_by_cosine)

    @property
    def depth(self) -> int:
        """Documents kept per query."""
        return int(self.nearest.shape[1])

    def top(self, query_id: str, k: int) -> list[str]:
        """Return the ids of a query's first k documents, nearest first."""
        return [self.doc_ids[index] for index in self.nearest[self._row_of[query_id], :k] if index >= 0]

    def run(self, k: int) -> Run:
        """Return the first k documents per query as a trec_eval run: query_id -> {doc_id: score}, score = -rank.

        Ranks are used because distances can tie, and every tool breaks ties in its own way.
        """
        return {
            query_id: {doc_id: -float(rank) for rank, doc_id in enumerate(self.top(query_id, k), start=1)}
            for query_id in self.query_ids
        }

    def best_rank(self, query_id: str, doc_ids: Iterable[str]) -> int | None:
        """Return the rank (from 1) of the first of these documents, or None if none is within the depth."""
        wanted = [self._index_of[doc_id] for doc_id in doc_ids]
        found = np.flatnonzero(np.isin(self.nearest[self._row_of[query_id]], wanted))
        return int(found[0]) + 1 if found.size else None

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {query_id: row for row, query_id in enumerate(self.query_ids)}

    @cached_property
    def _index_of(self) -> dict[str, int]:
        return {doc_id: index for index, doc_id in enumerate(self.doc_ids)}


def retrieve(
    model: EmbeddingModel,
    dataset: RetrievalDataset,
    *,
    k: int = DEPTH,
    store: StoreName = "faiss",
    cache: Path | None = None,
    fingerprint: str | None = None,
    document_fingerprint: str | None = None,
) -> Ranking:
    """Rank the corpus for each query as DocsGPT's FAISS store does.

    Queries and chunks are embedded with the calls that DocsGPT makes, then searched exactly by squared L2 distance. So
    a model that is not unit-norm is ranked as in DocsGPT, not as cosine similarity would rank it.

    Args:
        model: Anything with `embed_query`, `embed_documents` and `dimension`.
        dataset: Queries (Q) and corpus (N); judgments are ignored.
        k: Documents kept per query; N if the corpus is smaller.
        store: "langchain" ranks through langchain_community's FAISS, as DocsGPT before 0.19 did. Same ranks.
        cache: Folder that caches the vectors; none if not given.
        fingerprint: Hex digest of what determines the model's vectors; without one, the cache is not used.
        document_fingerprint: The same for the chunk vectors, if a query adapter makes the two differ.

    Returns:
        The ranking; equal distances are in corpus order.

    Raises:
        EvaluationError: If a vector is not finite or not `dimension` wide, or the disk is full.

    Source:
        DocsGPT's application/vectorstore/faiss.py.
    """
    with cache_folder(cache if fingerprint else None) as folder:
        of_queries = fingerprint or _NO_MODEL
        of_documents = document_fingerprint or of_queries
        queries = embed_queries(  # (Q, D)
            model, list(dataset.queries.values()), VectorCache(folder, of_queries, model.dimension)
        )
        corpus = embed_corpus(  # (N, D)
            model, list(dataset.corpus.values()), VectorCache(folder, of_documents, model.dimension)
        )
        k = min(k, len(corpus))
        if store == "langchain":
            nearest = search_langchain(queries, corpus.array(), k)
        else:
            nearest = search_exact(queries, corpus.shards(), k)
        cosine = None if _all_unit_norm(queries, corpus) else search_cosine(queries, corpus.shards(), k)
    return Ranking(
        query_ids=list(dataset.queries), doc_ids=list(dataset.corpus), nearest=nearest, nearest_by_cosine=cosine
    )


def search_exact(queries: Vectors, corpus: Iterable[Shard], k: int) -> npt.NDArray[np.int64]:
    """Find the k documents nearest to each query by squared L2 distance.

    Args:
        queries: (Q, D)
        corpus: Shards of (N, D); one shard is in memory at a time.
        k: Documents per query, 1 <= k <= N.

    Returns:
        (Q, k) positions in the corpus, nearest first; equal distances are in corpus order.
    """
    distances = np.empty((len(queries), 0), dtype=np.float32)  # (Q, <= k), the best so far
    rows = np.empty((len(queries), 0), dtype=np.int64)
    for positions, shard in corpus:
        shard_distances, shard_rows = _search_shard(queries, shard, min(k + _SPARE, len(shard)))
        distances = np.hstack([distances, shard_distances])
        rows = np.hstack([rows, positions[shard_rows]])
        order = np.lexsort((rows, distances), axis=1)[:, :k]
        distances, rows = np.take_along_axis(distances, order, axis=1), np.take_along_axis(rows, order, axis=1)
    return rows


def _search_shard(queries: Vectors, shard: Vectors, k: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Find the k nearest rows of a shard: distances and rows, each (Q, k).

    faiss searches a batch of queries through a matrix product, whose last bits depend on a vector's position, so equal
    vectors would not tie. DocsGPT searches one query at a time, which subtracts. Therefore the distances of the rows
    found are recomputed by subtraction.
    """
    queries, shard = (np.ascontiguousarray(vectors, dtype=np.float32) for vectors in (queries, shard))  # as faiss needs
    _, rows = faiss.knn(queries, shard, k)
    query_rows = np.repeat(np.arange(len(queries)), k)
    distances = np.empty(rows.shape, dtype=np.float32)
    pointers = [faiss.swig_ptr(array) for array in (queries, query_rows, shard, rows, distances)]
    faiss.pairwise_indexed_L2sqr(shard.shape[1], rows.size, *pointers)  # type: ignore[attr-defined]  # not in its stubs
    return distances, rows


def search_cosine(queries: Vectors, corpus: Iterable[Shard], k: int) -> npt.NDArray[np.int64]:
    """Find the documents of highest cosine similarity: `search_exact` over normalised vectors."""
    return search_exact(unit_norm(queries), ((positions, unit_norm(shard)) for positions, shard in corpus), k)


def search_langchain(queries: Vectors, corpus: Vectors, k: int) -> npt.NDArray[np.int64]:
    """Find the same documents as `search_exact` through langchain_community's FAISS store, one query at a time."""
    from langchain_community.vectorstores import FAISS
    from langchain_core.embeddings import FakeEmbeddings

    vectors: Any = [(str(row), corpus[row].tolist()) for row in range(len(corpus))]
    nothing_to_embed = FakeEmbeddings(size=corpus.shape[1])  # never called, as all vectors are given
    store = FAISS.from_embeddings(text_embeddings=vectors, embedding=nothing_to_embed)
    return np.array(
        [
            [int(document.page_content) for document, _ in store.similarity_search_with_score_by_vector(query, k=k)]
            for query in queries.tolist()
        ],
        dtype=np.int64,
    )


def _all_unit_norm(queries: Vectors, corpus: StoredVectors) -> bool:
    def are_unit(vectors: Vectors) -> bool:
        return bool(np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=_UNIT_TOLERANCE))

    return are_unit(queries) and all(are_unit(shard) for _, shard in corpus.shards())
