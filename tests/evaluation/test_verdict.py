import math

import numpy as np
import pytest

from docsgpt_embtune.evaluation.verdict import (
    FEWEST_TO_JUDGE,
    PairedGains,
    _holm,
    chance_of_best,
    judge,
    smallest_gain,
)


def scores(recall: list[float], ndcg: list[float] | None = None) -> dict[str, dict[str, float]]:
    named = {"recall@1": recall, "ndcg@10": recall if ndcg is None else ndcg}
    return {metric: {f"q{i}": value for i, value in enumerate(values)} for metric, values in named.items()}


def test_a_clear_gain_is_improved():
    judgment = judge(scores([0.0] * 40 + [1.0] * 60), scores([1.0] * 100))
    assert judgment.verdict == "improved"
    gain = judgment.differences["recall@1"]
    assert gain.mean == pytest.approx(0.4)
    assert 0.3 < gain.low < 0.4 < gain.high < 0.51
    assert gain.p <= 0.001


def test_a_clear_loss_is_worse():
    assert judge(scores([1.0] * 100), scores([0.0] * 40 + [1.0] * 60)).verdict == "worse"


def test_the_same_model_proves_nothing():
    judgment = judge(scores([0.0, 1.0] * 50), scores([0.0, 1.0] * 50))
    assert judgment.verdict == "not enough evidence"
    assert judgment.differences["recall@1"].p == 1.0
    assert judgment.smallest_gain["recall@1"] == pytest.approx(6 / 100)


def test_a_large_gain_on_few_questions_is_not_enough():
    judgment = judge(scores([0.0] * 5), scores([1.0] * 5))
    assert judgment.verdict == "not enough evidence"
    assert judgment.smallest_gain["recall@1"] is None
    assert judge(scores([0.0] * 12), scores([1.0] * 12)).verdict == "improved"


def test_a_gain_does_not_hide_a_significant_loss_in_another_headline_metric():
    judgment = judge(scores([0.0] * 50 + [1.0] * 50, [1.0] * 100), scores([1.0] * 100, [0.8] * 100))
    assert judgment.differences["recall@1"].significant
    assert judgment.verdict == "worse"


def test_a_fall_is_none_while_its_interval_includes_zero_though_its_p_value_is_low():
    judgment = judge(scores([0.0] * 100, [0.5] * 100), scores([1.0] * 100, [0.4] * 36 + [0.6] * 22 + [0.5] * 42))
    fall = judgment.differences["ndcg@10"]
    assert fall.p < 0.05
    assert fall.low < fall.mean < 0 < fall.high
    assert judgment.verdict == "improved"


def test_a_change_of_all_says_something_from_the_fewest_to_judge_on():
    few, enough = (
        judge(scores([0.0] * queries), scores([1.0] * queries)) for queries in (FEWEST_TO_JUDGE - 1, FEWEST_TO_JUDGE)
    )
    assert (few.verdict, enough.verdict) == ("not enough evidence", "improved")
    assert few.smallest_gain["recall@1"] is None
    assert enough.smallest_gain["recall@1"] == pytest.approx(1.0)


def test_the_seed_decides_the_numbers():
    values = np.random.default_rng(0).random(60).round(2).tolist()
    baseline, tuned = scores([0.5] * 60), scores(values)
    assert judge(baseline, tuned, seed=1) == judge(baseline, tuned, seed=1)
    assert judge(baseline, tuned, seed=1) != judge(baseline, tuned, seed=2)


def test_p_agrees_with_all_sign_flips_counted_by_hand():
    gains = np.array([0.5, -0.2, 0.9, 0.4, 0.7, 0.3, -0.1, 0.6])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1).T  # (256, 8)
    by_hand = np.mean(signs @ gains >= gains.sum() - 1e-12)
    judgment = judge(
        {"recall@1": dict.fromkeys("abcdefgh", 0.0)},
        {"recall@1": dict(zip("abcdefgh", gains, strict=True))},
        headline=["recall@1"],
    )
    assert judgment.differences["recall@1"].p == pytest.approx(by_hand)


def test_holm_multiplies_step_by_step_and_stays_in_order():
    assert _holm({"a": 0.02, "b": 0.03, "c": 0.9}) == pytest.approx({"a": 0.06, "b": 0.06, "c": 0.9})


def gains(*groups: list[float]) -> PairedGains:
    return PairedGains(sums=np.array([sum(g) for g in groups]), sizes=np.array([float(len(g)) for g in groups]))


def test_the_smallest_gain_shrinks_with_the_root_of_the_questions():
    few, many = gains(*[[0.5], [-0.5]] * 200), gains(*[[0.5], [-0.5]] * 800)
    assert smallest_gain(few) == pytest.approx(2 * smallest_gain(many), rel=0.01)


def test_the_smallest_gain_by_hand():
    many = gains(*[[0.5], [-0.5]] * 200)
    # Quantiles of the normal distribution: .95 for the significance level, .8 for the power.
    assert smallest_gain(many) == pytest.approx((1.64485 + 0.84162) * 0.5 / 399**0.5, rel=1e-4)


def test_the_standard_error_by_hand():
    alone = gains([1.0], [0.0], [0.0], [1.0])
    assert alone.standard_error == pytest.approx(np.std([1, 0, 0, 1], ddof=1) / 2)
    # mean 3/5; what the groups add up to beyond it: 2 - 2 * 3/5, 0 - 3/5, 1 - 2 * 3/5
    grouped = gains([1.0, 1.0], [0.0], [1.0, 0.0])
    assert grouped.standard_error == pytest.approx((3 / 2 * (0.8**2 + 0.6**2 + 0.2**2)) ** 0.5 / 5)


