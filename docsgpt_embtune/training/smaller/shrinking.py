"""Cut a tuned model's vectors to fewer numbers, for less memory and disk in the store and a faster search.

The cut is a linear layer before Normalize, which every sentence-transformers since 3.0.1 loads; its own `truncate_dim`
is an argument that DocsGPT does not pass. Two cuts are tried at each width, and validation chooses: the first numbers
of a vector, for which `--widths` trains, and the principal directions of the chunks' vectors, which need no training.
On a manual's questions the principal directions lost less from half the width down, with `--widths` and without.
Keywords beside the model's numbers stay as they are.

Principal directions preserve the differences between the chunks that they were computed from, all of them if there are
no more chunks than directions, but fewer of those between later chunks. What they cost is therefore measured on chunks
that they were not computed from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, cast

import numpy as np

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.data.split import folds_by_answer, groups_by_answer
from docsgpt_embtune.embeddings import TunedEmbeddings
from docsgpt_embtune.errors import ModelFolderError, TrainingError
from docsgpt_embtune.evaluation.best_of_many import mean_ndcg
from docsgpt_embtune.evaluation.decision import Decision, Trial, decision_lines, is_harmless
from docsgpt_embtune.evaluation.metrics import QueryScores, joined_scores, mean_scores
from docsgpt_embtune.evaluation.vector_cache import embed_both
from docsgpt_embtune.evaluation.verdict import judge
from docsgpt_embtune.loading import load_model
from docsgpt_embtune.manifest import Manifest
from docsgpt_embtune.model_folder import check_destination, verify
from docsgpt_embtune.model_writing import write_model_folder
from docsgpt_embtune.seen_questions import with_chosen_by_too, without_learned
from docsgpt_embtune.serving.keywords import load_keywords
from docsgpt_embtune.serving.reading import Reading, recorded_reading
from docsgpt_embtune.training.held_out import FEWEST_GROUPS, answers_asked_about, asked_in_their_place
from docsgpt_embtune.training.validation import score_vectors
from docsgpt_embtune.vectors import Vectors
from docsgpt_embtune.wording import Say, counted, silent

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

CutName = Literal["first numbers", "principal directions"]
# Shares of the full width to try where the model was not trained with `--widths`: 288, 192, 128, 96 and 64 of MiniLM's
# 384.
SHARES = (3 / 4, 1 / 2, 1 / 3, 1 / 4, 1 / 6)
# Folds of the questions. For each, directions are computed from the chunks that do not answer its questions.
DIRECTION_FOLDS = 5
_OF_THE_WHOLE_MODEL = ("schema", "fingerprint", "dimension", "max_seq_length", "serving")


@dataclass(frozen=True)
class ShrinkReport:
    """What was measured and written.

    Attributes:
        decision: The full width, then two cuts at each other width, with what each costs.
        folder: Where the cut model was written; None if no width is known to lose nothing that matters.
        manifest: What was written beside it; empty if nothing was.
    """

    decision: Decision
    folder: Path | None
    manifest: Manifest


@dataclass(frozen=True)
class Cut:
    """A linear map of the model's D numbers to fewer, which leaves the keywords beside them as they are.

    Attributes:
        name: The kind of cut.
        matrix: (C, D) float32.
        beside: How many numbers of a vector hold keywords.
    """

    name: CutName
    matrix: Vectors
    beside: int

    @property
    def width(self) -> int:
        """How many numbers a vector has after the cut."""
        return len(self.matrix) + self.beside

    def __str__(self) -> str:
        return f"{self.width} wide, {self.name}"

    def map(self, vectors: Vectors) -> Vectors:
        """Map (N, D + beside) to (N, width), unit norm."""
        whole, keywords = np.split(vectors, [self.matrix.shape[1]], axis=1)
        cut = whole @ self.matrix.T
        norms = np.linalg.norm(cut, axis=1, keepdims=True)  # zero where a static model knows no token of a text
        cut *= np.linalg.norm(whole, axis=1, keepdims=True) / np.where(norms > 0, norms, 1)
        return np.concatenate([cut, keywords], axis=1)


@dataclass(frozen=True, eq=False)
class _Measure:
    """Scores cuts, each on answers that it was not computed from.

    Attributes:
        asked: Questions to decide by.
        query_embeddings: Vectors of the questions (Q, D + beside).
        corpus_embeddings: Vectors of the chunks (N, D + beside).
        folds: The questions of each fold by their rows, and the principal directions of the chunks that answer none of
            them.
    """

    asked: RetrievalDataset
    query_embeddings: Vectors
    corpus_embeddings: Vectors
    folds: Sequence[tuple[Sequence[int], RetrievalDataset, Vectors]]

    @classmethod
    def in_folds(
        cls, asked: RetrievalDataset, query_embeddings: Vectors, corpus_embeddings: Vectors, full: int
    ) -> Self:
        """Find each fold's principal directions, of the model's own D numbers (`full`)."""
        query_ids = list(asked.queries)
        folds = []
        for rows in _folds(asked):
            some = asked.subset(query_ids[row] for row in rows)
            folds.append((rows, some, principal_directions(corpus_embeddings[_not_answering(some), :full])))
        return cls(asked, query_embeddings, corpus_embeddings, folds)

    def whole(self) -> QueryScores:
        """Score the uncut vectors."""
        return score_vectors(self.asked, self.query_embeddings, self.corpus_embeddings)

    def score(self, cut: Cut) -> QueryScores:
        """Score the vectors after a cut."""
        if cut.name == "first numbers":
            return score_vectors(self.asked, cut.map(self.query_embeddings), cut.map(self.corpus_embeddings))
        parts = []
        for rows, some, directions in self.folds:
            like_it = replace(cut, matrix=directions[: len(cut.matrix)])
            parts.append(
                score_vectors(some, like_it.map(self.query_embeddings[rows]), like_it.map(self.corpus_embeddings))
            )
        return joined_scores(parts)


def _not_answering(some: RetrievalDataset) -> list[int]:
    """Return the places in the corpus of the chunks that answer none of the questions."""
    answers = {doc_id for doc_ids in some.relevant_docs.values() for doc_id in doc_ids}
    return [place for place, doc_id in enumerate(some.corpus) if doc_id not in answers]


def _folds(asked: RetrievalDataset) -> list[list[int]]:
    """Split the questions into folds, keeping those about one answer together, and return the rows of each fold."""
    count = min(DIRECTION_FOLDS, answers_asked_about(asked))
    return [inside for _, inside in folds_by_answer(asked, count)] if count > 1 else [list(range(len(asked)))]


def shrink(
    folder: str | Path,
    validation: RetrievalDataset,
    out: Path,
    *,
    width: int | None = None,
    cache: Path | None = None,
    say: Say = silent,
) -> ShrinkReport:
    """Write a tuned model with narrower vectors, and report what each width costs.

    Args:
        folder: A tuned folder.
        validation: Questions to decide by; they can no longer serve as test questions afterwards. Those that the model
            learned from are left out; if too few are left, chunks are asked for by their own words.
        out: The model folder to write; a tuned folder there is replaced in one step, anything else is left alone.
        width: How many numbers to leave in a vector, whatever validation says; if not given, the fewest that lose
            nothing that matters on these questions.
        cache: Folder that keeps vectors for the next time; none if not given.
        say: Takes one line of plain text before each stage.

    Raises:
        ModelFolderError: If the folder is not whole, has a query adapter, cannot be cut to that width,
            or the destination is something else.
        TrainingError: If the model learned from so many questions that too few are left to decide by, and there are
            hardly any chunks.
        EvaluationError: If the model gives unusable vectors.
    """
    folder = Path(folder).expanduser().resolve()
    check_destination(out, say, made_of=folder)
    manifest = verify(folder)
    keywords = load_keywords(folder)
    beside = keywords.width if keywords else 0
    _refuse(folder, manifest, width, beside)
    asked, by_words = _to_decide_by(folder, manifest, validation, say)
    say("embedding the questions and their chunks")
    embeddings = TunedEmbeddings(str(folder))
    query_embeddings, corpus_embeddings = embed_both(embeddings, embeddings.fingerprint, asked, cache)
    full = manifest["dimension"] - beside
    if by_words:
        query_embeddings[:, full:] = 0  # keywords would find each of these chunks at any width
    maps: dict[CutName, Vectors] = {
        "first numbers": np.eye(full, dtype=np.float32),
        "principal directions": principal_directions(corpus_embeddings[:, :full]),
    }
    numbers = _numbers(manifest, full, full if width is None else width - beside)
    cuts = [Cut(name, matrix[:count], beside) for count in numbers for name, matrix in maps.items()]
    chosen, decision = _decide(cuts, _Measure.in_folds(asked, query_embeddings, corpus_embeddings, full), width)
    if by_words:
        where = f"where {counted(len(asked), 'chunk')} are asked for by their own words"
        reason = f"{decision.reason} {where}, as the model learned from the questions"
        decision = replace(decision, reason=reason, queries=len(validation))
    if chosen is None:
        return ShrinkReport(decision, None, {})
    details = cast("Manifest", {key: value for key, value in manifest.items() if key not in _OF_THE_WHOLE_MODEL})
    if not by_words:
        details = with_chosen_by_too(details, asked)
    if reading := recorded_reading(manifest):
        details["serving"] = {"reading": reading}  # the questions were asked of chunks that were read in this way
    details["shrunk"] = {"from": manifest["fingerprint"], "dimension": manifest["dimension"], **decision.to_dict()}
    return ShrinkReport(decision, out, write_model_folder(_with_cut(folder, chosen), folder, out, details, keywords))


def principal_directions(vectors: Vectors) -> Vectors:
    """Find the principal directions of vectors, which preserve their inner products best.

    Of all linear maps to k numbers, the first k directions change the inner products of the vectors least, in the mean
    square. The vectors are not centred: DocsGPT compares them with questions as they are.

    Args:
        vectors: (N, D)

    Returns:
        (D, D) float32, orthonormal rows, the most important first.

    Source:
        Eckart and Young, "The approximation of one matrix by another of lower rank", 1936.
    """
    moments = vectors.T.astype(np.float64) @ vectors  # (D, D)
    return np.ascontiguousarray(np.linalg.eigh(moments).eigenvectors.T[::-1], dtype=np.float32)


def _refuse(folder: Path, manifest: Manifest, width: int | None, beside: int) -> None:
    if "query_adapter" in manifest:
        raise ModelFolderError(f"{folder}: has a query adapter of its width; shrink the model that it was made for")
    full = manifest["dimension"]
    if width is not None and not beside < width < full:
        keywords = f" ({beside} of it keywords)" if beside else ""
        raise ModelFolderError(
            f"{folder}: is {full} wide{keywords} and cannot be cut to {width}; "
            f"set --width to {beside + 1} up to {full - 1}"
        )


def _to_decide_by(
    folder: Path, manifest: Manifest, validation: RetrievalDataset, say: Say
) -> tuple[RetrievalDataset, bool]:
    """Leave out questions that the model learned from; if too few are left, ask for chunks by their own words.

    With a model tuned on 300 questions about 715 chunks, principal directions at 288, 192 and 128 of 384 numbers lost
    .000, .009 and .028 of nDCG@10 on the chunks' own words, and nothing on 150 questions that it did not learn from.
    The first numbers lost .009, .036 and .073, and .019, .032 and .058: on either more than is accepted.

    Returns:
        The questions, and whether they are the chunks' own words.
    """
    unlearned = without_learned(validation, manifest)
    learned = len(validation) - len(unlearned)
    if not learned:
        return validation, False
    say(f"left out    {counted(learned, 'question')} that the model learned from")
    if answers_asked_about(unlearned) >= FEWEST_GROUPS:
        return unlearned, False
    of_chunks = asked_in_their_place(folder, Reading.of(manifest), validation.corpus, say)
    if of_chunks is None:
        raise TrainingError(
            f"the model learned from {learned:,} of {counted(len(validation), 'question')}, and too few of the "
            "chunks can be asked for by words of their own; give --data with questions that it did not learn from"
        )
    return of_chunks, True


def _numbers(manifest: Manifest, full: int, asked_for: int) -> list[int]:
    """Return how many of the model's own numbers each cut leaves, the most first."""
    usual = manifest.get("training", {}).get("widths") or [round(full * share) for share in SHARES]
    return sorted({each for each in (*usual, asked_for) if each < full}, reverse=True)


