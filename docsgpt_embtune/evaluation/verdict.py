"""Is one model better than another, or could it be luck? A paired answer with its uncertainty."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

Verdict = Literal["improved", "worse", "not enough evidence"]

# The metrics that decide. Two and no more: each further one costs every other one power. recall@1 is the
# purpose (the chunk that answers comes first), ndcg@10 sees the whole of what may be fed to the language model.
HEADLINE = ("recall@1", "ndcg@10")
ALPHA = 0.05  # at most so often "improved" by luck, and at most so often "worse"
POWER = 0.8
RESAMPLES = 9999
_BATCH = 500  # resamples held in memory at a time


@dataclass(frozen=True)
class Difference:
    """Tuned minus baseline in one metric, over paired queries.

    Attributes:
        mean: Mean of the differences.
        low: Lower end of its 95 % interval (bootstrap over the queries).
        high: Upper end.
        p: How often luck alone gives so large a difference in this direction, by sign-flip permutation; for a
            headline metric after Holm's correction.
    """

    mean: float
    low: float
    high: float
    p: float

    @property
    def significant(self) -> bool:
        """Tell whether p and interval both rule out a difference of zero."""
        return self.p <= ALPHA and not self.low <= 0.0 <= self.high


@dataclass(frozen=True)
class Judgment:
    """What a comparison has shown.

    Attributes:
        verdict: "improved" where a headline metric rose beyond chance and none fell; "worse" where one fell
            beyond chance, whatever the other did; else "not enough evidence".
        differences: metric -> difference, for every metric given.
        smallest_gain: headline metric -> the smallest gain that so many questions would have shown in 80 %
            of such comparisons; None where no gain could have been shown.
        queries: Number of paired queries.
    """

    verdict: Verdict
    differences: dict[str, Difference]
    smallest_gain: dict[str, float | None]
    queries: int


def judge(
    baseline: Mapping[str, Mapping[str, float]],
    tuned: Mapping[str, Mapping[str, float]],
    *,
    headline: Sequence[str] = HEADLINE,
    seed: int = 0,
) -> Judgment:
    """Compare two models query by query.

    Only the headline metrics decide, with Holm's correction for there being several; the intervals and
    p-values of the others are given as they are, to be looked at and not to be chosen from. The tests are
    one-sided in the direction that was found, so "improved" by luck, and "worse" by luck, are at most 5 % each.

    Args:
        baseline: metric -> query_id -> value, as `score_queries` returns.
        tuned: The same metrics of the same queries.
        headline: The metrics that decide.
        seed: Of the resampling; same seed, same numbers.

    Raises:
        ValueError: If the two do not hold the same metrics and queries, or a headline metric is missing.

    Source:
        Smucker, Allan and Carterette, "A comparison of statistical significance tests for information
        retrieval evaluation", CIKM 2007; Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    gains = _paired_gains(baseline, tuned)
    if missing := [metric for metric in headline if metric not in gains]:
        raise ValueError(f"headline metrics {missing} are not among the metrics {list(gains)}")
    differences = {metric: _difference(values, seed) for metric, values in gains.items()}
    adjusted = _holm({metric: differences[metric].p for metric in headline})
    for metric, p in adjusted.items():
        found = differences[metric]
        differences[metric] = Difference(mean=found.mean, low=found.low, high=found.high, p=p)
    return Judgment(
        verdict=_verdict([differences[metric] for metric in headline]),
        differences=differences,
        smallest_gain={metric: smallest_gain(gains[metric], ALPHA / len(headline)) for metric in headline},
        queries=len(gains[headline[0]]),
    )


def smallest_gain(gains: npt.NDArray[np.float64], alpha: float = ALPHA) -> float | None:
    """Estimate the smallest mean gain that as many queries, as noisy as these, would show in 80 % of the cases.

    Args:
        gains: (Q,) differences of the paired queries.
        alpha: One-sided level at which a gain counts.

    Returns:
        The gain; None if even a gain in every query would not have been enough.

    Source:
        The normal approximation for a paired mean. Below it lies a floor that no noise estimate can lower:
        the sign-flip test needs log2(1 / alpha) queries that change, all in the same direction.
    """
    needed = math.ceil(math.log2(1 / alpha))
    if needed > len(gains):
        return None
    z = stats.norm.ppf(1 - alpha) + stats.norm.ppf(POWER)
    return float(max(z * gains.std(ddof=1) / math.sqrt(len(gains)), needed / len(gains)))


def _paired_gains(
    baseline: Mapping[str, Mapping[str, float]], tuned: Mapping[str, Mapping[str, float]]
) -> dict[str, npt.NDArray[np.float64]]:
    if baseline.keys() != tuned.keys():
        raise ValueError(f"metrics differ: {sorted(baseline)} and {sorted(tuned)}")
    gains = {}
    for metric, values in baseline.items():
        if not values or values.keys() != tuned[metric].keys():
            raise ValueError(f"{metric}: {len(values)} and {len(tuned[metric])} queries are not the same, or are none")
        gains[metric] = np.array([tuned[metric][query_id] - value for query_id, value in values.items()])
    return gains


def _difference(gains: npt.NDArray[np.float64], seed: int) -> Difference:
    mean = float(gains.mean())
    changed = gains[gains != 0]  # to flip the sign of a zero changes nothing
    if not changed.size:
        return Difference(mean=0.0, low=0.0, high=0.0, p=1.0)
    if gains.size == 1:  # one query says nothing of others: the difference may lie anywhere
        return Difference(mean=mean, low=-1.0, high=1.0, p=1.0)
    if changed.size == 1:  # scipy wants two; a zero adds no evidence
        changed = np.append(changed, 0.0)
    test = stats.permutation_test(
        (changed,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        alternative="greater" if mean > 0 else "less",
        rng=np.random.default_rng(seed),
    )
    interval = stats.bootstrap(
        (gains,),
        np.mean,
        method="percentile",
        confidence_level=1 - ALPHA,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Difference(mean=mean, low=float(interval.low), high=float(interval.high), p=float(test.pvalue))


def _holm(p_values: Mapping[str, float]) -> dict[str, float]:
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, metric in enumerate(sorted(p_values, key=lambda metric: p_values[metric])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[metric]))
        adjusted[metric] = largest
    return adjusted


def _verdict(differences: Sequence[Difference]) -> Verdict:
    if any(difference.significant and difference.mean < 0 for difference in differences):
        return "worse"
    if any(difference.significant and difference.mean > 0 for difference in differences):
        return "improved"
    return "not enough evidence"
