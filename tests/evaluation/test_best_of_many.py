"""What validation says of the model that it chose."""

import math

import numpy as np
import pytest

from docsgpt_embtune.evaluation.best_of_many import Choice, gain_and_error
from docsgpt_embtune.evaluation.verdict import DECIDING, HEADLINE

QUERIES = [f"q{n}" for n in range(60)]
GROUPS = [[query_id] for query_id in QUERIES]


def scores(values):
    return {metric: dict(zip(QUERIES, values, strict=True)) for metric in HEADLINE}


@pytest.mark.parametrize("gain", [0.0, 0.1, 0.6])
def test_verdict_is_what_decides_whether_a_model_is_written(gain):
    drawn = np.random.default_rng(5)
    improved = 0
    for _ in range(20):
        baseline, *candidates = (scores(drawn.normal(0.0, 1.0, len(QUERIES))) for _ in range(11))
        candidates[0] = scores(np.array(list(candidates[0][DECIDING].values())) + gain)
        chosen = max(candidates, key=lambda each: sum(each[DECIDING].values()))
        choice = Choice(baseline, candidates, chosen, GROUPS)
        judgment = choice.judgment
        assert (judgment.verdict == "improved") == choice.is_beyond_luck
        assert (judgment.differences[DECIDING].p <= 0.05) == (judgment.verdict == "improved")
        improved += judgment.verdict == "improved"
    assert improved <= 3 if gain == 0 else improved > 0


def test_a_gain_beyond_luck_does_not_make_up_for_a_fall_elsewhere():
    drawn = np.random.default_rng(7).normal(0.5, 0.1, len(QUERIES))
    baseline, chosen = (
        {"recall@1": scores(first)["recall@1"], DECIDING: scores(drawn + more)[DECIDING]}
        for first, more in ((drawn, 0.0), (drawn - 0.3, 0.2))
    )
    choice = Choice(baseline, [chosen], chosen, GROUPS)
    assert choice.is_higher
    assert choice.is_beyond_luck
    assert choice.judgment.verdict == "worse"


def test_chance_is_computed_once(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "docsgpt_embtune.evaluation.best_of_many.chance_of_best", lambda *_, **__: asked.append(1) or 0.01
    )
    chosen = scores(np.linspace(0.5, 0.9, len(QUERIES)))
    choice = Choice(scores([0.5] * len(QUERIES)), [chosen], chosen, GROUPS)
    assert choice.is_beyond_luck
    assert choice.judgment.verdict == choice.to_dict()["verdict"] == "improved"
    assert len(asked) == 1


def test_one_that_is_beyond_luck_worse_is_called_so():
    baseline, chosen = scores([0.5] * len(QUERIES)), scores([0.1] * len(QUERIES))
    assert Choice(baseline, [chosen], chosen, GROUPS).judgment.verdict == "worse"


def test_wordings_of_one_question_are_one_piece_of_evidence():
    drawn = np.random.default_rng(3)
    wordings = [QUERIES[start : start + 6] for start in range(0, len(QUERIES), 6)]
    by_luck = {"alone": 0, "together": 0}
    for _ in range(300):
        gains = np.repeat(drawn.normal(0.0, 0.2, len(wordings)), 6)
        new, old = scores(0.5 + gains), scores([0.5] * len(QUERIES))
        for kind, groups in (("alone", GROUPS), ("together", wordings)):
            gain, error = gain_and_error(new, old, groups)
            by_luck[kind] += gain > error
    assert by_luck["together"] < 0.26 * 300  # with ten answers one error is passed by luck in 17 of 100
    assert by_luck["alone"] > 0.3 * 300


def test_choice_counts_the_wordings_of_one_question_once():
    """Seven of ten questions gain, three lose, with six wordings each."""
    new, old = scores([0.6] * 42 + [0.4] * 18), scores([0.5] * len(QUERIES))
    wordings = [QUERIES[start : start + 6] for start in range(0, len(QUERIES), 6)]
    alone, together = (Choice(old, [new], new, groups) for groups in (GROUPS, wordings))
    assert (alone.judgment.verdict, alone.judgment.groups) == ("improved", 60)
    assert (together.judgment.verdict, together.judgment.groups) == ("not enough evidence", 10)
    assert together.p == pytest.approx(sum(map(math.comb, [10] * 4, range(7, 11))) / 2**10, abs=0.01)
    assert together.judgment.differences[DECIDING].p == together.p
    worse = Choice(new, [old], old, wordings)
    assert worse.judgment.verdict == "not enough evidence"
    assert not worse.is_higher


def test_one_answer_is_no_evidence():
    gain, error = gain_and_error(scores([0.9] * len(QUERIES)), scores([0.1] * len(QUERIES)), [QUERIES])
    assert gain == pytest.approx(0.8)
    assert error == math.inf
