"""Comparison of two models on one dataset, beside BM25 and hybrid search."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from docsgpt_embtune.data.dataset import RetrievalDataset, judge_first_copies
from docsgpt_embtune.data.split import groups_by_answer
from docsgpt_embtune.evaluation.bm25 import retrieve_bm25
from docsgpt_embtune.evaluation.fusion import fused
from docsgpt_embtune.evaluation.metrics import KS, QueryScores, k_for_share, mean_scores, score_queries
from docsgpt_embtune.evaluation.ranking import Ranking, StoreName, retrieve
from docsgpt_embtune.evaluation.verdict import HEADLINE, Judgment, Verdict, judge
from docsgpt_embtune.vectors import EmbeddingModel

HEADLINE_SHARE = 0.8  # least share of questions for which the headline states K
BM25_CHUNKS = 200_000  # most chunks that BM25 is run on: its whole index is in memory
UNTUNED = ("bm25", "hybrid")  # searches without tuning, shown beside the models


@dataclass(frozen=True)
class Side:
    """A loaded model, and where its vectors are cached.

    Attributes:
        model: Anything with `embed_query`, `embed_documents` and `dimension`.
        fingerprint: Hex digest of what determines its vectors; without one, nothing is cached.
        cache: Folder that caches the vectors.
        document_fingerprint: The same for the chunk vectors, if a query adapter makes the two differ.
    """

    model: EmbeddingModel
    fingerprint: str | None = None
    cache: Path | None = None
    document_fingerprint: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Two models on one dataset, with BM25 and a hybrid search: the baseline and BM25, combined by rank fusion.

    Attributes:
        dataset: The questions that were asked, with their corpus. Of chunks with the same text, the first is judged.
        rankings: "baseline", "tuned", "bm25" and "hybrid" -> documents found; above 200,000 chunks only the two models.
        scores: The same keys -> mean of each metric.
        judgment: Tuned against baseline, paired; questions that share a good chunk count as one piece of evidence.
        cosine_scores: "baseline" and "tuned" -> mean of each metric if cosine similarity ranked instead of L2.
        k_for_recall: Share of the questions -> the keys of `rankings` -> smallest K at which that share has an answer.
        seen: Number of questions left out because a model learned from them or was chosen by them.
        untuned_leads: Those of "bm25" and "hybrid" that are significantly better than the tuned model.
    """

    dataset: RetrievalDataset
    rankings: Mapping[str, Ranking]
    scores: Mapping[str, Mapping[str, float]]
    cosine_scores: Mapping[str, Mapping[str, float]]
    judgment: Judgment
    k_for_recall: Mapping[float, Mapping[str, int | None]]
    seen: int
    untuned_leads: tuple[str, ...]

    @property
    def headline_share(self) -> float:
        """Share of questions for which the headline states K.

        Usually 0.8; higher if the baseline already answers that share with K = 1.
        """
        shares = (share for share, needed in self.k_for_recall.items() if needed["baseline"] != 1)
        return next((share for share in shares if share >= HEADLINE_SHARE), HEADLINE_SHARE)

    @property
    def verdict(self) -> Verdict:
        """Verdict of the judgment."""
        return self.judgment.verdict

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as `embtune check --json` writes them."""
        return {
            "dataset": {
                "sources": list(self.dataset.sources),
                "fingerprint": self.dataset.fingerprint,
                "queries": self.judgment.queries,
                "groups": self.judgment.groups,
                "corpus": len(self.dataset.corpus),
                "seen_queries_left_out": self.seen,
            },
            **dict.fromkeys(UNTUNED),
            **{name: dict(values) for name, values in self.scores.items()},
            "cosine": {name: dict(values) for name, values in self.cosine_scores.items()},
            "difference": {metric: asdict(value) for metric, value in self.judgment.differences.items()},
            "smallest_gain": dict(self.judgment.smallest_gain),
            "k_for_recall": {f"{target:.2f}": dict(ks) for target, ks in self.k_for_recall.items()},
            "verdict": self.verdict,
        }

    @property
    def cosine_disagrees(self) -> list[str]:
        """Names of the models whose top ten chunks change under cosine similarity for at least one question."""
        return [
            name
            for name in self.cosine_scores
            if (self.rankings[name].nearest[:, :10] != self.rankings[name].by_cosine.nearest[:, :10]).any()
        ]

    def query_ranks(self) -> list[dict[str, Any]]:
        """Return, per question, the ranks of each model's first good and first bad chunk."""
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


def compare(
    baseline: Side,
    tuned: Side,
    dataset: RetrievalDataset,
    *,
    ks: Sequence[int] = KS,
    store: StoreName = "faiss",
    seed: int = 0,
    seen: int = 0,
) -> Comparison:
    """Compare two loaded models on one dataset, along with BM25 and hybrid search up to 200,000 chunks.

    Args:
        baseline: The model to beat.
        tuned: The tuned model.
        dataset: Questions, corpus and judgments.
        ks: Cutoffs of the metrics, 1..100.
        store: Store that ranks the chunks.
        seed: Seed of the resampling.
        seen: Number of questions left out beforehand, to be reported.

    Raises:
        EvaluationError: If a model gives unusable vectors, or the disk is full.
    """
    dataset = judge_first_copies(dataset)
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
    if len(dataset.corpus) <= BM25_CHUNKS:
        rankings["bm25"] = retrieve_bm25(dataset)
        rankings["hybrid"] = fused(rankings["baseline"], rankings["bm25"])
    scores: dict[str, QueryScores] = {
        name: score_queries(ranking, dataset.qrels, ks) for name, ranking in rankings.items()
    }
    needed = {name: k_for_share(ranking, dataset.relevant_docs) for name, ranking in rankings.items()}
    groups = groups_by_answer(dataset)
    deciding = {name: {metric: values[metric] for metric in HEADLINE} for name, values in scores.items()}
    return Comparison(
        dataset=dataset,
        rankings=rankings,
        scores={name: mean_scores(values) for name, values in scores.items()},
        cosine_scores={
            name: mean_scores(score_queries(ranking, dataset.qrels, ks)) for name, ranking in by_cosine.items()
        },
        judgment=judge(scores["baseline"], scores["tuned"], groups=groups, seed=seed),
        k_for_recall={
            target: {name: by_target[target] for name, by_target in needed.items()} for target in needed["baseline"]
        },
        seen=seen,
        untuned_leads=tuple(
            name
            for name in UNTUNED
            if name in deciding
            and judge(deciding["tuned"], deciding[name], groups=groups, seed=seed).verdict == "improved"
        ),
    )
