"""What a cheaper way to serve may lose, and how that is said."""

import pytest

from docsgpt_embtune.evaluation.decision import TOO_FEW, Trial, is_harmless, judgment_in_words, shows_loss
from docsgpt_embtune.evaluation.verdict import HEADLINE, judge


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ([0.0] * 200, "it loses nothing that matters"),
        ([0.0] * 20, TOO_FEW),
        ([0.05, -0.05] * 100, "it loses nothing that matters"),
        ([0.5, -0.5] * 10, TOO_FEW),
        ([-0.01] * 200, "it loses"),
        ([0.5] + [-0.01] * 199, "it loses"),
        ([0.0356, -0.0436] * 100, "it loses nothing that matters"),  # .004 on average, and .0095 at the worst
        ([0.081, -0.089] * 100, TOO_FEW),  # .004 on average, and .016 at the worst
        ([0.073, -0.087] * 100, "it loses"),  # .007 on average, which is not significant
    ],
)
def test_int8_must_rule_a_loss_out(changes, reason):
    exact = {str(number): 0.5 for number in range(len(changes))}
    quantised = {query_id: 0.5 + change for query_id, change in zip(exact, changes, strict=True)}
    metrics = ("recall@1", "ndcg@10")
    judgment = judge(dict.fromkeys(metrics, exact), dict.fromkeys(metrics, quantised))
    harmless, said = is_harmless(judgment)
    assert said == reason
    assert harmless == (reason == "it loses nothing that matters")
    assert reason == "it loses" or not shows_loss(judgment)


def test_what_finds_the_good_chunk_first_less_often_loses_whatever_ndcg_says():
    same = {str(number): 0.5 for number in range(200)}
    first = {query_id: 1.0 for query_id in same}
    less_often = {**first, **dict.fromkeys(list(first)[:10], 0.0)}
    loss = judge({"recall@1": first, "ndcg@10": same}, {"recall@1": less_often, "ndcg@10": same})
    assert is_harmless(loss) == (False, "it loses")
    assert shows_loss(loss)


def test_loss_is_shown_before_it_is_significant_and_a_gain_is_none():
    assert not shows_loss(few_gain())
    assert not shows_loss(few_gain(gaining=0))
    loss = few_gain(by=-0.1)
    assert loss.verdict == "not enough evidence"
    assert shows_loss(loss)


def few_gain(headline=HEADLINE, gaining=5, by=0.1):
    before = {str(number): 0.5 for number in range(100)}
    after = {query_id: 0.5 + by * (row < gaining) for row, query_id in enumerate(before)}
    return judge(dict.fromkeys(HEADLINE, before), dict.fromkeys(HEADLINE, after), headline=headline)


def test_verdict_beside_an_interval_without_zero_says_what_it_is_corrected_for():
    assert few_gain(("ndcg@10",)).verdict == "improved"  # so that the correction alone decides
    corrected = few_gain()
    assert corrected.differences["ndcg@10"].low > 0
    line = Trial("narrower", {"recall@1": 0.5, "recall@10": 0.5, "ndcg@10": 0.5}, corrected).line()
    p = corrected.differences["ndcg@10"].p
    assert 0.05 < p < 0.08
    assert line.endswith(f") not enough evidence (p = {p:.4f}, corrected for there being 2 metrics)")
    assert judgment_in_words(corrected, 7).endswith(f"(p = {p:.4f}, corrected for there being 7 to choose from)")
    assert judgment_in_words(corrected, 1).endswith(f"(p = {p:.4f})")
    assert judgment_in_words(few_gain(gaining=0)) == "not enough evidence"
    assert judgment_in_words(few_gain(gaining=50)) == "improved"
