"""What one of several ways to serve was chosen by: what each of them was measured to find, and what it may lose."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from docsgpt_embtune.evaluation.verdict import DECIDING, HEADLINE, Judgment
from docsgpt_embtune.wording import counted

RECALLS = ("recall@1", "recall@10")
# What int8, or a cut, may cost: half a point of nDCG@10 in the mean, and with 97.5 % certainty no more than one.
ACCEPTED_LOSS = 0.005
WORST_LOSS = 0.01
TOO_FEW = "too few questions to rule out that it loses a point"
# Groups of questions that can: int8 changes the score of one in ten, and of fewer none may be among them.
FEWEST_TO_RULE_OUT = 100


@dataclass(frozen=True)
class Trial:
    """One way to serve, measured.

    Attributes:
        name: What was tried.
        scores: Mean of each metric.
        judgment: Against the way that serves if nothing speaks for this one; None for that way itself.
        best_of: How many there were to choose from, where the judgment takes account of that.
    """

    name: str
    scores: dict[str, float]
    judgment: Judgment | None = None
    best_of: int | None = None

    def line(self) -> str:
        """Say it in one line."""
        recall = "  ".join(f"{metric} {self.scores[metric]:.3f}" for metric in RECALLS)
        figures = f"{self.name:40s} {recall}  {DECIDING} {self.scores[DECIDING]:.4f}"
        if self.judgment is None:
            return figures
        found = self.judgment.differences[DECIDING]
        verdict = judgment_in_words(self.judgment, self.best_of)
        return f"{figures}  {found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f}) {verdict}"

    def to_dict(self) -> dict[str, Any]:
        """Lay it out as the manifest has it."""
        figures: dict[str, Any] = {"name": self.name, **self.scores}
        if self.judgment is not None:
            figures["difference"] = {
                metric: asdict(self.judgment.differences[metric]) for metric in (*RECALLS, DECIDING)
            }
            figures["verdict"] = self.judgment.verdict
        return figures


@dataclass(frozen=True)
class Decision:
    """What was chosen, and why.

    Attributes:
        chosen: Name of what serves.
        reason: Why, in one clause.
        trials: What was measured; the first is what the others had to beat, or to equal.
        queries: Number of validation questions.
    """

    chosen: str
    reason: str
    trials: tuple[Trial, ...]
    queries: int

    def to_dict(self) -> dict[str, Any]:
        """Lay it out as the manifest has it."""
        return {
            "chosen": self.chosen,
            "reason": self.reason,
            "queries": self.queries,
            "trials": [trial.to_dict() for trial in self.trials],
        }


def judgment_in_words(judgment: Judgment, best_of: int | None = None) -> str:
    """Give a verdict, and its p where the interval beside it leaves out zero and so seems to say otherwise.

    The interval is not corrected: it stands for one metric of one model. And where few questions change, all in one
    direction, resampling leaves out zero sooner than flipping their signs makes that improbable.

    Args:
        judgment: What a comparison has shown.
        best_of: As in `Trial`; if not given, the judgment is corrected for there being several metrics.
    """
    found = judgment.differences[DECIDING]
    if judgment.verdict != "not enough evidence" or found.low <= 0 <= found.high:
        return judgment.verdict
    several = f"{len(HEADLINE)} metrics" if best_of is None else f"{best_of} to choose from"
    correction = f", corrected for there being {several}" if best_of != 1 else ""
    return f"{judgment.verdict} (p = {found.p:.4f}{correction})"


def decision_lines(decision: Decision) -> Iterator[str]:
    """Say what was chosen and why, then each way that was measured in a line of its own."""
    yield f"{counted(decision.queries, 'validation question')}: {decision.chosen} ({decision.reason})"
    for trial in decision.trials:
        yield f"  {trial.line()}"


def shows_loss(judgment: Judgment) -> bool:
    """Tell whether a cheaper way loses, however little, as its interval alone has it."""
    return judgment.verdict == "worse" or judgment.differences[DECIDING].high < 0


def is_harmless(judgment: Judgment) -> tuple[bool, str]:
    """Tell whether a cheaper way loses nothing that matters, and say it in a clause."""
    return (False, "it loses") if judgment.verdict == "worse" else loses_little(judgment)


def loses_little(judgment: Judgment) -> tuple[bool, str]:
    """Tell whether a loss that can be seen is too small to matter, and say it in a clause.

    Not to have found a loss is not enough, as with few questions none can be found: a large one must be ruled out.
    """
    difference = judgment.differences[DECIDING]
    if difference.mean < -ACCEPTED_LOSS:
        return False, "it loses"
    changes_nothing = difference.low == difference.high == 0
    if difference.low < -WORST_LOSS or (changes_nothing and judgment.groups < FEWEST_TO_RULE_OUT):
        return False, TOO_FEW
    return True, "it loses nothing that matters"
