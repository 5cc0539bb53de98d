"""Tune the question's vector and leave the stored chunks alone: a query adapter, fitted in seconds.

The chunks' vectors do not change, so they are computed once and every question is scored against all of them. What
is left is multinomial logistic regression: the loss is convex in the map, so that there are no epochs, no seed of
the fit and no learning rate to choose, only how strongly the map is held to the identity.

A fit is so short that cross-validation can choose this strength: every question is asked of a map that was fitted
without it and without the others about its answer, which is many times the evidence of the few questions that could be
held out.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from docsgpt_embtune.adapter import QueryAdapter
from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.data.likely_answers import NEAR_DUPLICATE
from docsgpt_embtune.data.split import folds_by_answer, groups_by_answer
from docsgpt_embtune.evaluation.best_of_many import Choice, mean_ndcg
from docsgpt_embtune.evaluation.metrics import QueryScores, joined_scores
from docsgpt_embtune.evaluation.ranking import search_exact
from docsgpt_embtune.progress import Bar
from docsgpt_embtune.serving.keywords import Keywords
from docsgpt_embtune.training.config import SEED
from docsgpt_embtune.training.folds import FOLDS
from docsgpt_embtune.training.keywords.fitting import KeywordFitting
from docsgpt_embtune.training.keywords.weights import UnseenQuestions, score_weights, worth_their_width
from docsgpt_embtune.training.validation import HARDEST_PER_QUERY, Pool, score_vectors
from docsgpt_embtune.vectors import Vectors

# How strongly the map is held to the identity, from hardly any change to memorising 400 questions.
STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03)
PATIENCE = 2  # strengths without improvement before the weaker ones are left out: each takes longer than the last
SCALE = 40.0  # of the cosines in the softmax; chosen by cross-validation on training questions
MAX_CHUNKS = 20_000  # in the softmax; above, the hardest of each question and a random sample stand for the rest
_ITERATIONS = 60
_ROWS = 1024  # questions scored at a time, so that memory does not grow with their number


@dataclass(frozen=True)
class AdapterReport:
    """The result of a fit. Every score is of a question that was asked of a map fitted without it.

    Attributes:
        adapter: The map that cross-validation prefers, fitted to all questions.
        strength: How strongly the map is held to the identity.
        choice: Scores of each question without a map, and with a map of each strength that was tried.
        seconds: Time of the fits, without the embedding of texts that were not in the cache.
        keywords: The keywords beside the vectors; None if there are none.
        folder: Where the adapter was written; None if it was not.
    """

    adapter: QueryAdapter
    strength: float
    choice: Choice
    seconds: float
    keywords: Keywords | None = None
    folder: Path | None = None

    def __str__(self) -> str:
        """Return what the command prints."""
        from docsgpt_embtune.training.query_adapter.adapting import summary

        return summary(self)

    __repr__ = __str__  # a notebook shows what a cell ends with, which would be all scores of all questions

    @property
    def improved(self) -> bool:
        """Whether the questions are answered better with it, by more than luck gives the best of all that was tried."""
        return self.choice.is_higher and self.choice.is_beyond_luck


def fit_adapter(
    questions: RetrievalDataset,
    query_embeddings: Vectors,
    corpus_embeddings: Vectors,
    *,
    seed: int = SEED,
    keywords: bool = False,
) -> AdapterReport:
    """Try a map of each strength, strongest first, and fit the one that cross-validation prefers by nDCG@10.

    Keywords are then tried beside that map's vectors, as `training.keywords.choice` tries them beside a tuned model's.

    Args:
        questions: Questions to learn from and to choose by, about at least as many answers as there are folds.
        query_embeddings: The model's vectors of the questions (Q, D), in order.
        corpus_embeddings: The model's vectors of their corpus (N, D), in order.
        seed: Seed of the sample of a large corpus.
        keywords: Whether keywords may be put beside the vectors, of questions and of chunks.
    """
    started = time.perf_counter()
    objective = _Objective.of(questions, query_embeddings, corpus_embeddings, seed)
    folds = _folds(questions, query_embeddings, corpus_embeddings, objective)
    baseline = joined_scores(fold.score(fold.query_embeddings) for fold in folds)
    tried: list[QueryScores] = []
    best = 0
    for strength in Bar(STRENGTHS, desc="strengths"):
        tried.append(joined_scores(fold.score_map_of(strength) for fold in folds))
        if mean_ndcg(tried[-1]) > mean_ndcg(tried[best]):
            best = len(tried) - 1
        if len(tried) - 1 - best == PATIENCE:
            break
    matrix = _identity(query_embeddings)
    for strength in STRENGTHS[: best + 1]:
        matrix = objective.minimum(strength, start=matrix)
    choice = Choice(baseline, tried, tried[best], groups_by_answer(questions))
    beside = None
    if keywords:
        fitting = KeywordFitting.of(dict.fromkeys(questions.corpus.values()), query_embeddings.shape[1])
        choice, beside = _with_keywords(choice, [fold.unseen(best, fitting) for fold in folds], fitting, questions)
    return AdapterReport(QueryAdapter(matrix), STRENGTHS[best], choice, time.perf_counter() - started, beside)


def _with_keywords(
    choice: Choice, every: Sequence[UnseenQuestions], fitting: KeywordFitting, questions: RetrievalDataset
) -> tuple[Choice, Keywords | None]:
    """Choose among keywords at each weight, too; none if they are not worth their width."""
    scores = score_weights(every)
    better = worth_their_width(scores, choice.chosen)
    tried = [*choice.tried, *scores.values()]
    if not better:
        return replace(choice, tried=tried), None
    best = better[0]
    keywords = replace(fitting.kinds(questions)[best.kind], weight=best.weight)
    return replace(choice, tried=tried, chosen=scores[best]), keywords


class _Fold:
    """Held-out questions, which are asked of maps fitted to the others.

    Args:
        learned: The other questions.
        held_out: The held-out questions.
        query_embeddings: Vectors of the held-out questions (H, D).
        corpus_embeddings: Vectors of the corpus (N, D).
        objective: What the maps minimise, over the other questions.
    """

    def __init__(
        self,
        learned: RetrievalDataset,
        held_out: RetrievalDataset,
        query_embeddings: Vectors,
        corpus_embeddings: Vectors,
        objective: "_Objective",
    ) -> None:
        self.held_out = held_out
        self.query_embeddings = query_embeddings
        self._learned = learned
        self._corpus_embeddings = corpus_embeddings
        self._objective = objective
        self._matrix = _identity(query_embeddings)
        self._mapped: list[Vectors] = []

    def score(self, query_embeddings: Vectors) -> QueryScores:
        return score_vectors(self.held_out, query_embeddings, self._corpus_embeddings)

    def score_map_of(self, strength: float) -> QueryScores:
        """Fit a map, starting from that of the previous strength, and score it."""
        self._matrix = self._objective.minimum(strength, start=self._matrix)
        self._mapped.append(QueryAdapter(self._matrix).map(self.query_embeddings))
        return self.score(self._mapped[-1])

    def unseen(self, number: int, fitting: KeywordFitting) -> UnseenQuestions:
        """Return the held-out questions as mapped with the strength of this number, to try keywords beside them."""
        kinds = fitting.kinds(self._learned)
        return UnseenQuestions(Pool.of_all(self.held_out), self._mapped[number], self._corpus_embeddings, kinds)


def _folds(
    questions: RetrievalDataset, query_embeddings: Vectors, corpus_embeddings: Vectors, objective: "_Objective"
) -> list[_Fold]:
    query_ids = list(questions.queries)

    def of_rows(rows: Sequence[int]) -> RetrievalDataset:
        return questions.subset(query_ids[row] for row in rows)

    return [
        _Fold(
            of_rows(outside), of_rows(inside), query_embeddings[inside], corpus_embeddings, objective.of_some(outside)
        )
        for outside, inside in folds_by_answer(questions, FOLDS)
    ]


def _identity(vectors: Vectors) -> Vectors:
    return np.eye(vectors.shape[1], dtype=np.float32)


@dataclass(frozen=True)
class _Objective:
    """Softmax cross-entropy of each question's good chunks among all chunks, plus the distance from the identity.

    The best map is W = I + C B^T, where B is an orthonormal basis of the questions' span: any change in other
    directions would only add to the distance (the representer theorem). So R numbers of each question are mapped and
    not D, which for few questions and wide vectors is a tenth of the work.

    Attributes:
        query_embeddings: Vectors of the questions (Q, D).
        chunk_embeddings: Vectors of the chunks in the softmax (P, D).
        good: For each question, the rows of its good chunks in `chunk_embeddings`.
        ignored: For each question, the rows of near-duplicates of its good chunks, which count as neither good nor bad.
    """

    query_embeddings: Vectors
    chunk_embeddings: Vectors
    good: Sequence[npt.NDArray[np.int64]]
    ignored: Sequence[npt.NDArray[np.int64]]

    @classmethod
    def of(
        cls, training: RetrievalDataset, query_embeddings: Vectors, corpus_embeddings: Vectors, seed: int
    ) -> "_Objective":
        row_of = {doc_id: row for row, doc_id in enumerate(training.corpus)}
        pool = _pool(training, query_embeddings, corpus_embeddings, row_of, seed)
        chunks = corpus_embeddings[pool]
        place_of = {int(row): place for place, row in enumerate(pool)}
        good, ignored = [], []
        for query_id in training.queries:
            rows = np.array([place_of[row_of[doc_id]] for doc_id in training.relevant_docs[query_id]])
            alike = np.flatnonzero((chunks @ chunks[rows].T).max(axis=1) >= NEAR_DUPLICATE)
            good.append(rows)
            ignored.append(np.setdiff1d(alike, rows))
        return cls(query_embeddings, chunks, good, ignored)

    @cached_property
    def basis(self) -> Vectors:
        """Orthonormal basis of the questions' span: (D, R); the identity if there are no fewer questions than numbers.

        Without questions it is the identity, too.
        """
        count, width = self.query_embeddings.shape
        if not 0 < count < width:
            return _identity(self.query_embeddings)
        return np.linalg.qr(self.query_embeddings.T)[0]

    @cached_property
    def coordinates(self) -> Vectors:
        """The questions in that basis: (Q, R)."""
        return self.query_embeddings @ self.basis

    def of_some(self, rows: Sequence[int]) -> "_Objective":
        """Keep the questions of these rows, among the same chunks."""
        good, ignored = ([every[row] for row in rows] for every in (self.good, self.ignored))
        return _Objective(self.query_embeddings[rows], self.chunk_embeddings, good, ignored)

    def minimum(self, strength: float, start: Vectors) -> Vectors:
        """Find the map W (D, D), from a start that should be near: the map of the next stronger pull."""
        change = (start - _identity(self.query_embeddings)) @ self.basis
        found = minimize(
            lambda flat: self.value_and_gradient(flat.reshape(change.shape), strength),
            change.ravel().astype(np.float64),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": _ITERATIONS, "ftol": 1e-4},
        )
        matrix: Vectors = (
            _identity(self.query_embeddings) + found.x.reshape(change.shape).astype(np.float32) @ self.basis.T
        )
        return matrix

    def value_and_gradient(self, change: npt.NDArray[Any], strength: float) -> tuple[float, npt.NDArray[np.float64]]:
        """Return the loss at a change C (D, R), and its gradient, flat.

        The mapped question is left unnormalised here: its length does not change a ranking, and the loss stays convex.
        Without questions there is only the distance from the identity.
        """
        loss, gradient = 0.0, np.zeros_like(change)
        for rows in _slices(len(self.query_embeddings)):
            mapped = self.query_embeddings[rows] + self.coordinates[rows] @ change.T.astype(np.float32)
            logits = SCALE * mapped @ self.chunk_embeddings.T  # (rows, P)
            for row, ignored in zip(logits, self.ignored[rows], strict=True):
                row[ignored] = -np.inf
            highest = logits.max(axis=1, keepdims=True)
            good = sum(float(row[good].mean()) for row, good in zip(logits, self.good[rows], strict=True))
            np.exp(logits - highest, out=logits)
            total = logits.sum(axis=1, keepdims=True)
            loss += float((np.log(total) + highest).sum()) - good
            logits /= total  # the probabilities
            for row, places in zip(logits, self.good[rows], strict=True):
                row[places] -= 1 / len(places)
            gradient += SCALE * (logits @ self.chunk_embeddings).T @ self.coordinates[rows]
        count = max(1, len(self.query_embeddings))
        return loss / count + strength * float((change**2).sum()), (gradient / count + 2 * strength * change).ravel()


def _slices(count: int) -> Iterator[slice]:
    return (slice(start, start + _ROWS) for start in range(0, count, _ROWS))


def _pool(
    training: RetrievalDataset,
    query_embeddings: Vectors,
    corpus_embeddings: Vectors,
    row_of: Mapping[str, int],
    seed: int,
) -> npt.NDArray[np.int64]:
    """Choose the rows of the corpus for the softmax: all, or else the judged, the hardest and a sample."""
    count = len(corpus_embeddings)
    if count <= MAX_CHUNKS:
        return np.arange(count)
    judged = {
        row_of[doc_id]
        for judgments in (training.relevant_docs, training.irrelevant_docs)
        for doc_ids in judgments.values()
        for doc_id in doc_ids
    }
    hardest = search_exact(query_embeddings, [(np.arange(count), corpus_embeddings)], HARDEST_PER_QUERY)
    sample = np.random.default_rng(seed).choice(count, MAX_CHUNKS, replace=False)
    return np.union1d(np.union1d(hardest.ravel(), sample), sorted(judged))
