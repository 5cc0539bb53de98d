"""The data of a run: questions to learn from, questions to choose by, and guards that must not get worse."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.training.validation import HARDEST_PER_QUERY


@dataclass(frozen=True)
class Material:
    """What a run learns from and what it chooses by, with no question in both.

    Attributes:
        training: Questions to learn from; None if there is only a corpus.
        validation: Questions to choose by; None if the run cross-validates on the training questions instead.
        guards: Questions of other sources, which must not get worse.
        by_own_words: doc_ids of the chunks that validation asks for by their own words, where no person asked anything.
            They are not trained on.
        hardest: Unjudged chunks over which a validation question is ranked: so many by vectors, and so many by BM25.
        asks_chunks: Whether training questions are also made of chunks' own words, beside people's questions.
    """

    training: RetrievalDataset | None
    validation: RetrievalDataset | None
    guards: Mapping[str, RetrievalDataset] = field(default_factory=dict)
    by_own_words: frozenset[str] = frozenset()
    hardest: int = HARDEST_PER_QUERY
    asks_chunks: bool = True

    @property
    def asked_by_nobody(self) -> bool:
        """Whether no person asked anything, so that the validation questions are made of the chunks."""
        return bool(self.by_own_words)

    @property
    def asked(self) -> list[RetrievalDataset]:
        """The sets of questions there are, training first."""
        return [dataset for dataset in (self.training, self.validation) if dataset is not None]

    @property
    def to_choose_by(self) -> RetrievalDataset:
        """The questions to choose by: those of validation, or else those of training."""
        return self.asked[-1]

    @cached_property
    def chunks(self) -> list[str]:
        """Every chunk that training may learn from or validation may rank, each text once."""
        return list(dict.fromkeys(text for dataset in self.asked for text in dataset.corpus.values()))
