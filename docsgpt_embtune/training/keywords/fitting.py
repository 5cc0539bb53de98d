"""Fit directions for the words of a corpus: as many as a vector has room for, and those that keep BM25 scores best.

Random directions suit every chunk alike and none well: with 382 of them, the error of a score is a twentieth of what
the words of the two texts weigh. The principal directions of the corpus's own chunks lose the least of these chunks'
scores, and nothing if there are no more chunks than directions. Beside an untuned model they were worth .01 to .05 of
nDCG@10, and 768 numbers did what 1,536 had done. Chunks that were added after the fit gained less; where they were half
of all chunks, little of the gain was left (`scripts/bench_keywords.py`).
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import norm
from sklearn.utils.extmath import randomized_svd

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.progress import Bar
from docsgpt_embtune.serving.keywords import PADDING, TINY, FittedDirections, Keywords, Words, find, high_among
from docsgpt_embtune.training.keywords.question_words import learn_stresses
from docsgpt_embtune.vectors import Vectors

NARROW, WIDE = "keywords", "wide keywords"
STRESSED = "stressed"
# Words are counted in so many chunks of a larger corpus, drawn at random: it takes half a minute, and words are as rare
# in these as in all.
MOST_COUNTED = 200_000
# In a larger corpus, a thousand directions keep too little to be worth the minutes that they take.
MOST_CHUNKS = 20_000
# Words whose directions are kept, a kilobyte each. The others are rare, and random directions serve them as well.
MOST_WORDS = 30_000
_ROUNDS = 4  # of the power iteration
_LEAST_SHARE = 1e-3  # of the first singular value; lower ones are rounding, where chunks are copies of each other


@dataclass(frozen=True, eq=False)
class KeywordFitting:
    """The word counts and directions of a corpus, which do not depend on what is then learned from questions.

    Attributes:
        counted: Keywords of the corpus's words, narrow and without directions.
        plain: Name -> keywords of each kind, without stresses.
        answers: Weight of each word in each chunk (N, T); None where chunks are too many, or have no word in common.
        row_of: Chunk -> its row.
    """

    counted: Keywords
    plain: Mapping[str, Keywords]
    answers: csr_array | None = None
    row_of: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, corpus: Iterable[str], model_width: int, *, wide: bool = False, show_progress: bool = False) -> Self:
        """Count the words of a corpus, and find their directions unless the corpus is too large.

        Args:
            corpus: The chunks, at least one, each once.
            model_width: Width of the model's own vectors.
            wide: Whether wide keywords are wanted, too.
            show_progress: Whether a bar shows how far the counting is.
        """
        chunks = list(corpus)
        part = chunks if len(chunks) <= MOST_COUNTED else random.Random(0).sample(chunks, MOST_COUNTED)
        bar = Bar(part, desc="counting words", unit="chunk", disable=not show_progress)
        counted = Keywords.of(bar, model_width)
        plain = {NARROW: counted, WIDE: counted.wider(model_width)} if wide else {NARROW: counted}
        of_many = _most_frequent(counted.occurs_in)
        if len(chunks) > MOST_CHUNKS or not of_many.size:
            return cls(counted, plain)
        weights = _matrix(counted, map(counted.of_chunk, chunks))
        lengths = norm(weights, axis=1)
        high = high_among(lengths)
        widest = max(each.width for each in plain.values())
        directions = _principal_directions(weights[:, of_many], widest - PADDING)
        for name, each in plain.items():
            words = FittedDirections.of(counted.known[of_many], directions[:, : each.width - PADDING])
            plain[name] = replace(each, high=high, fitted=words)
        answers = _divided(weights, np.maximum(lengths, high))
        return cls(counted, plain, answers, {text: row for row, text in enumerate(chunks)})

    def kinds(self, training: RetrievalDataset | None = None) -> dict[str, Keywords]:
        """Return keywords of each kind, with and without stresses of the words that are learned from questions.

        Args:
            training: Questions about these chunks; None learns nothing.

        Returns:
            Name -> keywords of weight 0, the cheapest first: narrow ones, then wide ones, each without and with
            stresses.
        """
        if training is None or self.answers is None:
            return dict(self.plain)
        stresses = self._stresses(training, self.answers)
        kinds = {}
        for name, each in self.plain.items():
            kinds[name] = each
            kinds[f"{STRESSED} {name}"] = replace(each, stresses=stresses)
        return kinds

    def _stresses(self, training: RetrievalDataset, answers: csr_array) -> npt.NDArray[np.float32]:
        """Learn how much each word counts in a question: (T,); 1 each if there are no questions."""
        if not len(training):
            return np.ones(len(self.counted.known), dtype=np.float32)
        asked = _matrix(self.counted, map(self.counted.of_question, training.queries.values()))
        good = [[self.row_of[training.corpus[d]] for d in doc_ids] for doc_ids in training.relevant_docs.values()]
        return learn_stresses(_divided(asked, np.maximum(norm(asked, axis=1), TINY)), answers, good)


def _matrix(keywords: Keywords, texts: Iterable[Words]) -> csr_array:
    """Return the weight of each word in each text: (N, T), in the order of `keywords.known`, other words left out."""
    columns, weights, ends = [], [], [0]
    for words in texts:
        places, known = find(words.keys, keywords.known)
        columns.append(places)
        weights.append(words.weights[known])
        ends.append(ends[-1] + len(places))
    shape = (len(ends) - 1, len(keywords.known))
    return csr_array((np.concatenate(weights), np.concatenate(columns), ends), shape=shape)


def _divided(matrix: csr_array, by: npt.NDArray[np.float32]) -> csr_array:
    return diags_array(1 / by, format="csr") @ matrix


def _most_frequent(occurs_in: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the ascending indices of the words in more than one chunk: of the MOST_WORDS most frequent at most."""
    of_many = np.flatnonzero(occurs_in > 1)
    order = np.argsort(-occurs_in[of_many], kind="stable")
    return np.sort(of_many[order[:MOST_WORDS]])


def _principal_directions(weights: csr_array, numbers: int) -> Vectors:
    """Return each word's part (F, numbers) of the first right singular vectors of the chunks' words (N, F).

    Source:
        Halko, Martinsson and Tropp, 2011, "Finding structure with randomness", as scikit-learn has it.
    """
    _, sizes, vectors = randomized_svd(weights, min(numbers, *weights.shape), n_iter=_ROUNDS, random_state=0)
    kept = vectors[sizes > _LEAST_SHARE * sizes[0]]
    directions = np.zeros((weights.shape[1], numbers), dtype=np.float32)
    directions[:, : len(kept)] = kept.T
    return directions
