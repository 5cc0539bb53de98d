"""The retrieval check: baseline against tuned, on questions that the tuned model has not seen."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from docsgpt_embtune.data.dataset import RetrievalDataset, query_digest
from docsgpt_embtune.embeddings import StockEmbeddings, TunedEmbeddings
from docsgpt_embtune.errors import EvaluationError, ModelFolderError
from docsgpt_embtune.evaluation.bm25 import retrieve_bm25
from docsgpt_embtune.evaluation.metrics import KS, QueryScores, k_for_share, mean_scores, score_queries
from docsgpt_embtune.evaluation.ranking import DEPTH, Ranking, Store, retrieve
from docsgpt_embtune.evaluation.smoke_test import smoke_test
from docsgpt_embtune.evaluation.truncation import TruncationAudit, audit_truncation
from docsgpt_embtune.evaluation.vectors import EmbeddingModel, cache_folder
from docsgpt_embtune.evaluation.verdict import Judgment, Verdict, judge
from docsgpt_embtune.model_folder import document_fingerprint, fingerprint, is_tuned_folder, read_manifest
from docsgpt_embtune.training.base_models import resolve_base

HEADLINE_SHARE = 0.8  # the share of the questions of which the headline speaks
_BM25_CHUNKS = 200_000  # its index lies in memory whole


@dataclass(frozen=True)
class CheckedModel:
    """One side of the comparison.

    Attributes:
        name: Hub name or folder, as the user knows it.
        folder: Where its files are.
        fingerprint: Hex sha256 over all that decides its vectors.
    """

    name: str
    folder: Path
    fingerprint: str

    @cached_property
    def document_fingerprint(self) -> str:
        """Hex sha256 over what decides its vectors of chunks: a query adapter is no part of it."""
        return document_fingerprint(self.folder)

    def load(self) -> StockEmbeddings:
        """Load it with the class that the host would use, on the device that the host would choose."""
        if is_tuned_folder(self.folder):
            return TunedEmbeddings(str(self.folder), model_kwargs={"device": None})
        return StockEmbeddings(self.folder, device=None)


@dataclass(frozen=True)
class Comparison:
    """Two models (and BM25) on one dataset.

    Attributes:
        dataset: The questions that counted, with their corpus.
        rankings: "baseline", "tuned" and "bm25" -> the documents that each found.
        scores: The same keys -> mean of each metric.
        judgment: Tuned against baseline, paired.
        cosine_scores: "baseline" and "tuned" -> mean of each metric, had cosine similarity ranked.
        k_for_recall: Share of the questions -> the keys of `rankings` -> the K at which so many find an answer.
        seen: Questions left out because the tuned model learned from them.
    """

    dataset: RetrievalDataset
    rankings: Mapping[str, Ranking]
    scores: Mapping[str, Mapping[str, float]]
    cosine_scores: Mapping[str, Mapping[str, float]]
    judgment: Judgment
    k_for_recall: Mapping[float, Mapping[str, int | None]]
    seen: int

    @property
    def verdict(self) -> Verdict:
        """What the judgment says."""
        return self.judgment.verdict

    def to_json(self) -> dict[str, Any]:
        """Lay out the numbers as `embtune check --json` writes them."""
        return {
            "dataset": {
                "sources": list(self.dataset.sources),
                "fingerprint": self.dataset.fingerprint,
                "queries": len(self.dataset.queries),
                "corpus": len(self.dataset.corpus),
                "seen_queries_left_out": self.seen,
            },
            **{name: dict(values) for name, values in self.scores.items()},
            "cosine": {name: dict(values) for name, values in self.cosine_scores.items()},
            "difference": {metric: asdict(value) for metric, value in self.judgment.differences.items()},
            "smallest_gain": dict(self.judgment.smallest_gain),
            "k_for_recall": {f"{target:.2f}": dict(ks) for target, ks in self.k_for_recall.items()},
            "verdict": self.verdict,
        }

    @property
    def cosine_disagrees(self) -> list[str]:
        """Name the models whose first ten chunks would be others under cosine similarity, for some question."""
        return [
            name
            for name in self.cosine_scores
            if (self.rankings[name].nearest[:, :10] != self.rankings[name].by_cosine.nearest[:, :10]).any()
        ]

    def query_ranks(self) -> list[dict[str, Any]]:
        """Tell, per question, at which rank each model has its first good and its first bad chunk."""
        return [self._ranks_of(query_id) for query_id in self.dataset.queries]

    def _ranks_of(self, query_id: str) -> dict[str, Any]:
        good = self.dataset.relevant_docs[query_id]
        bad = self.dataset.irrelevant_docs.get(query_id, ())
        row: dict[str, Any] = {"query_id": query_id}
        for name in ("baseline", "tuned"):
            row[f"{name}_rank"] = self.rankings[name].best_rank(query_id, good)
        for name in ("baseline", "tuned") if bad else ():
            row[f"{name}_bad_rank"] = self.rankings[name].best_rank(query_id, bad)
        return row


@dataclass(frozen=True)
class CheckReport:
    """What a retrieval check found.

    Attributes:
        baseline: The model to beat.
        tuned: The model that should.
        main: Both on the questions that the tuned model was made for.
        guards: Name -> both on questions of other sources, which the same model must serve.
        smoke_test: Both on questions made from the corpus, where no guard was given and the corpus allows it.
        truncation: What the tuned model reads of the chunks.
        ks: Cutoffs of the metrics.
        store: What ranked.
        seed: Of the resampling.
    """

    baseline: CheckedModel
    tuned: CheckedModel
    main: Comparison
    truncation: TruncationAudit
    smoke_test: Comparison | None = None
    guards: Mapping[str, Comparison] = field(default_factory=dict)
    ks: tuple[int, ...] = KS
    store: Store = "faiss"
    seed: int = 0

    @property
    def verdict(self) -> Verdict:
        """What the comparison on the model's own questions says."""
        return self.main.verdict

    @property
    def failed_guards(self) -> list[str]:
        """Name the guard sets on which the tuned model is worse."""
        return [name for name, guard in self.guards.items() if guard.verdict == "worse"]

    @property
    def proven(self) -> bool:
        """Tell whether the tuned model is better, and worse on no guard set."""
        return self.verdict == "improved" and not self.failed_guards

    @property
    def tokens_per_answer(self) -> dict[str, float] | None:
        """Tokens of the chunks that each model needs to find four answers in five; None beyond the depth.

        Counted in the tuned model's wordpieces, of which English has about as many as of a language model's tokens.
        """
        needed = self.main.k_for_recall[HEADLINE_SHARE]
        per_chunk = self.truncation.wordpieces_per_chunk
        tokens = {name: k * per_chunk for name in ("baseline", "tuned") if (k := needed[name]) is not None}
        return {"chunk": per_chunk, **tokens} if len(tokens) == 2 else None

    def to_json(self) -> dict[str, Any]:
        """Lay out everything as `embtune check --json` writes it."""
        return {
            "models": {
                name: {"name": model.name, "fingerprint": model.fingerprint}
                for name, model in (("baseline", self.baseline), ("tuned", self.tuned))
            },
            "settings": {"k": list(self.ks), "store": self.store, "depth": DEPTH, "seed": self.seed},
            **self.main.to_json(),
            "guards": {name: guard.to_json() for name, guard in self.guards.items()},
            "smoke_test": self.smoke_test.to_json() if self.smoke_test else None,
            "truncation": asdict(self.truncation),
            "tokens_per_answer": self.tokens_per_answer,
            "proven": self.proven,
            "queries": self.main.query_ranks(),
        }


