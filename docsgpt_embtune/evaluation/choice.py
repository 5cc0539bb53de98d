"""The best of several models by nDCG@10, told by the questions that chose it: luck alone makes one of many the best."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from docsgpt_embtune.evaluation.metrics import QueryScores, mean_scores
from docsgpt_embtune.evaluation.verdict import ALPHA, DECIDING, HEADLINE, Judgment, chance_of_best, judge, paired_gains


@dataclass(frozen=True)
class Choice:
    """A model that was chosen among several, and what the questions that chose it say of that.

    Attributes:
        baseline: Scores of what all of them had to beat.
        tried: Scores of every one that could have been chosen.
        chosen: Those of the one that was.
        groups: Queries about one answer, which are one piece of evidence.
    """

    baseline: QueryScores
    tried: Sequence[QueryScores]
    chosen: QueryScores
    groups: Sequence[Sequence[str]]

    @cached_property
    def p(self) -> float:
        """How often luck alone gives the best of so many so large a gain in the metric that decides."""
        tried = [scores[DECIDING] for scores in self.tried]
        return chance_of_best(self.baseline[DECIDING], tried, self.chosen[DECIDING], groups=self.groups)

    @property
    def is_higher(self) -> bool:
        """Whether the chosen one scores higher than the baseline, be it by luck or not."""
        return mean_ndcg(self.chosen) > mean_ndcg(self.baseline)

    @property
    def is_beyond_luck(self) -> bool:
        """Whether its gain in the metric that decides is more than luck gives the best of so many."""
        return self.p <= ALPHA

    @cached_property
    def judgment(self) -> Judgment:
        """The chosen one against the baseline.

        As of `judge`, but "improved" only where the gain in the metric that decides is beyond luck, whose chance is its
        p; "worse" stays "worse". The intervals are those of a model that was the only one.
        """
        alone = judge(self.baseline, self.chosen, groups=self.groups)
        differences = {**alone.differences, DECIDING: replace(alone.differences[DECIDING], p=self.p)}
        if alone.verdict == "worse":
            return replace(alone, differences=differences)
        better = self.is_beyond_luck and self.is_higher
        return replace(alone, differences=differences, verdict="improved" if better else "not enough evidence")

    def line(self) -> str:
        """Say how the headline metrics changed."""
        base, chosen = mean_scores(self.baseline), mean_scores(self.chosen)
        return ", ".join(f"{metric} {base[metric]:.3f} to {chosen[metric]:.3f}" for metric in HEADLINE)

    def to_dict(self) -> dict[str, Any]:
        """Lay it out as the manifest has it."""
        return {
            "queries": self.judgment.queries,
            "baseline": mean_scores(self.baseline),
            "tuned": mean_scores(self.chosen),
            "difference": {metric: asdict(difference) for metric, difference in self.judgment.differences.items()},
            "verdict": self.judgment.verdict,
        }


def mean_ndcg(scores: QueryScores) -> float:
    """Average the metric that decides."""
    return float(np.mean(list(scores[DECIDING].values())))


def gain_and_error(scores: QueryScores, than: QueryScores, groups: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Return by how much the first are better in the mean, and the standard error of that.

    Args:
        scores: Scores of each query.
        than: Other scores of the same queries.
        groups: Those about one answer, which are one piece of evidence.
    """
    gains = paired_gains({DECIDING: than[DECIDING]}, {DECIDING: scores[DECIDING]}, groups)[DECIDING]
    return gains.mean, gains.standard_error
