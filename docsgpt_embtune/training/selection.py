"""Select the best weights by validation score, and store them so that a killed run can resume."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.evaluation.best_of_many import gain_and_error, mean_ndcg
from docsgpt_embtune.evaluation.metrics import QueryScores
from docsgpt_embtune.evaluation.verdict import DECIDING
from docsgpt_embtune.wording import Say

Weights = dict[str, torch.Tensor]
BEST_FILE = "best.safetensors"  # the best candidate's weights so far, and every candidate's scores
STAGE_FILE = "stage.safetensors"  # the weights that the current stage starts from


@dataclass(frozen=True)
class ScoredCandidate:
    """A candidate model of a run, with its scores on the validation questions.

    Attributes:
        name: The stage and the epoch that produced it.
        scores: metric -> query_id -> value.
    """

    name: str
    scores: QueryScores


class Selection:
    """Score candidates and keep the weights of the best.

    The weights are kept here and not as the trainer's checkpoints: when the trainer fails to load its best one, it logs
    the error and goes on with the last weights.

    Args:
        baseline: Scores of the base model, which a candidate must beat to become the best.
        model: The model, with the base's weights.
        score: Scores the model's current weights.
        say: Takes one line of plain text for each candidate.
        groups: Groups of validation questions about the same answer, each one piece of evidence.
        folder: Where weights and scores are kept between runs; None keeps them in memory only.
        leniency: How many standard errors below the best a later candidate may be and still take its place. Above 0
            where each stage is known to help and the validation questions are too few to show it.

    Attributes:
        kept: The best candidate that beats the base; None while none does.
        best_rejected: The best candidate while none beats the base.
        stage_weights: Weights that the current stage, or else the next, starts from; one object for all stages that
            start from the same weights.
    """

    def __init__(
        self,
        baseline: QueryScores,
        model: SentenceTransformer,
        score: Callable[[], QueryScores],
        say: Say,
        groups: Sequence[Sequence[str]],
        *,
        folder: Path | None = None,
        leniency: float = 0.0,
    ) -> None:
        self.baseline = baseline
        self.candidates: list[ScoredCandidate] = []
        self.kept: ScoredCandidate | None = None
        self.best_rejected: ScoredCandidate | None = None
        self.finished_stages = 0
        self.mined = 0  # bad chunks, for the finished stages
        self._best_before: QueryScores | None = None  # the best scores before the current stage; None between stages
        self.model = model
        self._score = score
        self._say = say
        self._groups = groups
        self._folder = folder
        self._leniency = leniency
        self._best_weights = self._rejected_weights = self.stage_weights = copy_of_weights(model)

    def enter(self, name: str, scores: QueryScores | None = None) -> None:
        """Enter the model's current weights as a candidate, scored here if need be, and keep them if they are best."""
        self.model.eval()
        self._enter([ScoredCandidate(name, scores or self._score())], name)
        self._write_best()

    def enter_last(self, scores: Mapping[str, QueryScores], best: str, *, whatever_it_scores: bool = False) -> bool:
        """Enter candidates that share the model's current weights, after the last stage.

        All are entered, so that the evidence asked of the best accounts for how many were tried. They are not stored: a
        resumed run must find the best candidate of the stages, and repeat what follows them.

        Args:
            scores: Name -> scores.
            best: Name of the one that may be kept.
            whatever_it_scores: Keep it regardless of its scores, as something else speaks for it.

        Returns:
            Whether it is kept.
        """
        self.model.eval()
        entered = [ScoredCandidate(name, each) for name, each in scores.items()]
        return self._enter(entered, best, whatever_it_scores=whatever_it_scores)

    def _enter(self, entered: Sequence[ScoredCandidate], best: str, *, whatever_it_scores: bool = False) -> bool:
        names = {candidate.name for candidate in entered}
        candidate = next(candidate for candidate in entered if candidate.name == best)
        # A resumed run may reach the end of the same epoch again.
        again = self.kept is not None and self.kept.name == best
        self.candidates = [known for known in self.candidates if known.name not in names] + list(entered)
        is_best = again or whatever_it_scores or self._is_better(candidate)
        if is_best:
            self.kept = candidate
            self._best_weights = copy_of_weights(self.model)
        elif len(entered) == 1 and self._is_best_rejected(candidate):
            self.best_rejected = candidate
            self._rejected_weights = copy_of_weights(self.model)
        self._say(f"{best:<11} validation {DECIDING} {mean_ndcg(candidate.scores):.3f}")
        return is_best

    def go_back(self, share: float) -> None:
        """Interpolate between the stage's starting weights (share 0) and the model's current ones (share 1).

        Source:
            Wortsman et al., 2022, "Model soups": the mean of models with a common origin is often better than each.
        """
        self.model.load_state_dict(drawn_towards(self.stage_weights, copy_of_weights(self.model), share))
        self.model.eval()

    def holds_up(self, name: str) -> bool:
        """Enter a candidate in the middle of a stage, and tell whether it is no worse than before, chance aside.

        It is compared with the best before the stage: in a resumed run, the best so far may be of this stage's end.
        """
        best = self._best_before or self._best_scores()
        self.enter(name)
        scores = self.candidates[-1].scores
        return scores == best or self._is_level(scores, best)

    def _best_scores(self) -> QueryScores:
        return self.kept.scores if self.kept else self.baseline

    def _is_better(self, candidate: ScoredCandidate) -> bool:
        if mean_ndcg(candidate.scores) <= mean_ndcg(self.baseline):
            return False
        return self.kept is None or self._is_level(candidate.scores, self.kept.scores)

    def _is_level(self, scores: QueryScores, best: QueryScores) -> bool:
        gain, error = gain_and_error(scores, best, self._groups)
        return gain > (-self._leniency * error if self._leniency else 0.0)

    def _is_best_rejected(self, candidate: ScoredCandidate) -> bool:
        """Tell whether it is the best so far while none beats the base; once one does, rejected ones do not matter."""
        if self.kept is not None:
            return False
        return self.best_rejected is None or mean_ndcg(candidate.scores) >= mean_ndcg(self.best_rejected.scores)

    def reject_kept(self, base: Weights) -> None:
        """Discard the weights kept so far, for another reason than their scores.

        The list of candidates stays: how far the best is luck depends on how many were tried. As with `enter_last`,
        this is not stored.

        Args:
            base: The base model's weights, which count as the best until another candidate is entered.
        """
        self.kept, self.best_rejected, self._best_weights = None, None, base

    def begin_stage(self) -> None:
        """Load the weights that this stage starts from into the model."""
        self._best_before = self._best_before or self._best_scores()
        self.model.load_state_dict(self.stage_weights)
        self.model.eval()

    def finish_stage(self, mined: int = 0, *, passes_on: bool = True) -> None:
        """Go on to the next stage, and store that this one is done, so that a resumed run skips it.

        Args:
            mined: Number of bad chunks that were mined for this stage.
            passes_on: Whether the next stage starts from the best weights so far; if not, it starts where this one did.
        """
        self._best_before = None
        self.finished_stages += 1
        self.mined += mined
        if passes_on:
            self.stage_weights = self._best_weights
        if self._folder:
            state = {"finished_stages": self.finished_stages, "mined": self.mined}
            _save(self.stage_weights, self._folder / STAGE_FILE, state)

    def restore(self) -> None:
        """Load the best weights into the model: the base's if no candidate is better."""
        self.model.load_state_dict(self._best_weights)
        self.model.eval()

    def restore_chosen(self) -> ScoredCandidate:
        """Load the best candidate's weights into the model, whether it beats the base or not, and return it."""
        if self.kept is not None or self.best_rejected is None:
            self.restore()
            return self.kept or max(self.candidates, key=lambda candidate: mean_ndcg(candidate.scores))
        self.model.load_state_dict(self._rejected_weights)
        self.model.eval()
        return self.best_rejected

    def resume(self) -> None:
        """Load what an earlier run stored, if it stored anything."""
        if self._folder and (self._folder / STAGE_FILE).is_file():
            self.stage_weights, state = _load(self._folder / STAGE_FILE)
            self.finished_stages, self.mined = state["finished_stages"], state["mined"]
        if self._folder and (self._folder / BEST_FILE).is_file():
            weights, state = _load(self._folder / BEST_FILE)
            self.candidates = [ScoredCandidate(name, scores) for name, scores in state["candidates"]]
            candidate_of = {candidate.name: candidate for candidate in self.candidates}
            self.kept, self.best_rejected = (
                candidate_of.get(state.get(which) or "") for which in ("kept", "best_rejected")
            )
            if state["finished_stages"] == self.finished_stages:
                self._best_before = state["best_before"]
            if self.kept is not None:
                self._best_weights = weights
            elif self.best_rejected is not None:
                self._rejected_weights = weights

    def _write_best(self) -> None:
        if self._folder is None:
            return
        candidates = [(candidate.name, candidate.scores) for candidate in self.candidates]
        weights = self._best_weights if self.kept or not self.best_rejected else self._rejected_weights
        names = {
            which: candidate.name if candidate else None
            for which, candidate in (("kept", self.kept), ("best_rejected", self.best_rejected))
        }
        stage = {"finished_stages": self.finished_stages, "best_before": self._best_before}
        _save(weights, self._folder / BEST_FILE, {"candidates": candidates, **names, **stage})


def _save(weights: Weights, file: Path, state: dict[str, Any]) -> None:
    """Write weights and state in one file, so that a kill leaves both or neither."""
    beside = file.with_suffix(".partial")
    save_file(weights, beside, metadata={"state": json.dumps(state)})
    beside.replace(file)


def _load(file: Path) -> tuple[Weights, dict[str, Any]]:
    with safe_open(file, framework="pt") as kept:
        weights = {name: kept.get_tensor(name) for name in kept.keys()}
        return weights, json.loads(kept.metadata()["state"])


def copy_of_weights(model: SentenceTransformer) -> Weights:
    """Copy every weight to main memory, so that further training does not change the copy, nor copies fill a GPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def drawn_towards(base: Weights, tuned: Weights, share: float) -> Weights:
    """Interpolate linearly between the weights of two models: share 0 is the base, 1 is the tuned one.

    Source:
        Wortsman et al., 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT).
    """
    return {
        name: torch.lerp(base[name], tensor, share) if tensor.is_floating_point() else tensor
        for name, tensor in tuned.items()
    }
