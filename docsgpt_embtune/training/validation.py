"""Validation within seconds, over a fixed, hard part of the corpus instead of all of it."""

from collections.abc import Sequence
from typing import Self

import numpy as np

from docsgpt_embtune.data.dataset import RetrievalDataset, judge_first_copies
from docsgpt_embtune.evaluation.bm25 import retrieve_bm25
from docsgpt_embtune.evaluation.comparison import BM25_CHUNKS
from docsgpt_embtune.evaluation.metrics import QueryScores, score_queries
from docsgpt_embtune.evaluation.ranking import Ranking, search_exact
from docsgpt_embtune.evaluation.verdict import HEADLINE_KS
from docsgpt_embtune.vectors import Vectors

# Chunks kept for each validation question: those that the base model ranks highest, as tuning must push them down. As
# many again are found by BM25, as they may mislead keywords beside the model.
HARDEST_PER_QUERY = 30


class Pool:
    """Questions, and the chunks that they are ranked over: made by `of_the_hardest` or `of_all`.

    Attributes:
        dataset: Questions, corpus and judgments; of identical chunks, only the first is judged.
        queries: Texts of the questions, Q.
        doc_ids: Ids of the chunks, N.
        chunks: Their texts, N.
    """

    def __init__(self, dataset: RetrievalDataset, doc_ids: Sequence[str]) -> None:
        self.dataset = dataset
        self.queries = list(dataset.queries.values())
        self.doc_ids = doc_ids
        self.chunks = [dataset.corpus[doc_id] for doc_id in doc_ids]

    @classmethod
    def of_the_hardest(
        cls,
        dataset: RetrievalDataset,
        query_embeddings: Vectors,
        corpus_embeddings: Vectors,
        hardest: int = HARDEST_PER_QUERY,
    ) -> Self:
        """Choose the judged chunks and the hardest others, by the base model's vectors and by BM25.

        Ranking the whole corpus after every epoch would cost more than the epoch. A pool of everything that the base
        model confuses with an answer orders models as the whole corpus does, at a fraction of the cost. Scores on it
        are a little higher, a tuned model's more so than the base's, as the pool holds the chunks that are worst for
        the base. They serve to choose between models, and are not reported as test results.

        Args:
            dataset: Validation queries and judgments.
            query_embeddings: The base model's vectors of the queries (Q, D), in the dataset's order.
            corpus_embeddings: Its vectors of the corpus (N, D), in the dataset's order.
            hardest: Chunks to keep for each question by each of the two searches.
        """
        dataset = judge_first_copies(dataset)
        doc_ids = list(dataset.corpus)
        pool = {doc_ids[row] for row in np.unique(_nearest(query_embeddings, corpus_embeddings, hardest))}
        if len(doc_ids) <= BM25_CHUNKS:
            alike = retrieve_bm25(dataset, k=hardest).nearest  # -1 where no more chunks share a word
            pool.update(doc_ids[row] for row in np.unique(alike[alike >= 0]))
        for judged in (*dataset.relevant_docs.values(), *dataset.irrelevant_docs.values()):
            pool.update(judged)
        return cls(dataset, [doc_id for doc_id in doc_ids if doc_id in pool])

    @classmethod
    def of_all(cls, dataset: RetrievalDataset) -> Self:
        """Take all chunks, where ranking them takes no time to speak of."""
        return cls(judge_first_copies(dataset), list(dataset.corpus))

    def score(self, query_embeddings: Vectors, chunk_embeddings: Vectors) -> QueryScores:
        """Rank the chunks by exact L2, as the host ranks, and score each query at 1 and 10.

        Args:
            query_embeddings: Vectors of the questions (Q, D), in order.
            chunk_embeddings: Vectors of the chunks (N, D), in order.
        """
        nearest = _nearest(query_embeddings, chunk_embeddings, max(HEADLINE_KS))
        ranking = Ranking(list(self.dataset.queries), self.doc_ids, nearest)
        return score_queries(ranking, self.dataset.qrels, HEADLINE_KS)


def score_vectors(dataset: RetrievalDataset, query_embeddings: Vectors, corpus_embeddings: Vectors) -> QueryScores:
    """Rank chunks by exact L2, as the host ranks, and score each query at 1 and 10; identical chunks count as one.

    Args:
        dataset: Queries and judgments.
        query_embeddings: Vectors of its queries (Q, D), in its order.
        corpus_embeddings: Vectors of its corpus (N, D), in its order.
    """
    return Pool.of_all(dataset).score(query_embeddings, corpus_embeddings)


def _nearest(query_embeddings: Vectors, corpus_embeddings: Vectors, k: int) -> np.ndarray:
    count = len(corpus_embeddings)
    return search_exact(query_embeddings, [(np.arange(count), corpus_embeddings)], min(k, count))