def _decide(cuts: Sequence[Cut], measure: _Measure, width: int | None) -> tuple[Cut | None, Decision]:
    """Choose the width asked for, or the narrowest that loses nothing; of its two cuts, the one that finds more."""
    groups, count = groups_by_answer(measure.asked), len(measure.asked)
    whole = measure.whole()
    trials = [Trial(f"{measure.corpus_embeddings.shape[1]} wide", mean_scores(whole))]
    candidates = []
    for cut in cuts:
        scores = measure.score(cut)
        judgment = judge(whole, scores, groups=groups)
        trials.append(Trial(str(cut), mean_scores(scores), judgment))
        harmless, reason = is_harmless(judgment)
        if harmless if width is None else cut.width == width:
            candidates.append((cut.width, -mean_ndcg(scores), cut, reason))
    if not candidates:
        return None, Decision(trials[0].name, "no width is known to lose nothing that matters", tuple(trials), count)
    _, _, chosen, reason = min(candidates, key=itemgetter(0, 1))
    return chosen, Decision(str(chosen), reason, tuple(trials), count)


def _with_cut(folder: Path, cut: Cut) -> "SentenceTransformer":
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense

    model = load_model(folder, device="cpu")
    width, full = cut.matrix.shape
    layer = Dense(full, width, bias=False, activation_function=None, init_weight=torch.from_numpy(cut.matrix))
    model.insert(len(model) - 1, layer)  # before Normalize
    return model


def summary(report: ShrinkReport) -> str:
    """Say what each width costs, what was written, and what that asks of a deployment."""
    lines = list(decision_lines(report.decision))
    if report.folder is None:
        return "\n".join([*lines, "no model    nothing was written (--width insists on one)"])
    return "\n".join(
        [
            *lines,
            f"model       {report.folder.resolve()} ({report.manifest['fingerprint'][:12]})",
            "stored chunks have to be embedded again (embtune reembed), and graphs to be written anew (embtune export)",
        ]
    )
