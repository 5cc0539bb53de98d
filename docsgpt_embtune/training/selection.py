"""Which weights are the best so far, by validation, kept so that a killed run can go on."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.evaluation.metrics import QueryScores
from docsgpt_embtune.training.validation import mean_ndcg

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Candidate:
    """A model that came up in a run, and how it did on the validation questions.

    Attributes:
        name: The stage and the epoch that it came out of.
        scores: metric -> query_id -> value.
    """

    name: str
    scores: QueryScores


class Selection:
    """Enter candidates, keep the weights of the best.

    In memory rather than as the trainer's checkpoints: its own loading of the best one logs its errors and goes on
    with the last weights instead.

    Args:
        baseline: Scores of the base model, which a candidate must beat to become the best.
        model: Carries the base model's weights now.
        score: Scores the model as it is.
        say: Takes one line of plain text for each candidate.
        file: Where the best weights and all scores are kept between runs; None keeps them in memory only.
    """

    def __init__(
        self,
        baseline: QueryScores,
        model: SentenceTransformer,
        score: Callable[[], QueryScores],
        say: Callable[[str], None],
        file: Path | None = None,
    ) -> None:
        self.baseline = baseline
        self.candidates: list[Candidate] = []
        self.finished_stages = 0
        self.model = model
        self._score = score
        self._say = say
        self._file = file
        self._best_weights = copy_of_weights(model)

    @property
    def kept(self) -> Candidate | None:
        """The best candidate, the first of equal ones; None while the base model is better than each."""
        best = max(self.candidates, key=lambda candidate: mean_ndcg(candidate.scores), default=None)
        return best if best and mean_ndcg(best.scores) > mean_ndcg(self.baseline) else None

    def enter(self, name: str) -> None:
        """Score the model as it is now and hold on to its weights if they are the best so far."""
        self.model.eval()
        candidate = Candidate(name, self._score())
        # A run that goes on after a kill may come by an epoch's end again.
        self.candidates = [known for known in self.candidates if known.name != name] + [candidate]
        if self.kept is candidate:
            self._best_weights = copy_of_weights(self.model)
        self._keep()
        self._say(f"{name:<11} validation ndcg@10 {mean_ndcg(candidate.scores):.3f}")

    def finish_stage(self) -> None:
        """Note that a stage is done, so that a run that goes on does not do it again."""
        self.finished_stages += 1
        self._keep()

    def replace_all(self, name: str) -> None:
        """Let the model as it is now be the only candidate: the others are out for another reason than score."""
        self.candidates = []
        self.enter(name)

    def restore(self) -> None:
        """Put the best weights back into the model: the base's, while no candidate is better."""
        self.model.load_state_dict(self._best_weights)
        self.model.eval()

    def resume(self) -> None:
        """Take up what an earlier run kept, if it kept anything."""
        if self._file is None or not self._file.is_file():
            return
        with safe_open(self._file, framework="pt", device=str(self.model.device)) as kept:
            state = json.loads(kept.metadata()["state"])
            self._best_weights = {name: kept.get_tensor(name) for name in kept.keys()}
        self.finished_stages = state["finished_stages"]
        self.candidates = [Candidate(name, scores) for name, scores in state["candidates"]]

    def _keep(self) -> None:
        if self._file is None:
            return
        state = {
            "finished_stages": self.finished_stages,
            "candidates": [(candidate.name, candidate.scores) for candidate in self.candidates],
        }
        beside = self._file.with_suffix(".partial")
        save_file(self._best_weights, beside, metadata={"state": json.dumps(state)})
        beside.replace(self._file)


def copy_of_weights(model: SentenceTransformer) -> Weights:
    """Copy every weight, so that training on does not change the copy."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def drawn_towards(base: Weights, tuned: Weights, share: float) -> Weights:
    """Return weights on the straight line between two models: share 0 is the base, 1 is the tuned one.

    Source:
        Wortsman et al., 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT).
    """
    return {
        name: torch.lerp(base[name], tensor, share) if tensor.is_floating_point() else tensor
        for name, tensor in tuned.items()
    }
