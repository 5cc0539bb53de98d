"""One step of a training run, as it is planned."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.data.likely_answers import MAX_SHARE_OF_GOOD_SCORE
from docsgpt_embtune.training.config import TrainConfig


@dataclass(frozen=True)
class Stage:
    """One fit of the best weights so far.

    Attributes:
        name: What the candidates that come out of it are called.
        questions: What is learned from.
        config: Loss and settings.
        mines: Whether questions with fewer bad chunks than `config.negatives` are given mined ones.
        ceiling: Share of the good chunk's score above which a chunk is not taken for a bad one.
        averages: Whether the mean of the weights that it began and ended with is a candidate, too.
        share: How much of the way from the weights that it begins with to those that it ends with is taken; below 1,
            nothing else that comes out of it is a candidate.
        may_be_given_up: Whether it ends early where validation has fallen beyond chance.
        passes_on: Whether the next stage begins with the best weights so far; if not, with those this one began with.
        if_time_allows: Whether it is left out where the time is too short for all.
        asks_folds: Whether its candidates are judged by models that learned without the questions that they are asked,
            as these are the run's validation questions, too.
        by_tokens: Whether the questions, words of one chunk each, are learned from as the model's tokens rank the mined
            chunks for them, and not by which chunk they are of (see `token_teaching`).
        chunk_of: piece_id -> doc_id, where the questions are asked of the windows of chunks.
    """

    name: str
    questions: RetrievalDataset
    config: TrainConfig
    mines: bool
    ceiling: float = MAX_SHARE_OF_GOOD_SCORE
    averages: bool = False
    share: float = 1.0
    may_be_given_up: bool = False
    passes_on: bool = True
    if_time_allows: bool = False
    asks_folds: bool = False
    by_tokens: bool = False
    chunk_of: Mapping[str, str] = field(default_factory=dict)

    @property
    def lesson(self) -> str:
        """What it learns from, in a few words."""
        return "as the model's tokens rank them" if self.by_tokens else self.config.loss

    @property
    def mean_name(self) -> str:
        """What the mean of the weights that it began and ended with is called as a candidate."""
        return f"{self.name}, mean"

    def epoch_name(self, epoch: int) -> str:
        """Name the candidate that an epoch ends with, from 1."""
        return self.name if self.config.epochs == 1 else f"{self.name}, epoch {epoch}"