def test_five_wordings_of_a_question_are_one_piece_of_evidence():
    """Thirteen answers, five wordings each, which the tuned model wins or loses together: nine won, four lost."""
    wordings = [[f"q{5 * answer + i}" for i in range(5)] for answer in range(13)]
    baseline, tuned = scores([0.0] * 45 + [1.0] * 20), scores([1.0] * 45 + [0.0] * 20)
    assert judge(baseline, tuned).verdict == "improved"
    grouped = judge(baseline, tuned, groups=wordings)
    assert grouped.verdict == "not enough evidence"
    assert (grouped.queries, grouped.groups) == (65, 13)
    # The binomial tail: nine or more of thirteen coins, times two for there being two metrics.
    assert grouped.differences["recall@1"].p == pytest.approx(2 * sum(map(math.comb, [13] * 5, range(9, 14))) / 2**13)
    assert grouped.differences["recall@1"].mean == pytest.approx(25 / 65)
    assert grouped.differences["recall@1"].low < 0 < judge(baseline, tuned).differences["recall@1"].low


def test_groups_of_one_change_nothing():
    values = np.random.default_rng(0).random(40).round(2).tolist()
    baseline, tuned = scores([0.5] * 40), scores(values)
    assert judge(baseline, tuned, groups=[[f"q{i}"] for i in range(40)]) == judge(baseline, tuned)


def test_the_best_of_many_lucky_models_is_called_luck():
    """Eight candidates that are the base but for noise: alone the best would pass in a third of the runs."""
    noise = np.random.default_rng(0)
    alone = together = 0
    for _ in range(60):
        gains = noise.normal(size=(8, 40)).round(3)
        baseline = {f"q{i}": 0.0 for i in range(40)}
        candidates = [dict(zip(baseline, row.tolist(), strict=True)) for row in gains]
        best = candidates[int(gains.mean(axis=1).argmax())]
        alone += chance_of_best(baseline, [best], best) <= 0.05
        together += chance_of_best(baseline, candidates, best) <= 0.05
    assert alone >= 15
    assert together <= 7


def test_the_chance_of_the_chosen_agrees_with_all_sign_flips_counted_by_hand():
    first, second = [0.5, -0.2, 0.9, 0.4, -0.7, 0.3, -0.1, 0.2], [0.1, 0.8, -0.3, 0.9, 0.6, -0.4, 0.5, 0.7]
    signs = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1).T  # (256, 8)
    highest = (signs @ np.array([first, second]).T).max(axis=1)
    candidates = [dict(zip("abcdefgh", gains, strict=True)) for gains in (first, second)]
    for chosen in candidates:
        by_hand = np.mean(highest >= sum(chosen.values()) - 1e-12)
        p = chance_of_best(dict.fromkeys(chosen, 0.0), candidates, chosen)
        assert p == pytest.approx(by_hand, abs=0.015)


def test_candidates_that_are_alike_cost_nothing():
    gains = dict(zip("abcdefgh", [0.5, -0.2, 0.9, 0.4, 0.7, 0.3, -0.1, 0.6], strict=True))
    baseline = dict.fromkeys(gains, 0.0)
    assert chance_of_best(baseline, [gains] * 5, gains) == chance_of_best(baseline, [gains], gains)
    by_judge = judge({"recall@1": baseline}, {"recall@1": gains}, headline=("recall@1",)).differences["recall@1"].p
    assert chance_of_best(baseline, [gains], gains) == pytest.approx(by_judge, abs=0.01)


@pytest.mark.parametrize("groups", [[["q0"]], [["q0", "q1"], ["q1"]], [["q0"], ["q2"]]])
def test_groups_that_do_not_hold_each_query_once_are_refused(groups):
    with pytest.raises(ValueError, match="the groups do not hold each of the 2 queries once"):
        judge(scores([0.0, 1.0]), scores([1.0, 1.0]), groups=groups)


@pytest.mark.parametrize(
    ("baseline", "tuned"),
    [
        ({"recall@1": {"a": 0.0}}, {"recall@1": {"b": 0.0}}),
        ({"recall@1": {}}, {"recall@1": {}}),
        ({"recall@1": {"a": 0.0}}, {"recall@2": {"a": 0.0}}),
        ({"recall@2": {"a": 0.0}}, {"recall@2": {"a": 0.0}}),
    ],
    ids=["other queries", "no queries", "other metrics", "no headline metric"],
)
def test_what_cannot_be_paired_is_refused(baseline, tuned):
    with pytest.raises(ValueError, match=r"metrics|queries"):
        judge(baseline, tuned)


def one_change(queries: int):
    baseline = {metric: {str(n): 0.0 for n in range(queries)} for metric in ("recall@1", "ndcg@10")}
    return baseline, {metric: {**values, "0": 1.0} for metric, values in baseline.items()}


@pytest.mark.parametrize("queries", [1, 2, 50])
def test_one_changed_query_is_no_evidence(queries):
    judgment = judge(*one_change(queries))
    assert judgment.verdict == "not enough evidence"
    difference = judgment.differences["recall@1"]
    assert difference.p >= 0.5
    assert difference.low <= 0 <= difference.high
