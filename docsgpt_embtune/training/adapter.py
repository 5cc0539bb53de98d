"""Tune the question's vector and leave the stored chunks alone: a query adapter, fitted in seconds.

The chunks' vectors do not change, so they are computed once and every question is scored against all of them. What
is left is multinomial logistic regression: the loss is convex in the map, so that there are no epochs, no seed of
the fit and no learning rate to choose, only how strongly the map is held to the identity; validation chooses that.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from docsgpt_embtune import __version__
from docsgpt_embtune.adapter import ADAPTER_FILE, QueryAdapter
from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.data.split import groups_by_answer
from docsgpt_embtune.deployment.serving import SAME_VECTOR, ServingModel, cosines, load_serving_model
from docsgpt_embtune.embeddings import TunedEmbeddings
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.evaluation.metrics import QueryScores, mean_scores
from docsgpt_embtune.evaluation.ranking import search_exact
from docsgpt_embtune.evaluation.vectors import VectorCache, cache_folder, embed_corpus, embed_queries
from docsgpt_embtune.evaluation.verdict import Judgment, judge
from docsgpt_embtune.files import folder_written_whole
from docsgpt_embtune.model_folder import (
    ADAPTER_KEY,
    fingerprint,
    is_tuned_folder,
    read_manifest,
    refuse_foreign_destination,
    write_manifest,
    write_model_folder,
)
from docsgpt_embtune.progress import Bar
from docsgpt_embtune.training.base_models import BaseModel, resolve_base
from docsgpt_embtune.training.encoding import Vectors
from docsgpt_embtune.training.negatives import NEAR_DUPLICATE
from docsgpt_embtune.training.pipeline import data_record, keep_apart
from docsgpt_embtune.training.trainer import load_base
from docsgpt_embtune.training.validation import CHOSEN_BY, mean_ndcg, score_vectors
from docsgpt_embtune.wording import counted

# How strongly the map is held to the identity, from hardly any change to what fits 400 questions by heart.
STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03)
PATIENCE = 2  # weaker strengths tried in vain before the rest is left: each takes longer than the one before
SCALE = 40.0  # of the cosines in the softmax; chosen by cross-validation on training questions
MAX_CHUNKS = 20_000  # in the softmax: beyond, the hardest of each question and a random sample stand for the rest
HARDEST_PER_QUESTION = 30
_ITERATIONS = 60
_ROWS = 1024  # questions scored at a time, so that memory does not grow with their number
_PROBES = 8  # chunks whose vectors prove that the written folder embeds as the base does


@dataclass(frozen=True)
class AdapterReport:
    """What a fit found.

    Attributes:
        adapter: The map that validation prefers.
        strength: How strongly it is held to the identity.
        baseline: Validation scores of each question without the map.
        tuned: Validation scores of each question with it.
        groups: Validation questions about one answer, which are one piece of evidence.
        seconds: Time of the fit, without the embedding of texts that were not in the cache.
        folder: Where it was written; None if validation prefers the identity.
    """

    adapter: QueryAdapter
    strength: float
    baseline: QueryScores
    tuned: QueryScores
    groups: list[list[str]]
    seconds: float
    folder: Path | None = None

    @property
    def improved(self) -> bool:
        """Whether validation prefers the adapter to the model as it is."""
        return mean_ndcg(self.tuned) > mean_ndcg(self.baseline)

    @property
    def judgment(self) -> Judgment:
        """The adapter against the identity, paired over the validation questions."""
        return judge(self.baseline, self.tuned, groups=self.groups)


def adapt(
    training: RetrievalDataset,
    validation: RetrievalDataset | None,
    out: Path,
    *,
    model: str = "bundled",
    cache: Path | None = None,
    seed: int = 13,
    say: Callable[[str], None] = lambda line: None,
) -> AdapterReport:
    """Fit a query adapter to a model and write both as a model folder, if validation prefers it.

    Args:
        training: Questions to learn from, over the corpus that is searched.
        validation: Questions to choose the strength by; None holds 15 % of the training questions out for it.
        out: The model folder; a tuned folder there is replaced in one step, anything else is left alone.
        model: What made the stored vectors: "bundled", a model folder, tuned or not, or a hub name.
        cache: Folder that keeps vectors for the next time; none if not given.
        seed: Of what is held out, and of the sample of a large corpus.
        say: Takes one line of plain text before each stage.

    Raises:
        ModelFolderError: If the model or the destination cannot be used, or the model has an adapter already.
        TrainingError: If every training question is a validation question too.
        EvaluationError: If the model gives unusable vectors.
    """
    refuse_foreign_destination(out)
    folder = resolve_base(model).folder
    if (folder / ADAPTER_FILE).is_file():
        raise ModelFolderError(f"{folder}: has a query adapter already; give --model the one that it was made for")
    training, validation = keep_apart(training, validation, seed, say)
    say(f"training    {training.describe()}")
    say(f"validation  {validation.describe()}")
    serving = load_serving_model(model)
    vectors = _embed(serving, training, validation, cache)
    say(f"model       {folder}: {serving.dimension} wide; fitting a map on {len(training)} questions")
    report = fit_adapter(training, validation, vectors, seed=seed)
    if not report.improved:
        return report
    record = _record(report, training, validation)
    write_adapted_folder(serving, out, report.adapter, record, (list(training.corpus.values()), vectors.corpus))
    return AdapterReport(**{**vars(report), "folder": out})


@dataclass(frozen=True)
class AdapterVectors:
    """What an adapter is fitted on.

    Attributes:
        training: (Q, D), the training questions.
        validation: (V, D), the validation questions.
        corpus: (N, D), the chunks of the training questions' corpus.
        validation_corpus: (M, D), those of the validation questions'; most often the same.
    """

    training: Vectors
    validation: Vectors
    corpus: Vectors
    validation_corpus: Vectors


def fit_adapter(
    training: RetrievalDataset, validation: RetrievalDataset, vectors: AdapterVectors, *, seed: int = 13
) -> AdapterReport:
    """Fit a map for each strength, strongest first, and keep the one that validation prefers by nDCG@10."""
    started = time.perf_counter()
    objective = _Objective.of(training, vectors, seed)

    def score(questions: Vectors) -> QueryScores:
        return score_vectors(validation, questions, vectors.validation_corpus)

    baseline = score(vectors.validation)
    groups = groups_by_answer(validation.relevant_docs)
    best: AdapterReport | None = None
    matrix = np.eye(vectors.training.shape[1], dtype=np.float32)
    in_vain = 0
    for strength in Bar(STRENGTHS, desc="strengths"):
        matrix = objective.minimum(strength, start=matrix)
        adapter = QueryAdapter(matrix)
        tuned = score(adapter.map(vectors.validation))
        if best is None or mean_ndcg(tuned) > mean_ndcg(best.tuned):
            best, in_vain = AdapterReport(adapter, strength, baseline, tuned, groups, time.perf_counter() - started), 0
        else:
            in_vain += 1
            if in_vain == PATIENCE:
                break
    assert best is not None
    return AdapterReport(**{**vars(best), "seconds": time.perf_counter() - started})


@dataclass(frozen=True)
class _Objective:
    """Softmax cross-entropy of each question's good chunks among all chunks, plus the distance from the identity.

    Attributes:
        questions: (Q, D)
        chunks: (P, D)
        good: For each question, its good chunks' rows in `chunks`.
        ignored: For each question, rows of near-duplicates of its good chunks: neither good nor bad.
    """

    questions: Vectors
    chunks: Vectors
    good: Sequence[npt.NDArray[np.int64]]
    ignored: Sequence[npt.NDArray[np.int64]]

    @classmethod
    def of(cls, training: RetrievalDataset, vectors: AdapterVectors, seed: int) -> "_Objective":
        row_of = {doc_id: row for row, doc_id in enumerate(training.corpus)}
        pool = _pool(training, vectors, row_of, seed)
        chunks = vectors.corpus[pool]
        place_of = {int(row): place for place, row in enumerate(pool)}
        good, ignored = [], []
        for query_id in training.queries:
            rows = np.array([place_of[row_of[doc_id]] for doc_id in training.relevant_docs[query_id]])
            alike = np.flatnonzero((chunks @ chunks[rows].T).max(axis=1) >= NEAR_DUPLICATE)
            good.append(rows)
            ignored.append(np.setdiff1d(alike, rows))
        return cls(vectors.training, chunks, good, ignored)

    def minimum(self, strength: float, start: Vectors) -> Vectors:
        """Find the map, from a start that should be near: the map of a stronger pull."""
        found = minimize(
            lambda flat: self.value_and_gradient(flat.reshape(start.shape), strength),
            start.ravel().astype(np.float64),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": _ITERATIONS, "ftol": 1e-4},
        )
        matrix: Vectors = found.x.reshape(start.shape).astype(np.float32)
        return matrix

    def value_and_gradient(self, matrix: npt.NDArray[Any], strength: float) -> tuple[float, npt.NDArray[np.float64]]:
        """Return the loss at a map (D, D), and its gradient, flat.

        The mapped question is left unnormalised here: its length does not change a ranking, and the loss stays convex.
        """
        away = matrix - np.eye(len(matrix))
        loss, gradient = 0.0, np.zeros_like(away)
        for rows in _slices(len(self.questions)):
            questions = self.questions[rows]
            logits = SCALE * (questions @ matrix.T.astype(np.float32)) @ self.chunks.T  # (rows, P)
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
            gradient += SCALE * (logits @ self.chunks).T @ questions
        count = len(self.questions)
        return loss / count + strength * float((away**2).sum()), (gradient / count + 2 * strength * away).ravel()


def _slices(count: int) -> Iterator[slice]:
    return (slice(start, start + _ROWS) for start in range(0, count, _ROWS))


def _pool(
    training: RetrievalDataset, vectors: AdapterVectors, row_of: dict[str, int], seed: int
) -> npt.NDArray[np.int64]:
    """Choose the rows of the corpus that stand in the softmax: all, or the judged, the hardest and a sample."""
    count = len(vectors.corpus)
    if count <= MAX_CHUNKS:
        return np.arange(count)
    judged = {
        row_of[doc_id]
        for judgments in (training.relevant_docs, training.irrelevant_docs)
        for doc_ids in judgments.values()
        for doc_id in doc_ids
    }
    hardest = search_exact(vectors.training, [(np.arange(count), vectors.corpus)], HARDEST_PER_QUESTION)
    sample = np.random.default_rng(seed).choice(count, MAX_CHUNKS, replace=False)
    return np.union1d(np.union1d(hardest.ravel(), sample), sorted(judged))


def write_adapted_folder(
    base: ServingModel, out: Path, adapter: QueryAdapter, record: dict[str, Any], corpus: tuple[Sequence[str], Vectors]
) -> None:
    """Write a model folder that embeds chunks as its base does, and questions through the adapter.

    Args:
        base: The model that made the stored vectors, tuned or not.
        out: Destination; replaced in one step if it is a tuned folder already.
        adapter: What to apply to questions.
        record: What the manifest says of it; `data.seen_queries` joins the base's own.
        corpus: Chunks and the base's vectors of them (N, D); some are embedded again, to prove that nothing moved.

    Raises:
        ModelFolderError: If the destination is something else, or the written folder moves the chunks' vectors.
    """
    refuse_foreign_destination(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as beside,
        folder_written_whole(out) as new,
    ):
        source = base.folder if is_tuned_folder(base.folder) else _portable(base.folder, Path(beside) / "base")
        shutil.copytree(source, new, dirs_exist_ok=True)
        manifest = read_manifest(source)
        seen = {*record["data"].pop("seen_queries"), *manifest.get("data", {}).get("seen_queries", ())}
        manifest["data"] = {**manifest.get("data", {}), "seen_queries": sorted(seen)}
        manifest[ADAPTER_KEY] = {**adapter.write(new), "document_fingerprint": base.fingerprint, **record}
        manifest["fingerprint"] = fingerprint(new)
        write_manifest(new, manifest)
        _prove_that_chunks_stay(new, *corpus)


def _portable(folder: Path, target: Path) -> Path:
    name = resolve_base(str(folder)).name
    details = {"base": {"name": name, "fingerprint": fingerprint(folder)}}
    write_model_folder(load_base(BaseModel(name, folder), "cpu"), folder, target, details)
    return target


def _prove_that_chunks_stay(folder: Path, texts: Sequence[str], vectors: Vectors) -> None:
    written = np.array(TunedEmbeddings(str(folder)).embed_documents(texts[:_PROBES]), dtype=np.float32)
    moved = float(cosines(written, vectors[:_PROBES]).min())
    lengths = np.linalg.norm(vectors[:_PROBES], axis=1)
    if moved < SAME_VECTOR or not np.allclose(lengths, 1.0, atol=1e-3):
        raise ModelFolderError(
            f"the written folder does not embed chunks as the model does (cosine {moved:.4f}, the model's lengths "
            f"{lengths.min():.3f} to {lengths.max():.3f}), so stored vectors would be wrong; tune with `embtune train`"
        )


def _embed(
    serving: ServingModel, training: RetrievalDataset, validation: RetrievalDataset, cache: Path | None
) -> AdapterVectors:
    with cache_folder(cache) as folder:
        kept = VectorCache(folder, serving.fingerprint, serving.dimension)
        embeddings = serving.embeddings
        corpus = embed_corpus(embeddings, list(training.corpus.values()), kept).array()
        shared = validation.corpus == training.corpus
        return AdapterVectors(
            training=embed_queries(embeddings, list(training.queries.values()), kept),
            validation=embed_queries(embeddings, list(validation.queries.values()), kept),
            corpus=corpus,
            validation_corpus=corpus
            if shared
            else embed_corpus(embeddings, list(validation.corpus.values()), kept).array(),
        )


def _record(report: AdapterReport, training: RetrievalDataset, validation: RetrievalDataset) -> dict[str, Any]:
    judgment = report.judgment
    return {
        "training": {"strength": report.strength, "scale": SCALE, "seconds": round(report.seconds, 1)},
        "validation": {
            "queries": len(validation),
            "baseline": mean_scores(report.baseline),
            "tuned": mean_scores(report.tuned),
            "difference": {metric: asdict(difference) for metric, difference in judgment.differences.items()},
            "verdict": judgment.verdict,
        },
        "data": data_record(training, validation),
        "versions": {"docsgpt-embtune": __version__},
    }


def summary(report: AdapterReport) -> str:
    """Say what validation thinks of the adapter, where it is, and what it asks of a deployment."""
    base, tuned = mean_scores(report.baseline), mean_scores(report.tuned)
    scores = ", ".join(f"{metric} {base[metric]:.3f} to {tuned[metric]:.3f}" for metric in ("recall@1", CHOSEN_BY))
    fitted = f"adapter     strength {report.strength:g}: validation {scores}, {report.seconds:.1f} s"
    fitted += f"\n            of {counted(report.judgment.queries, 'validation question')}: {report.judgment.verdict}"
    if report.folder is None:
        return f"{fitted}\nno model    validation prefers the model as it is, so nothing was written"
    return (
        f"{fitted}\nmodel       {report.folder.resolve()}\n"
        "stored chunks stay as they are; the adapter works through `embtune serve` or the plugin (embtune install): "
        "without them the folder is the model it was made for"
    )
