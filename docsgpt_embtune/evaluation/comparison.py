"""Two models on one dataset: what each finds, what is found without tuning, and whether the one is better."""

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

HEADLINE_SHARE = 0.8  # the least share of the questions of which the headline speaks
BM25_CHUNKS = 200_000  # at most: its index lies in memory whole
UNTUNED = ("bm25", "hybrid")  # searches that stand beside the models


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


@dataclass(frozen=True)
class Comparison:
    """Two models on one dataset, and beside them BM25 and a hybrid search: the baseline and BM25 fused by ranks.

    Attributes:
        dataset: The questions that counted, with their corpus; of chunks of one text, the first is judged.
        rankings: "baseline", "tuned", "bm25" and "hybrid" -> the documents that each found; above 200,000 chunks the
            two models' alone.
        scores: The same keys -> mean of each metric.
        judgment: Tuned against baseline, paired; questions that share a good chunk count as one piece of evidence.
        cosine_scores: "baseline" and "tuned" -> mean of each metric, had cosine similarity ranked.
        k_for_recall: Share of the questions -> the keys of `rankings` -> the K at which so many find an answer.
        seen: Questions left out because the tuned model learned from them.
        untuned_leads: Which of "bm25" and "hybrid" are better than the tuned model, beyond chance.
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
        """The share of the questions whose K is told: more than the least where so many have an answer first anyway."""
        shares = (share for share, needed in self.k_for_recall.items() if needed["baseline"] != 1)
        return next((share for share in shares if share >= HEADLINE_SHARE), HEADLINE_SHARE)

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
    """Compare two loaded models on one dataset, with searches that take no tuning beside them up to 200,000 chunks.

    Args:
        baseline: The model to beat.
        tuned: The model that should.
        dataset: Questions, corpus and judgments.
        ks: Cutoffs of the metrics, 1..100.
        store: What ranks.
        seed: Seed of the resampling.
        seen: Questions that were left out already, to be told.

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
