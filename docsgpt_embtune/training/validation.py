"""Validation that costs seconds: a fixed, hard part of the corpus instead of all of it."""

from collections.abc import Sequence

import faiss
import numpy as np

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.training.encoding import Encoder, Vectors

# Chunks kept for each validation question: what the base model ranks highest is what tuning must push down.
HARDEST_PER_QUERY = 30
K = 10


class ValidationPool:
    """Judged chunks and the hardest others, chosen once with the base model's vectors.

    Ranking N chunks again after every epoch costs more than the epoch itself. A pool that holds whatever the
    base model confuses with an answer orders models as the whole corpus does, at a fraction of the cost; its
    figures are a little higher, so they choose between epochs and are not reported as test results.

    Args:
        dataset: Validation queries and judgments.
        query_embeddings: The base model's vectors of the queries (Q, D), in the dataset's order.
        corpus_embeddings: Its vectors of the corpus (N, D), in the dataset's order.
    """

    def __init__(self, dataset: RetrievalDataset, query_embeddings: Vectors, corpus_embeddings: Vectors) -> None:
        doc_ids = list(dataset.corpus)
        index = faiss.IndexFlatL2(corpus_embeddings.shape[1])
        index.add(corpus_embeddings)
        _, rows = index.search(query_embeddings, min(HARDEST_PER_QUERY, len(doc_ids)))  # (Q, HARDEST)
        judged = {doc_id for ids in (*dataset.relevant_docs.values(), *dataset.irrelevant_docs.values()) for doc_id in ids}
        kept = judged | {doc_ids[row] for row in np.unique(rows)}
        self.doc_ids = [doc_id for doc_id in doc_ids if doc_id in kept]
        self.dataset = dataset

    def ndcg(self, encode: Encoder) -> Vectors:
        """Return nDCG@10 of each query (Q,), ranked by exact L2 as the host does."""
        documents = encode(self.dataset.corpus[doc_id] for doc_id in self.doc_ids)
        queries = encode(self.dataset.queries.values())
        index = faiss.IndexFlatL2(documents.shape[1])
        index.add(documents)
        _, rows = index.search(queries, min(K, len(self.doc_ids)))  # (Q, K)
        return np.array([self._ndcg_of(q, ranking) for q, ranking in zip(self.dataset.queries, rows, strict=True)])

    def _ndcg_of(self, query_id: str, ranking: Sequence[int]) -> float:
        good = set(self.dataset.relevant_docs[query_id])
        discount = 1 / np.log2(np.arange(2, K + 2))
        gains = [self.doc_ids[row] in good for row in ranking]
        return float(discount[: len(gains)][gains].sum() / discount[: len(good)].sum())
