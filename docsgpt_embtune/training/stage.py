"""A stage of a training run, as it is planned."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.data.likely_answers import MAX_SHARE_OF_GOOD_SCORE
from docsgpt_embtune.training.config import TrainConfig


@dataclass(frozen=True)
class Stage:
    """One fit, from the weights that the run has when it begins.

    Attributes:
        name: Name of its candidates.
        questions: Questions to learn from.
        config: Loss and settings.
        mines: Whether questions with fewer bad chunks than `config.negatives` per good one get mined ones.
        ceiling: Share of the good chunk's score above which a chunk is not mined.
        averages: Whether the mean of its first and its last weights is a candidate, too.
        share: Share of the change from its first to its last weights that is kept; below 1, its epochs are no
            candidates.
        may_be_given_up: Whether it ends early if validation has fallen beyond chance.
        passes_on: Whether the next stage starts from the best weights so far; if not, it starts where this one did.
        if_time_allows: Whether it is optional: left out if there is no time for all stages.
        asks_folds: Whether its candidates are scored in folds, as its questions are the run's validation questions,
            too.
        by_tokens: Whether questions, each of one chunk's words, teach how the model's tokens rank the mined chunks, and
            not which chunk the words are from (see `token_teaching`).
        chunk_of: piece_id -> doc_id, if the questions are judged on windows of chunks.
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
        """How it learns, in a few words."""
        return "as the model's tokens rank them" if self.by_tokens else self.config.loss

    @property
    def mean_name(self) -> str:
        """Name of the candidate that is the mean of its first and its last weights."""
        return f"{self.name}, mean"

    def epoch_name(self, epoch: int) -> str:
        """Name the candidate at the end of an epoch, numbered from 1."""
        return self.name if self.config.epochs == 1 else f"{self.name}, epoch {epoch}"
