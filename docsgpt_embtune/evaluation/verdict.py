"""Is one model better than another, or could it be luck? A paired answer with its uncertainty."""

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

# The metrics that decide. Two and no more: each further one costs every other one power. recall@1 is the
# purpose (the chunk that answers comes first), ndcg@10 sees the whole of what may be fed to the language model, and
# decides alone where one number must: which of several models is the best.
PURPOSE, DECIDING = HEADLINE = ("recall@1", "ndcg@10")
HEADLINE_KS = (1, 10)
ALPHA = 0.05  # at most so often "improved" by luck, and at most so often "worse"
# Where fewer groups of questions change, all in one direction, even that is no more than chance.
FEWEST_TO_JUDGE = math.ceil(math.log2(len(HEADLINE) / ALPHA))
POWER = 0.8
RESAMPLES = 9999
_BATCH = 500  # resamples held in memory at a time


@dataclass(frozen=True)
class Difference:
    """Tuned minus baseline in one metric, over paired queries.

    Attributes:
        mean: Mean of the differences over the queries.
        low: Lower end of its 95 % interval (bootstrap over the groups of queries).
        high: Upper end.
        p: How often luck alone gives so large a difference in this direction, by flipping the signs of whole
            groups; for a headline metric after Holm's correction.
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
        groups: Number of groups that they fall into, each of which is one piece of evidence.
    """

    verdict: Verdict
    differences: dict[str, Difference]
    smallest_gain: dict[str, float | None]
    queries: int
    groups: int


@dataclass(frozen=True)
class PairedGains:
    """Tuned minus baseline in one metric, added up over the queries that stand or fall together.

    Five wordings of one question are one piece of evidence and not five: a model that reads their chunk
    better wins them all. So whole groups are drawn, and whole groups change their sign.

    Attributes:
        sums: (G,) sum of the gains of each group's queries.
        sizes: (G,) number of its queries.
    """

    sums: Float64Array
    sizes: Float64Array

    @property
    def mean(self) -> float:
        """Mean gain of a query."""
        return float(self.sums.sum() / self.sizes.sum())

    @property
    def standard_error(self) -> float:
        """Of the mean, as of a ratio of two sums over groups (Cochran, Sampling Techniques, chapter 6).

        Infinite where there is one group, which says nothing about others.
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

    Only the headline metrics decide, with Holm's correction for there being several; the intervals and
    p-values of the others are given as they are, to be looked at and not to be chosen from. The tests are
    one-sided in the direction that was found, so "improved" by luck, and "worse" by luck, are at most 5 % each.

    Args:
        baseline: metric -> query_id -> value, as `score_queries` returns.
        tuned: The same metrics of the same queries.
        groups: Queries that are no evidence apart from each other, such as wordings of one question; each
            query is in exactly one group. Every query is a group of its own if not given.
        headline: The metrics that decide.
        seed: Seed of the resampling; same seed, same numbers.

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
    """Tell how often luck alone gives the best of several candidates so large a gain as the chosen one has.

    The best of ten coins shows more heads than one coin does. Each resample flips the sign of the same groups for
    all candidates and keeps the largest gain among them, so that candidates that are much alike cost little.

    Args:
        baseline: query_id -> value of one metric.
        candidates: The same for every model that could have been chosen.
        chosen: The one of them that was.
        groups: As in `judge`.
        seed: Seed of the resampling.

    Returns:
        The p-value, one-sided; it holds whatever the way of choosing was.

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
        # What is as large but for the order of summing counts as as large.
        as_large += int(((signs @ sums).max(axis=1) >= sums[:, 0].sum() - 1e-9).sum())
    return (1 + as_large) / (1 + RESAMPLES)


def smallest_gain(gains: PairedGains, alpha: float = ALPHA) -> float | None:
    """Estimate the smallest mean gain that as many queries, as noisy as these, would show in 80 % of the cases.

    Args:
        gains: Gain of each of the paired queries.
        alpha: One-sided level at which a gain counts.

    Returns:
        The gain; None if even a gain in every query would not have been enough.

    Source:
        The normal approximation for a paired mean. Below it lies a floor that no noise estimate can lower:
        the sign-flip test needs log2(1 / alpha) groups that change, all in the same direction.
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
    """Subtract query by query, and add up over the groups: metric -> gains.

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
    changed = gains.sums[gains.sums != 0]  # to flip the sign of a zero changes nothing
    if not changed.size:
        return Difference(mean=0.0, low=0.0, high=0.0, p=1.0)
    if gains.sums.size == 1:  # one group says nothing of others: the difference may lie anywhere
        return Difference(mean=gains.mean, low=-1.0, high=1.0, p=1.0)
    if changed.size == 1:  # scipy wants two; a zero adds no evidence
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
