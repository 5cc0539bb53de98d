"""How much keywords count, by few questions and by many."""

import pytest

from docsgpt_embtune.evaluation.verdict import DECIDING
from docsgpt_embtune.training.keywords.fitting import NARROW, WIDE
from docsgpt_embtune.training.keywords.weights import WEIGHTS, KindAtWeight, worth_their_width

ALONE = 0.5


def scores(questions: int, value: float):
    return {DECIDING: {f"q{number}": value for number in range(questions)}}


def worth(questions: int, gains: dict[KindAtWeight, float]) -> list[KindAtWeight]:
    return worth_their_width(
        {weighed: scores(questions, ALONE + gain) for weighed, gain in gains.items()}, scores(questions, ALONE)
    )


@pytest.mark.parametrize(("questions", "best"), [(10, [KindAtWeight(NARROW, 0.4)]), (400, [])])
def test_what_other_corpora_gained_counts_where_few_questions_choose(questions, best):
    assert worth(questions, {KindAtWeight(NARROW, weight): 0.0 for weight in WEIGHTS})[:1] == best


def test_many_questions_decide_by_themselves():
    best = KindAtWeight(NARROW, 0.8)  # where other corpora lost
    assert worth(400, {KindAtWeight(NARROW, weight): 0.06 if weight == 0.8 else 0.03 for weight in WEIGHTS})[0] == best


@pytest.mark.parametrize(("gain", "kind"), [(0.036, NARROW), (0.045, WIDE)])
def test_wide_ones_must_gain_in_proportion_to_what_they_add(gain, kind):
    narrow, wide = KindAtWeight(NARROW, 0.3), KindAtWeight(WIDE, 0.3)
    assert worth(400, {narrow: 0.03, wide: gain})[0].kind == kind
