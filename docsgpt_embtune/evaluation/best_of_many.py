"""Judge the best of several models on the questions that chose it, corrected for the choice.

Chance alone makes one of many candidates the best.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from docsgpt_embtune.evaluation.metrics import QueryScores, mean_scores
from docsgpt_embtune.evaluation.verdict import ALPHA, DECIDING, HEADLINE, Judgment, chance_of_best, judge, paired_gains


@dataclass(frozen=True)
class Choice:
    """A model chosen from several, with all scores on the questions that chose it.

    Attributes:
        baseline: Scores of the baseline that every candidate had to beat.
        tried: Scores of every candidate.
        chosen: Scores of the chosen candidate.
        groups: Groups of queries about the same answer; each group is one piece of evidence.
    """

    baseline: QueryScores
    tried: Sequence[QueryScores]
    chosen: QueryScores
    groups: Sequence[Sequence[str]]

    @cached_property
    def p(self) -> float:
        """Probability that chance alone gives the best of these candidates such a gain in nDCG@10 (p-value)."""
        tried = [scores[DECIDING] for scores in self.tried]
        return chance_of_best(self.baseline[DECIDING], tried, self.chosen[DECIDING], groups=self.groups)

    @property
    def is_higher(self) -> bool:
        """Whether the chosen model has a higher mean nDCG@10 than the baseline, significantly or not."""
        return mean_ndcg(self.chosen) > mean_ndcg(self.baseline)

    @property
    def is_beyond_luck(self) -> bool:
        """Whether the gain in nDCG@10 is significant after the correction for choosing."""
        return self.p <= ALPHA

    @cached_property
    def judgment(self) -> Judgment:
        """The chosen model against the baseline.

        Like `judge`, except that "improved" requires a significant gain in nDCG@10 by the corrected `p`, which replaces
        that metric's own. "worse" stays "worse". The intervals are not corrected for choosing.
        """
        alone = judge(self.baseline, self.chosen, groups=self.groups)
        differences = {**alone.differences, DECIDING: replace(alone.differences[DECIDING], p=self.p)}
        if alone.verdict == "worse":
            return replace(alone, differences=differences)
        better = self.is_beyond_luck and self.is_higher
        return replace(alone, differences=differences, verdict="improved" if better else "not enough evidence")

    def line(self) -> str:
        """Return one line on how the headline metrics changed."""
        base, chosen = mean_scores(self.baseline), mean_scores(self.chosen)
        return ", ".join(f"{metric} {base[metric]:.3f} to {chosen[metric]:.3f}" for metric in HEADLINE)

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest's record of the choice."""
        return {
            "queries": self.judgment.queries,
            "baseline": mean_scores(self.baseline),
            "tuned": mean_scores(self.chosen),
            "difference": {metric: asdict(difference) for metric, difference in self.judgment.differences.items()},
            "verdict": self.judgment.verdict,
        }


def mean_ndcg(scores: QueryScores) -> float:
    """Return the mean nDCG@10."""
    return float(np.mean(list(scores[DECIDING].values())))


def gain_and_error(scores: QueryScores, than: QueryScores, groups: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Return the mean gain in nDCG@10 of one model over another, and its standard error.

    Args:
        scores: Scores of each query.
        than: The other model's scores of the same queries.
        groups: Groups of queries about the same answer; each group is one piece of evidence.
    """
    gains = paired_gains({DECIDING: than[DECIDING]}, {DECIDING: scores[DECIDING]}, groups)[DECIDING]
    return gains.mean, gains.standard_error
