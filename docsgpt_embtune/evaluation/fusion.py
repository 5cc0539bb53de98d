"""Rank fusion of two searches, as in hybrid retrieval: the gain available without tuning."""

import numpy as np
import numpy.typing as npt

from docsgpt_embtune.evaluation.ranking import Ranking

_CONSTANT = 60  # of reciprocal rank fusion, in the paper and in DocsGPT's application/retriever/hybrid_rag.py


def fused(first: Ranking, second: Ranking) -> Ranking:
    """Fuse two rankings of one corpus by reciprocal rank fusion.

    Each ranking adds 1 / (60 + rank) to a document's score. Documents with equal scores keep the first ranking's order;
    those found only by the second come after them.

    Args:
        first: (Q, k) documents.
        second: At most as many documents for the same queries.

    Returns:
        The first k documents of each query.

    Source:
        Cormack, Clarke and Büttcher, 2009, "Reciprocal rank fusion outperforms Condorcet and individual rank learning
        methods".
    """
    nearest = np.full_like(first.nearest, -1)
    for row, ranked in enumerate(zip(first.nearest, second.nearest, strict=True)):
        found = _fused_row(*ranked)[: first.depth]
        nearest[row, : len(found)] = found
    return Ranking(query_ids=first.query_ids, doc_ids=first.doc_ids, nearest=nearest)


def _fused_row(*ranked: npt.NDArray[np.int64]) -> list[int]:
    scores: dict[int, float] = {}
    for documents in ranked:
        for rank, document in enumerate(documents[documents >= 0].tolist(), start=1):
            scores[document] = scores.get(document, 0.0) + 1 / (_CONSTANT + rank)
    return sorted(scores, key=lambda document: -scores[document])