def check_retrieval(
    baseline: str | Path,
    tuned: str | Path,
    dataset: RetrievalDataset,
    *,
    guards: Mapping[str, RetrievalDataset] | None = None,
    ks: Sequence[int] = KS,
    store: Store = "faiss",
    cache: Path | None = None,
    seed: int = 0,
) -> CheckReport:
    """Compare two models as DocsGPT would search with them.

    Questions that the tuned model learned from are left out, by the digests in its manifest.

    Args:
        baseline: "bundled", a hub name, or a folder; a tuned folder will do as well.
        tuned: A model folder; one without `embtune.json` is loaded as the host loads a stock model.
        dataset: Questions, corpus and judgments.
        guards: Name -> further datasets, each with a verdict of its own.
        ks: Cutoffs of the metrics, 1..100.
        store: "langchain" ranks through langchain_community's FAISS, as DocsGPT before 0.19 did.
        cache: Folder that keeps vectors for the next time; a stopped check goes on from there.
        seed: Of the resampling.

    Raises:
        EvaluationError: If no question is left, a cutoff is out of range, or a model gives unusable vectors.
        ModelFolderError: If a model cannot be found or loaded.
    """
    _refuse_cutoffs(ks)
    found = {"baseline": _find_baseline(baseline), "tuned": _find_tuned(tuned)}
    seen = _seen_digests(found["tuned"].folder)
    main, *others = [(name, *_leave_out_seen(data, seen)) for name, data in [("", dataset), *(guards or {}).items()]]
    smoke = None if others else smoke_test(dataset.corpus)
    models = {name: side.load() for name, side in found.items()}
    with cache_folder(cache) as folder:

        def both(data: RetrievalDataset, left_out: int = 0) -> Comparison:
            sides = {
                name: Side(models[name], side.fingerprint, folder, side.document_fingerprint)
                for name, side in found.items()
            }
            return compare(sides["baseline"], sides["tuned"], data, ks=ks, store=store, seed=seed, seen=left_out)

        return CheckReport(
            baseline=found["baseline"],
            tuned=found["tuned"],
            main=both(*main[1:]),
            truncation=audit_truncation(models["tuned"].model, dataset),
            smoke_test=both(smoke) if smoke else None,
            guards={name: both(data, left_out) for name, data, left_out in others},
            ks=tuple(ks),
            store=store,
            seed=seed,
        )


