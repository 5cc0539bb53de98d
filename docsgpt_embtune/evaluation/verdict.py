"""Paired significance tests: is one model better than another, or could the difference be chance?"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

Verdict = Literal["improved", "worse", "not enough evidence"]
Float64Array = npt.NDArray[np.float64]

# The metrics that decide the verdict. Only two, as each further one costs the others power. recall@1 is the purpose: a
# good chunk comes first. ndcg@10 covers all the chunks that may be fed to the language model; it decides alone when a
# single number must rank models.
PURPOSE, DECIDING = HEADLINE = ("recall@1", "ndcg@10")
HEADLINE_KS = (1, 10)
ALPHA = 0.05  # highest chance of a false "improved", and of a false "worse"
# Fewest groups of questions that can be significant: with fewer, even a change of all in one direction could be chance.
FEWEST_TO_JUDGE = math.ceil(math.log2(len(HEADLINE) / ALPHA))
POWER = 0.8
RESAMPLES = 9999
_BATCH = 500  # resamples held in memory at a time


@dataclass(frozen=True)
class Difference:
    """Tuned minus baseline in one metric, over paired queries.

    Attributes:
        mean: Mean of the differences over the queries.
        low: Lower end of the 95 % interval of the mean (bootstrap over the groups of queries).
        high: Upper end of that interval.
        p: One-sided p-value of a sign-flip test over whole groups; Holm-corrected for a headline metric.
    """

    mean: float
    low: float
    high: float
    p: float

    @property
    def significant(self) -> bool:
        """Whether p-value and interval both rule out a difference of zero."""
        return self.p <= ALPHA and not self.low <= 0.0 <= self.high


@dataclass(frozen=True)
class Judgment:
    """Result of a comparison.

    Attributes:
        verdict: "worse" if any headline metric fell significantly; else "improved" if any rose significantly; else
            "not enough evidence".
        differences: Metric -> difference, for every metric given.
        smallest_gain: Headline metric -> smallest gain that this many questions show in 80 % of such comparisons; None
            if they cannot show any.
        queries: Number of paired queries.
        groups: Number of groups of queries; each group is one piece of evidence.
    """

    verdict: Verdict
    differences: dict[str, Difference]
    smallest_gain: dict[str, float | None]
    queries: int
    groups: int


@dataclass(frozen=True)
class PairedGains:
    """Tuned minus baseline in one metric, summed over groups of dependent queries.

    Five wordings of one question are one piece of evidence, not five: a model that reads their chunk better wins them
    all. So the bootstrap draws whole groups, and the sign-flip test flips whole groups.

    Attributes:
        sums: (G,) sum of the gains of each group's queries.
        sizes: (G,) number of queries in each group.
    """

    sums: Float64Array
    sizes: Float64Array

    @property
    def mean(self) -> float:
        """Mean gain per query."""
        return float(self.sums.sum() / self.sizes.sum())

    @property
    def standard_error(self) -> float:
        """Standard error of the mean, as a ratio of two sums over groups (Cochran, Sampling Techniques, chapter 6).

        Infinite for a single group, which says nothing about others.
        """
        groups = len(self.sums)
        if groups == 1:
            return math.inf
        residuals = self.sums - self.mean * self.sizes
        return float(math.sqrt(groups / (groups - 1) * (residuals**2).sum()) / self.sizes.sum())


def judge(
    baseline: Mapping[str, Mapping[str, float]],
    tuned: Mapping[str, Mapping[str, float]],
    *,
    groups: Sequence[Sequence[str]] | None = None,
    headline: Sequence[str] = HEADLINE,
    seed: int = 0,
) -> Judgment:
    """Compare two models query by query.

    Only the headline metrics decide, with Holm's correction for testing several. All intervals, and the p-values of the
    other metrics, are uncorrected: they are for information, not for picking from. The tests are one-sided in the
    observed direction, so a false "improved" and a false "worse" each have a chance of at most 5 %.

    Args:
        baseline: metric -> query_id -> value, as `score_queries` returns.
        tuned: The same metrics of the same queries.
        groups: Groups of queries that are not independent evidence, such as wordings of one question. Each query is in
            exactly one group. If not given, every query is its own group.
        headline: The metrics that decide.
        seed: Seed of the resampling; the same seed gives the same numbers.

    Raises:
        ValueError: If the two do not hold the same metrics and queries, the groups hold others, or a headline
            metric is missing.

    Source:
        Smucker, Allan and Carterette, "A comparison of statistical significance tests for information
        retrieval evaluation", CIKM 2007; Holm, "A simple sequentially rejective multiple test procedure", 1979;
        Field and Welsh, "Bootstrapping clustered data", JRSS B 2007.
    """
    gains = paired_gains(baseline, tuned, groups)
    if missing := [metric for metric in headline if metric not in gains]:
        raise ValueError(f"headline metrics {missing} are not among the metrics {list(gains)}")
    differences = {metric: _difference(values, seed) for metric, values in gains.items()}
    adjusted = _holm({metric: differences[metric].p for metric in headline})
    for metric, p in adjusted.items():
        differences[metric] = replace(differences[metric], p=p)
    sizes = gains[headline[0]].sizes
    return Judgment(
        verdict=_verdict([differences[metric] for metric in headline]),
        differences=differences,
        smallest_gain={metric: smallest_gain(gains[metric], ALPHA / len(headline)) for metric in headline},
        queries=int(sizes.sum()),
        groups=len(sizes),
    )


def chance_of_best(
    baseline: Mapping[str, float],
    candidates: Sequence[Mapping[str, float]],
    chosen: Mapping[str, float],
    *,
    groups: Sequence[Sequence[str]] | None = None,
    seed: int = 0,
) -> float:
    """Return the p-value of the gain of a model that was chosen among several candidates.

    The best of ten coins shows more heads than one coin does. Each resample flips the signs of the same groups for all
    candidates and keeps the largest gain among them, so that similar candidates cost little power.

    Args:
        baseline: query_id -> value of one metric.
        candidates: The same for every model that could have been chosen.
        chosen: The same for the chosen model.
        groups: As in `judge`.
        seed: Seed of the resampling.

    Returns:
        The one-sided p-value: how often chance gives the best candidate at least the chosen model's gain. It holds for
        any way of choosing.

    Source:
        Westfall and Young, "Resampling-based multiple testing", 1993 (the maximum over the hypotheses).
    """
    given = {str(number): scores for number, scores in enumerate((chosen, *candidates))}
    gains = paired_gains(dict.fromkeys(given, baseline), given, groups)
    sums = np.stack([gain.sums for gain in gains.values()], axis=1)  # (G, 1 + candidates), the chosen one first
    drawn = np.random.default_rng(seed)
    as_large = 0
    for start in range(0, RESAMPLES, _BATCH):
        signs = drawn.choice((-1.0, 1.0), size=(min(_BATCH, RESAMPLES - start), len(sums)))
        # The tolerance counts sums as equal that differ only by rounding.
        as_large += int(((signs @ sums).max(axis=1) >= sums[:, 0].sum() - 1e-9).sum())
    return (1 + as_large) / (1 + RESAMPLES)


def smallest_gain(gains: PairedGains, alpha: float = ALPHA) -> float | None:
    """Estimate the smallest mean gain that this many queries, with this noise, would show in 80 % of comparisons.

    Args:
        gains: Gains of the paired queries, by group.
        alpha: One-sided significance level.

    Returns:
        The gain; None if even a gain in every group would not be significant.

    Source:
        The normal approximation for a paired mean. It has a lower bound that does not depend on the noise: the
        sign-flip test needs log2(1 / alpha) groups that change, all in the same direction.
    """
    needed = math.ceil(math.log2(1 / alpha))
    if needed > len(gains.sums):
        return None
    z = stats.norm.ppf(1 - alpha) + stats.norm.ppf(POWER)
    return float(max(z * gains.standard_error, needed / gains.sizes.sum()))


def paired_gains(
    baseline: Mapping[str, Mapping[str, float]],
    tuned: Mapping[str, Mapping[str, float]],
    groups: Sequence[Sequence[str]] | None,
) -> dict[str, PairedGains]:
    """Subtract scores query by query and sum them over the groups: metric -> gains.

    Args:
        baseline: metric -> query_id -> value.
        tuned: The same metrics of the same queries.
        groups: As in `judge`.

    Raises:
        ValueError: If the two do not hold the same metrics and queries, or the groups hold others.
    """
    if baseline.keys() != tuned.keys():
        raise ValueError(f"metrics differ: {sorted(baseline)} and {sorted(tuned)}")
    gains = {}
    for metric, values in baseline.items():
        if not values or values.keys() != tuned[metric].keys():
            raise ValueError(f"{metric}: {len(values)} and {len(tuned[metric])} queries are not the same, or are none")
        grouped = groups or [[query_id] for query_id in values]
        if Counter(query_id for group in grouped for query_id in group) != Counter(values.keys()):
            raise ValueError(f"{metric}: the groups do not hold each of the {len(values)} queries once")
        gains[metric] = PairedGains(
            sums=np.array([sum(tuned[metric][query_id] - values[query_id] for query_id in group) for group in grouped]),
            sizes=np.array([len(group) for group in grouped], dtype=np.float64),
        )
    return gains


def _difference(gains: PairedGains, seed: int) -> Difference:
    changed = gains.sums[gains.sums != 0]  # flipping the sign of a zero changes nothing
    if not changed.size:
        return Difference(mean=0.0, low=0.0, high=0.0, p=1.0)
    if gains.sums.size == 1:  # a single group says nothing about others: the difference could be anything
        return Difference(mean=gains.mean, low=-1.0, high=1.0, p=1.0)
    if changed.size == 1:  # scipy needs two values; a zero adds no evidence
        changed = np.append(changed, 0.0)
    test = stats.permutation_test(
        (changed,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        alternative="greater" if gains.mean > 0 else "less",
        rng=np.random.default_rng(seed),
    )
    interval = stats.bootstrap(
        (gains.sums, gains.sizes),
        _mean_of_groups,
        paired=True,
        method="percentile",
        confidence_level=1 - ALPHA,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Difference(mean=gains.mean, low=float(interval.low), high=float(interval.high), p=float(test.pvalue))


def _mean_of_groups(sums: Float64Array, sizes: Float64Array, axis: int) -> Float64Array:
    mean: Float64Array = sums.sum(axis=axis) / sizes.sum(axis=axis)
    return mean


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
