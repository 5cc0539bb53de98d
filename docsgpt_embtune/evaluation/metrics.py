"""Recall, hit, MRR and nDCG per question, computed by trec_eval through ir-measures."""

from collections.abc import Iterable, Mapping, Sequence

import ir_measures
import numpy as np
import numpy.typing as npt

from docsgpt_embtune.evaluation.ranking import Ranking

KS = (1, 2, 3, 5, 10, 20)
TARGETS = (0.5, 0.8, 0.9)  # shares of the questions whose answer should be among the first K

QueryScores = dict[str, dict[str, float]]  # metric -> query_id -> value

_MEASURES = {"recall": ir_measures.R, "hit": ir_measures.Success, "mrr": ir_measures.RR, "ndcg": ir_measures.nDCG}


def score_queries(
    ranking: Ranking, qrels: Mapping[str, Mapping[str, int]], ks: Sequence[int] = KS
) -> dict[str, dict[str, float]]:
    """Score each query.

    `recall@k` is the share of a question's good chunks that are among the first k; `hit@k` is 1 if at least one is.
    The two are equal if every question has one good chunk.

    Args:
        ranking: Documents per query, nearest first.
        qrels: query_id -> {doc_id: 1}.
        ks: Cutoffs, up to the depth that was ranked; a smaller corpus may have fewer documents.

    Returns:
        Metric -> query_id -> value in 0..1. The metrics are "recall@k" for each k, then "hit@k", "mrr@k" and "ndcg@k".
    """
    names = {measure @ k: f"{name}@{k}" for name, measure in _MEASURES.items() for k in ks}
    scores: dict[str, dict[str, float]] = {name: dict.fromkeys(ranking.query_ids, 0.0) for name in names.values()}
    for metric in ir_measures.iter_calc(list(names), qrels, ranking.run(max(ks))):
        scores[names[metric.measure]][metric.query_id] = metric.value
    return scores


def mean_scores(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Average each metric over the queries."""
    return {name: float(np.mean(list(values.values()))) for name, values in scores.items()}


def joined_scores(parts: Iterable[QueryScores]) -> QueryScores:
    """Merge the scores of disjoint sets of questions."""
    joined: QueryScores = {}
    for part in parts:
        for metric, of_queries in part.items():
            joined.setdefault(metric, {}).update(of_queries)
    return joined


def k_for_share(
    ranking: Ranking, relevant_docs: Mapping[str, Sequence[str]], targets: Sequence[float] = TARGETS
) -> dict[float, int | None]:
    """Return how many chunks must be fed so that a share of the questions has an answer among them.

    One good chunk among the first K is enough: this is what a reader notices, and the reason to raise K.

    Returns:
        target -> the smallest K at which the share of answered questions reaches it; None if it exceeds the ranking's
        depth.
    """
    share = share_answered(ranking, relevant_docs)
    return {target: int(np.argmax(share >= target)) if share[-1] >= target else None for target in targets}


def share_answered(ranking: Ranking, relevant_docs: Mapping[str, Sequence[str]]) -> npt.NDArray[np.float64]:
    """Return the share of questions with a good chunk among the first K: (depth + 1,), indexed by K."""
    ranks = [ranking.best_rank(query_id, relevant_docs[query_id]) for query_id in ranking.query_ids]
    answered = np.bincount([rank for rank in ranks if rank is not None], minlength=ranking.depth + 1)
    return np.cumsum(answered) / len(ranks)