@dataclass(frozen=True)
class Side:
    """A loaded model, and where its vectors may be kept.

    Attributes:
        model: Anything with `embed_query`, `embed_documents` and `dimension`.
        fingerprint: Hex digest of what decides its vectors; without one nothing is kept.
        cache: Folder of the vectors.
        document_fingerprint: As `fingerprint`, of the chunks' vectors, where a query adapter makes the two differ.
    """

    model: EmbeddingModel
    fingerprint: str | None = None
    cache: Path | None = None
    document_fingerprint: str | None = None


def compare(
    baseline: Side,
    tuned: Side,
    dataset: RetrievalDataset,
    *,
    ks: Sequence[int] = KS,
    store: Store = "faiss",
    seed: int = 0,
    seen: int = 0,
) -> Comparison:
    """Compare two loaded models on one dataset, with BM25 beside them up to 200,000 chunks."""
    rankings = {
        name: retrieve(
            side.model,
            dataset,
            store=store,
            cache=side.cache,
            fingerprint=side.fingerprint,
            document_fingerprint=side.document_fingerprint,
        )
        for name, side in (("baseline", baseline), ("tuned", tuned))
    }
    by_cosine = {name: ranking.by_cosine for name, ranking in rankings.items()}
    if len(dataset.corpus) <= _BM25_CHUNKS:
        rankings["bm25"] = retrieve_bm25(dataset)
    scores: dict[str, QueryScores] = {
        name: score_queries(ranking, dataset.qrels, ks) for name, ranking in rankings.items()
    }
    needed = {name: k_for_share(ranking, dataset.relevant_docs) for name, ranking in rankings.items()}
    return Comparison(
        dataset=dataset,
        rankings=rankings,
        scores={name: mean_scores(values) for name, values in scores.items()},
        cosine_scores={
            name: mean_scores(score_queries(ranking, dataset.qrels, ks)) for name, ranking in by_cosine.items()
        },
        judgment=judge(scores["baseline"], scores["tuned"], seed=seed),
        k_for_recall={
            target: {name: by_target[target] for name, by_target in needed.items()} for target in needed["baseline"]
        },
        seen=seen,
    )


def _refuse_cutoffs(ks: Sequence[int]) -> None:
    if not ks or not all(1 <= k <= DEPTH for k in ks):
        raise EvaluationError(f"cutoffs must be 1 to {DEPTH}, got {list(ks)}; set them with --k")
    if missing := {1, 10} - set(ks):
        raise EvaluationError(f"the verdict needs the cutoffs 1 and 10; add {sorted(missing)} to --k")


def _find_baseline(base: str | Path) -> CheckedModel:
    found = resolve_base(str(base))
    return CheckedModel(name=found.name, folder=found.folder, fingerprint=fingerprint(found.folder))


def _find_tuned(folder: str | Path) -> CheckedModel:
    path = Path(folder).expanduser().resolve()
    if not path.is_dir():
        raise ModelFolderError(f"{folder}: no such folder; give the tuned model's with --tuned")
    return CheckedModel(name=str(folder), folder=path, fingerprint=fingerprint(path))


def _seen_digests(tuned: Path) -> frozenset[str]:
    if not is_tuned_folder(tuned):
        return frozenset()
    return frozenset(read_manifest(tuned).get("data", {}).get("seen_queries", ()))


def _leave_out_seen(dataset: RetrievalDataset, seen: frozenset[str]) -> tuple[RetrievalDataset, int]:
    unseen = [query_id for query_id, text in dataset.queries.items() if query_digest(text) not in seen]
    left_out = len(dataset.queries) - len(unseen)
    if not unseen:
        raise EvaluationError(
            f"{', '.join(dataset.sources) or 'the dataset'}: the tuned model learned from all {left_out} questions, "
            "so they prove nothing; give questions that were kept out of training"
        )
    return (dataset.subset(unseen) if left_out else dataset), left_out
