"""Cross-validation of a stage: each question is asked of a model that learned from the others.

With few questions, a held-out set is missed in training and is still too small to tell a gain from luck: of 60
questions with 24 held out, a gain of .1 of nDCG@10 is hardly ever detected. In folds, every question serves both for
training and for validation. A stage then trains on questions once per fold and once more for the model that is kept.
The chunks, which teach most and take longest, are trained on only once.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.data.split import folds_by_answer
from docsgpt_embtune.files import file_written_whole
from docsgpt_embtune.vectors import Vectors

FOLDS = 3  # for a query adapter, five choose alike and take twice as long
# Unjudged chunks kept for each question by each search (vectors, BM25). Every question is asked, and each fold ranks
# chunks of its own: with as many as validation has otherwise, most of the time would go into ranking.
HARDEST_IN_FOLDS = 10


@dataclass(frozen=True)
class Fold:
    """Held-out questions, and the other questions that a model learns from before it is asked these.

    Attributes:
        asked: The held-out questions; no other fold asks about their answers.
        learned: Query ids of all others, in order, except those with the same wording as a held-out one.
    """

    asked: RetrievalDataset
    learned: tuple[str, ...]


def folds_of(questions: RetrievalDataset) -> list[Fold]:
    """Split questions into folds, keeping those that share a good chunk together.

    Args:
        questions: Questions about at least as many answers as there are folds.
    """
    query_ids = list(questions.queries)
    return [
        Fold(questions.subset(query_ids[row] for row in inside), tuple(query_ids[row] for row in outside))
        for outside, inside in folds_by_answer(questions, FOLDS)
    ]


class FoldVectors:
    """The vectors of each fold's questions and chunks by its models, kept on disk to survive a killed run.

    Args:
        folder: Where to keep them; None keeps them in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._held: dict[str, tuple[Vectors, Vectors]] = {}

    def has(self, fold: int, candidate: str) -> bool:
        """Tell whether a fold's vectors by a candidate are kept."""
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
        """Return the kept vectors of a fold's questions and of its chunks."""
        name = _file_name(fold, candidate)
        if self._folder is None:
            return self._held[name]
        with np.load(self._folder / name, allow_pickle=False) as kept:
            return kept["queries"], kept["chunks"]


def _file_name(fold: int, candidate: str) -> str:
    return f"fold {fold}, {candidate}.npz"
