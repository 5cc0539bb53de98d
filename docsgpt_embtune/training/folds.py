"""Cross-validation of a stage: each question is asked of a model that learned from the others.

Of few questions, those that are held out to choose by are missed where the others are learned from, and are too few to
tell a gain from luck: of 60, with 24 held out, a gain of .1 of nDCG@10 is hardly ever seen. Asked in folds, all of them
choose and all of them teach. What a stage takes for its questions is then taken once for each fold and once for the
model that is kept; the chunks, which teach most and longest, are learned from once.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.data.split import folds_by_answer
from docsgpt_embtune.files import file_written_whole
from docsgpt_embtune.vectors import Vectors

FOLDS = 3  # of a query adapter's questions, five choose alike and take twice as long
# Chunks beside the judged ones that are kept for each question, by either search: they are asked all, and of each fold,
# so that with as many as validation has otherwise most of the time would go into ranking.
HARDEST_IN_FOLDS = 10


@dataclass(frozen=True)
class Fold:
    """Some questions, and those others that a model learns from before it is asked these.

    Attributes:
        asked: Questions about answers that no other fold asks about.
        learned: Query ids of all others, in order, but for those that ask the same in the same words.
    """

    asked: RetrievalDataset
    learned: tuple[str, ...]


def folds_of(questions: RetrievalDataset) -> list[Fold]:
    """Share questions out among folds, questions that share a good chunk staying together.

    Args:
        questions: At least as many answers as there are folds.
    """
    query_ids = list(questions.queries)
    return [
        Fold(questions.subset(query_ids[row] for row in inside), tuple(query_ids[row] for row in outside))
        for outside, inside in folds_by_answer(questions, FOLDS)
    ]


class FoldVectors:
    """What each fold's models made of its questions and chunks, on disk: they are many, and outlive a killed run.

    Args:
        folder: Where they are kept; None keeps them in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._held: dict[str, tuple[Vectors, Vectors]] = {}

    def has(self, fold: int, candidate: str) -> bool:
        """Tell whether they are kept."""
        name = _file_name(fold, candidate)
        return name in self._held if self._folder is None else (self._folder / name).is_file()

    def keep(self, fold: int, candidate: str, query_embeddings: Vectors, chunk_embeddings: Vectors) -> None:
        """Keep the vectors of a fold's questions (Q, D) and of the chunks that they are ranked over (P, D)."""
        name = _file_name(fold, candidate)
        if self._folder is None:
            self._held[name] = query_embeddings, chunk_embeddings
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with file_written_whole(self._folder / name) as partial, partial.open("wb") as opened:
            np.savez(opened, queries=query_embeddings, chunks=chunk_embeddings)

    def load(self, fold: int, candidate: str) -> tuple[Vectors, Vectors]:
        """Return the vectors of the questions and of the chunks."""
        name = _file_name(fold, candidate)
        if self._folder is None:
            return self._held[name]
        with np.load(self._folder / name, allow_pickle=False) as kept:
            return kept["queries"], kept["chunks"]


def _file_name(fold: int, candidate: str) -> str:
    return f"fold {fold}, {candidate}.npz"
