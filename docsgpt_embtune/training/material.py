"""What a run is made of: questions to learn from, questions to choose by, and what must not get worse."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.training.validation import HARDEST_PER_QUERY


@dataclass(frozen=True)
class Material:
    """What a run learns from and what it chooses by, with no question in both.

    Attributes:
        training: Questions to learn from; None where there is only a corpus.
        validation: Questions to choose by; None where the training questions do that, too, in folds.
        guards: Questions of other sources, which must not get worse.
        by_own_words: doc_ids of chunks that validation asks for by words which they have, where no person asked
            anything. They are not learned from.
        hardest: Chunks beside the judged ones over which a validation question is ranked, by meaning and by words each.
        asks_chunks: Whether chunks are also asked for by words of their own, and not by people's questions alone.
    """

    training: RetrievalDataset | None
    validation: RetrievalDataset | None
    guards: Mapping[str, RetrievalDataset] = field(default_factory=dict)
    by_own_words: frozenset[str] = frozenset()
    hardest: int = HARDEST_PER_QUERY
    asks_chunks: bool = True

    @property
    def asked_by_nobody(self) -> bool:
        """Whether no person asked anything: the questions that choose are made of the chunks."""
        return bool(self.by_own_words)

    @property
    def asked(self) -> list[RetrievalDataset]:
        """The questions there are, those to learn from first."""
        return [dataset for dataset in (self.training, self.validation) if dataset is not None]

    @property
    def to_choose_by(self) -> RetrievalDataset:
        """The questions that choose: those of validation, or else those to learn from."""
        return self.asked[-1]

    @cached_property
    def chunks(self) -> list[str]:
        """Every text that training may learn from or validation rank, once."""
        return list(dict.fromkeys(text for dataset in self.asked for text in dataset.corpus.values()))
