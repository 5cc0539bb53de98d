"""The record of how one of several ways to serve was chosen, and the loss that a cheaper way may cause."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from docsgpt_embtune.evaluation.verdict import DECIDING, HEADLINE, Judgment
from docsgpt_embtune.wording import counted

RECALLS = ("recall@1", "recall@10")
# Loss that int8 or shorter vectors may cause: half a point of nDCG@10 on average, and with 97.5 % confidence at most
# one.
ACCEPTED_LOSS = 0.005
WORST_LOSS = 0.01
TOO_FEW = "too few questions to rule out that it loses a point"
# Fewest groups of questions that can rule out a loss: int8 changes one score in ten, so fewer groups may include none.
FEWEST_TO_RULE_OUT = 100


@dataclass(frozen=True)
class Trial:
    """Measured scores of one way to serve.

    Attributes:
        name: Name of the way to serve.
        scores: Mean of each metric.
        judgment: Comparison with the default way to serve; None for the default itself.
        best_of: Number of candidates, if the judgment is corrected for choosing among them.
    """

    name: str
    scores: dict[str, float]
    judgment: Judgment | None = None
    best_of: int | None = None

    def line(self) -> str:
        """Return the trial in one line."""
        recall = "  ".join(f"{metric} {self.scores[metric]:.3f}" for metric in RECALLS)
        figures = f"{self.name:40s} {recall}  {DECIDING} {self.scores[DECIDING]:.4f}"
        if self.judgment is None:
            return figures
        found = self.judgment.differences[DECIDING]
        verdict = judgment_in_words(self.judgment, self.best_of)
        return f"{figures}  {found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f}) {verdict}"

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest's record of the trial."""
        figures: dict[str, Any] = {"name": self.name, **self.scores}
        if self.judgment is not None:
            figures["difference"] = {
                metric: asdict(self.judgment.differences[metric]) for metric in (*RECALLS, DECIDING)
            }
            figures["verdict"] = self.judgment.verdict
        return figures


@dataclass(frozen=True)
class Decision:
    """The chosen way to serve, and the reason.

    Attributes:
        chosen: Name of the chosen way.
        reason: The reason, in one clause.
        trials: Everything measured; the first is the default that the others had to beat or equal.
        queries: Number of validation questions.
    """

    chosen: str
    reason: str
    trials: tuple[Trial, ...]
    queries: int

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest's record of the decision."""
        return {
            "chosen": self.chosen,
            "reason": self.reason,
            "queries": self.queries,
            "trials": [trial.to_dict() for trial in self.trials],
        }


def judgment_in_words(judgment: Judgment, best_of: int | None = None) -> str:
    """Return a verdict, with its p-value if the interval shown beside it excludes zero and seems to contradict it.

    Two things cause that. The interval is uncorrected: it is for one metric of one model. And if few questions change,
    all in one direction, the bootstrap excludes zero before the sign-flip test becomes significant.

    Args:
        judgment: Result of a comparison.
        best_of: As in `Trial`; if not given, the judgment is corrected for testing several metrics.
    """
    found = judgment.differences[DECIDING]
    if judgment.verdict != "not enough evidence" or found.low <= 0 <= found.high:
        return judgment.verdict
    several = f"{len(HEADLINE)} metrics" if best_of is None else f"{best_of} to choose from"
    correction = f", corrected for there being {several}" if best_of != 1 else ""
    return f"{judgment.verdict} (p = {found.p:.4f}{correction})"


def decision_lines(decision: Decision) -> Iterator[str]:
    """Yield a line on the choice and its reason, then one line per trial."""
    yield f"{counted(decision.queries, 'validation question')}: {decision.chosen} ({decision.reason})"
    for trial in decision.trials:
        yield f"  {trial.line()}"


def shows_loss(judgment: Judgment) -> bool:
    """Tell whether a cheaper way loses anything: the verdict is "worse", or the interval is entirely below zero."""
    return judgment.verdict == "worse" or judgment.differences[DECIDING].high < 0


def is_harmless(judgment: Judgment) -> tuple[bool, str]:
    """Tell whether a cheaper way loses nothing that matters, and give the reason in a clause."""
    return (False, "it loses") if judgment.verdict == "worse" else loses_little(judgment)


def loses_little(judgment: Judgment) -> tuple[bool, str]:
    """Tell whether the measured loss is too small to matter, and give the reason in a clause.

    A large loss must be ruled out. Finding none is not enough, because few questions cannot show one.
    """
    difference = judgment.differences[DECIDING]
    if difference.mean < -ACCEPTED_LOSS:
        return False, "it loses"
    changes_nothing = difference.low == difference.high == 0
    if difference.low < -WORST_LOSS or (changes_nothing and judgment.groups < FEWEST_TO_RULE_OUT):
        return False, TOO_FEW
    return True, "it loses nothing that matters"
