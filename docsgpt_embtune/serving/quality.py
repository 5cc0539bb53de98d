"""What serves is decided on the user's own validation questions: int8 only without a loss, windows only with a gain."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.data.split import groups_by_answer
from docsgpt_embtune.evaluation.metrics import QueryScores, mean_scores, score_queries
from docsgpt_embtune.evaluation.ranking import retrieve
from docsgpt_embtune.evaluation.verdict import Judgment, judge
from docsgpt_embtune.serving.graphs import EngineName, Graph
from docsgpt_embtune.serving.keywords import load_keywords
from docsgpt_embtune.serving.onnx_engine import OnnxEngine
from docsgpt_embtune.serving.reading import Reading, WindowReader, document_encoder, question_encoder

DECIDES = "ndcg@10"
RECALLS = ("recall@1", "recall@10")
# What int8, or a cut, may cost: half a point of nDCG@10 in the mean, and with 97.5 % certainty no more than one.
ACCEPTED_LOSS = 0.005
WORST_LOSS = 0.01


@dataclass(frozen=True)
class Trial:
    """One way to serve, measured.

    Attributes:
        name: What was tried.
        scores: Mean of each metric.
        judgment: Against the way that serves if nothing speaks for this one; None for that way itself.
    """

    name: str
    scores: dict[str, float]
    judgment: Judgment | None = None

    def line(self) -> str:
        """Say it in one line."""
        recall = "  ".join(f"{metric} {self.scores[metric]:.3f}" for metric in RECALLS)
        figures = f"{self.name:40s} {recall}  {DECIDES} {self.scores[DECIDES]:.4f}"
        if self.judgment is None:
            return figures
        found = self.judgment.differences[DECIDES]
        return f"{figures}  {found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f}) {self.judgment.verdict}"

    def to_dict(self) -> dict[str, Any]:
        """Lay it out as the manifest has it."""
        figures: dict[str, Any] = {"name": self.name, **self.scores}
        if self.judgment is not None:
            figures["difference"] = {
                metric: asdict(self.judgment.differences[metric]) for metric in (*RECALLS, DECIDES)
            }
            figures["verdict"] = self.judgment.verdict
        return figures


@dataclass(frozen=True)
class Decision:
    """What was chosen, and why.

    Attributes:
        chosen: Name of what serves.
        reason: In one clause.
        trials: What was measured; the first is what the others had to beat, or to equal.
        queries: Number of validation questions.
    """

    chosen: str
    reason: str
    trials: tuple[Trial, ...]
    queries: int

    def to_dict(self) -> dict[str, Any]:
        """Lay it out as the manifest has it."""
        return {
            "chosen": self.chosen,
            "reason": self.reason,
            "queries": self.queries,
            "trials": [trial.to_dict() for trial in self.trials],
        }


class GraphEmbeddings:
    """What a graph answers with when chunks are read in a given way.

    Args:
        folder: A tuned folder.
        graph: One of its graphs.
        reading: How chunks are read.
    """

    def __init__(self, folder: Path, graph: Graph, reading: Reading) -> None:
        self._engine = OnnxEngine(folder, graph, max_seq_length=reading.max_seq_length)
        keywords = load_keywords(folder)
        self._encode_documents = document_encoder(folder, reading, self._engine.encode, keywords)
        self._encode_questions = question_encoder(self._engine.encode, keywords)
        self.dimension = self._engine.dimension + (keywords.width if keywords else 0)

    def embed_query(self, text: str) -> list[float]:
        """Embed one question."""
        vector: list[float] = self._encode_questions([text])[0].tolist()
        return vector

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed chunks, in order."""
        vectors: list[list[float]] = self._encode_documents(texts).tolist()
        return vectors


def decide_reading(
    folder: Path, graph: Graph, usual: Reading, others: Sequence[Reading], validation: RetrievalDataset
) -> tuple[Reading, Decision]:
    """Choose how chunks are read: another way than the usual only where the questions gain by it beyond chance.

    Args:
        folder: A tuned folder.
        graph: Its fp32 graph.
        usual: How the model was written to read.
        others: Other ways.
        validation: Questions to decide by.
    """
    usual_scores = _scores(folder, graph, usual, validation)
    trials = [Trial(str(usual), mean_scores(usual_scores))]
    if not WindowReader(folder, usual.max_seq_length).cuts_any(validation.corpus.values()):
        return usual, Decision(str(usual), "no chunk is longer", tuple(trials), len(validation))
    groups = groups_by_answer(validation.relevant_docs)
    best, best_ndcg = usual, 0.0
    for reading in others:
        scores = _scores(folder, graph, reading, validation)
        trials.append(Trial(str(reading), mean_scores(scores), judge(usual_scores, scores, groups=groups)))
        judgment = trials[-1].judgment
        if judgment and judgment.verdict == "improved" and trials[-1].scores[DECIDES] > best_ndcg:
            best, best_ndcg = reading, trials[-1].scores[DECIDES]
    reason = "no other way finds more, beyond chance" if best is usual else "finds more, beyond chance"
    return best, Decision(str(best), reason, tuple(trials), len(validation))


def decide_engine(
    folder: Path, exact: Graph, quantised: Graph, reading: Reading, validation: RetrievalDataset
) -> tuple[EngineName, Decision]:
    """Choose int8 only where the questions show that it loses nothing that matters."""
    exact_scores = _scores(folder, exact, reading, validation)
    quantised_scores = _scores(folder, quantised, reading, validation)
    judgment = judge(exact_scores, quantised_scores, groups=groups_by_answer(validation.relevant_docs))
    trials = (
        Trial(exact.engine, mean_scores(exact_scores)),
        Trial(quantised.engine, mean_scores(quantised_scores), judgment),
    )
    harmless, reason = is_harmless(judgment)
    reason = f"int8: {reason}"
    chosen = quantised.engine if harmless else exact.engine
    return chosen, Decision(chosen, reason, trials, len(validation))


def is_harmless(judgment: Judgment) -> tuple[bool, str]:
    """Tell whether a cheaper way loses nothing that matters, and say it in a clause.

    Not to have found a loss is not enough, as with few questions none can be found: a large one must be ruled out.
    """
    difference = judgment.differences[DECIDES]
    if judgment.verdict == "worse" or difference.mean < -ACCEPTED_LOSS:
        return False, "it loses"
    if difference.low < -WORST_LOSS:
        return False, "too few questions to rule out that it loses a point"
    return True, "it loses nothing that matters"


def _scores(folder: Path, graph: Graph, reading: Reading, validation: RetrievalDataset) -> QueryScores:
    ranking = retrieve(GraphEmbeddings(folder, graph, reading), validation)
    return score_queries(ranking, validation.qrels, (1, 10))
