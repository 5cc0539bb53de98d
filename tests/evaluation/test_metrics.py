import math

import numpy as np
import pytest
import pytrec_eval

from docsgpt_embtune.evaluation.metrics import (
    KS,
    joined_scores,
    k_for_share,
    mean_scores,
    score_queries,
    share_answered,
)
from docsgpt_embtune.evaluation.ranking import Ranking, search_exact


def ranking(*rows: list[int], documents: int = 6) -> Ranking:
    return Ranking(
        query_ids=[f"q{i}" for i in range(len(rows))],
        doc_ids=[f"d{i}" for i in range(documents)],
        nearest=np.array(rows, dtype=np.int64),
    )


def test_by_hand():
    scores = score_queries(ranking([3, 0, 1, 2]), {"q0": {"d0": 1, "d2": 1}}, ks=(1, 2, 4))
    values = {name: by_query["q0"] for name, by_query in scores.items()}
    recall_hit_mrr = {name: value for name, value in values.items() if not name.startswith("ndcg")}
    assert recall_hit_mrr == {
        **{"recall@1": 0, "recall@2": 0.5, "recall@4": 1},
        **{"hit@1": 0, "hit@2": 1, "hit@4": 1},
        **{"mrr@1": 0, "mrr@2": 0.5, "mrr@4": 0.5},
    }
    gain = 1 / math.log2(3) + 1 / math.log2(5)
    assert values["ndcg@4"] == pytest.approx(gain / (1 + 1 / math.log2(3)), abs=1e-12)


def test_a_query_that_found_nothing_counts_as_zero():
    found = ranking([0, 1], [-1, -1], [-1, -1], [0, 1])
    scores = score_queries(found, {query_id: {"d0": 1} for query_id in found.query_ids}, ks=(1, 2))
    assert scores["recall@2"] == {"q0": 1.0, "q1": 0.0, "q2": 0.0, "q3": 1.0}
    two_of_five = joined_scores([scores, {"ndcg@2": {"another": 0.0}}])
    assert mean_scores(two_of_five)["ndcg@2"] == 0.4


def test_agrees_with_trec_eval_on_200_random_rankings_with_ties():
    """The oracle is trec_eval itself, on the order in which an exact search returned vectors that tie."""
    random = np.random.default_rng(0)
    corpus = random.integers(0, 2, (60, 4)).astype(np.float32)  # few distinct vectors: most distances tie
    queries = random.integers(0, 2, (200, 4)).astype(np.float32)
    nearest = search_exact(queries, [(np.arange(60), corpus)], 60)
    distances = ((queries[:, None] - corpus[None]) ** 2).sum(axis=2)
    assert all(len(set(row)) < 10 for row in distances.tolist())
    found = Ranking([f"q{i}" for i in range(200)], [f"d{i}" for i in range(60)], nearest)
    qrels = {
        f"q{i}": {f"d{d}": 1 for d in random.choice(60, size=random.integers(1, 6), replace=False)} for i in range(200)
    }
    run = {f"q{i}": {f"d{d}": 60.0 - rank for rank, d in enumerate(row)} for i, row in enumerate(nearest.tolist())}
    names = {"recall": "recall_{}", "hit": "success_{}", "ndcg": "ndcg_cut_{}"}
    cutoffs = ",".join(map(str, KS))
    oracle = pytrec_eval.RelevanceEvaluator(
        qrels, {f"recall.{cutoffs}", f"success.{cutoffs}", f"ndcg_cut.{cutoffs}", "recip_rank"}
    ).evaluate(run)
    scores = score_queries(found, qrels)
    for query_id in found.query_ids:
        for k in KS:
            for ours, theirs in names.items():
                assert abs(scores[f"{ours}@{k}"][query_id] - oracle[query_id][theirs.format(k)]) <= 1e-9
            reciprocal = oracle[query_id]["recip_rank"]
            expected = reciprocal if reciprocal >= 1 / k - 1e-12 else 0.0
            assert abs(scores[f"mrr@{k}"][query_id] - expected) <= 1e-9


def test_the_k_that_a_share_of_the_questions_needs():
    found = ranking([0, 1, 2], [1, 0, 2], [1, 2, 0], [3, 4, 5])
    good = dict.fromkeys(found.query_ids, ("d0",))
    assert k_for_share(found, good, targets=(0.25, 0.5, 0.75, 0.8)) == {0.25: 1, 0.5: 2, 0.75: 3, 0.8: None}


def test_an_answer_is_found_with_the_first_of_several_good_chunks():
    found = ranking([5, 4, 0, 1])
    assert k_for_share(found, {"q0": ("d1", "d4")}, targets=(1.0,)) == {1.0: 2}
    assert share_answered(found, {"q0": ("d2",)}).tolist() == [0.0] * 5  # one for each K, though nothing is found
