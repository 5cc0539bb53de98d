"""Choice of engine and reading on the user's validation questions: int8 only without loss, windows only with gain."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from docsgpt_embtune.adapter import load_query_adapter
from docsgpt_embtune.data.dataset import RetrievalDataset, judge_first_copies
from docsgpt_embtune.data.split import groups_by_answer
from docsgpt_embtune.evaluation.best_of_many import Choice, mean_ndcg
from docsgpt_embtune.evaluation.chunk_questions import asked_by_their_words
from docsgpt_embtune.evaluation.decision import (
    FEWEST_TO_RULE_OUT,
    TOO_FEW,
    Decision,
    Trial,
    is_harmless,
    loses_little,
    shows_loss,
)
from docsgpt_embtune.evaluation.metrics import QueryScores, mean_scores, score_queries
from docsgpt_embtune.evaluation.ranking import retrieve
from docsgpt_embtune.evaluation.verdict import HEADLINE_KS, Judgment, judge
from docsgpt_embtune.manifest import read_manifest
from docsgpt_embtune.serving.graphs import EngineName, Graph
from docsgpt_embtune.serving.keywords import load_keywords
from docsgpt_embtune.serving.onnx_engine import OnnxEngine
from docsgpt_embtune.serving.reading import Reading, WindowReader, document_encoder, question_encoder


class GraphEmbeddings:
    """Embed with one graph, with chunks read in a given way.

    Args:
        folder: A tuned folder; its query adapter, if any, is applied to question vectors, as in serving.
        graph: One of its graphs.
        reading: How chunks are read.
        by_meaning: Whether to leave keywords, if the folder has any, out of question vectors. Chunk vectors stay the
            same, so chunks are then ranked by the model alone.
    """

    def __init__(self, folder: Path, graph: Graph, reading: Reading, *, by_meaning: bool = False) -> None:
        self._engine = OnnxEngine(folder, graph, max_seq_length=reading.max_seq_length)
        keywords = load_keywords(folder)
        self._encode_documents = document_encoder(folder, reading, self._engine.encode, keywords)
        self._encode_questions = question_encoder(self._engine.encode, keywords, by_meaning=by_meaning)
        self._query_adapter = load_query_adapter(folder, read_manifest(folder))
        self.dimension = self._engine.dimension + (keywords.width if keywords else 0)

    def embed_query(self, text: str) -> list[float]:
        """Embed one question."""
        vector: list[float] = self._encode_questions([text])[0].tolist()
        return self._query_adapter(vector) if self._query_adapter else vector

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed chunks, in order."""
        vectors: list[list[float]] = self._encode_documents(texts).tolist()
        return vectors


def decide_reading(
    folder: Path, graph: Graph, usual: Reading, others: Sequence[Reading], validation: RetrievalDataset, cache: Path
) -> tuple[Reading, Decision]:
    """Choose how chunks are read: another way than the usual one only if the questions gain by it significantly.

    The choice is corrected for taking the best of several ways (`surest_reading`); the judgments recorded in the trials
    are not.

    Args:
        folder: A tuned folder.
        graph: Its fp32 graph.
        usual: How the model reads unless another way wins.
        others: The alternatives.
        validation: Questions to decide by.
        cache: Folder that caches vectors, also for `decide_engine`.
    """
    usual_scores = graph_scores(folder, graph, usual, validation, cache)
    trials = [Trial(str(usual), mean_scores(usual_scores))]
    if not WindowReader(folder, usual.max_seq_length).cuts_any(validation.good_texts()):
        return usual, Decision(str(usual), "no chunk that answers is longer", tuple(trials), len(validation))
    groups = groups_by_answer(validation)
    scores = {reading: graph_scores(folder, graph, reading, validation, cache) for reading in others}
    judgments = {reading: judge(usual_scores, of_reading, groups=groups) for reading, of_reading in scores.items()}
    trials += [Trial(str(each), mean_scores(scores[each]), judgments[each]) for each in others]
    best, reason = surest_reading(usual_scores, scores, judgments, groups)
    best = best or usual
    return best, Decision(str(best), reason, tuple(trials), len(validation))


def surest_reading(
    usual: QueryScores,
    others: Mapping[Reading, QueryScores],
    judgments: Mapping[Reading, Judgment],
    groups: Sequence[Sequence[str]],
) -> tuple[Reading | None, str]:
    """Find the way of reading that gains most, if it is significant after correction for the number of ways.

    Args:
        usual: Scores of the usual way.
        others: Scores of each alternative.
        judgments: Each alternative against the usual way.
        groups: Groups of questions about the same answer; each group is one piece of evidence.

    Returns:
        The best way, or None if the usual one stays; and the reason, in a clause.
    """
    gaining = [reading for reading in others if judgments[reading].verdict == "improved"]
    if not gaining:
        return None, "no other way finds more, beyond chance"
    best = max(gaining, key=lambda reading: mean_ndcg(others[reading]))
    if not Choice(usual, list(others.values()), others[best], groups).is_beyond_luck:
        return None, f"luck may give the best of {len(others)} other ways as much as any gains"
    return best, "finds more, beyond chance"


def decide_engine(
    folder: Path,
    exact: Graph,
    quantised: Graph,
    reading: Reading,
    validation: RetrievalDataset,
    cache: Path,
    *,
    learned_from: bool = False,
) -> tuple[EngineName, Decision]:
    """Choose int8 only if questions show that it loses nothing that matters.

    Validation questions are often too few to show a loss or to rule one out. Then questions made of chunks' own words
    are measured as well, up to 2,000 of them. Rounding moves a vector whatever the text means, and these questions'
    scores turned out as sensitive to it as those of people's questions (standard deviation of the change in nDCG@10 for
    one question: .05 to .06 and .03 to .07, untuned and tuned, on a television's manual and a course's answers). They
    are ranked without keywords, which would find each chunk in spite of int8.

    Args:
        folder: A tuned folder.
        exact: Its fp32 graph.
        quantised: Its int8 graph.
        reading: How chunks are read.
        validation: Questions to decide by.
        cache: Folder that caches vectors, some of them possibly from `decide_reading`.
        learned_from: Whether the model learned from the questions. It finds memorised answers in spite of int8, so such
            questions cannot rule out a loss.
    """
    rounding = _Rounding(folder, (exact, quantised), reading, cache)
    trials, judgment = rounding.measured(validation)
    harmless, reason = is_harmless(judgment)
    enough = judgment.groups >= FEWEST_TO_RULE_OUT and not learned_from
    if harmless and not enough:
        harmless, reason = False, TOO_FEW
    if not harmless and not shows_loss(judgment):
        reason = TOO_FEW
        of_chunks = asked_by_their_words(folder, reading, validation.corpus)
        if len(of_chunks) >= FEWEST_TO_RULE_OUT:
            more, judgment = rounding.measured(of_chunks, f", {len(of_chunks):,} chunks by words of theirs")
            harmless, reason = loses_little(judgment)
            trials += more
            why = "the model learned from the questions" if learned_from else "the questions are too few to tell"
            reason = f"{reason} where chunks are asked for by their own words, as {why}"
    reason = f"int8: {reason}"
    chosen = quantised.engine if harmless else exact.engine
    return chosen, Decision(chosen, reason, trials, len(validation))


@dataclass(frozen=True)
class _Rounding:
    """Measures the loss that a graph's quantisation causes.

    Attributes:
        folder: A tuned folder.
        graphs: The fp32 and the int8 graph.
        reading: How chunks are read.
        cache: Folder that caches vectors.
    """

    folder: Path
    graphs: tuple[Graph, Graph]
    reading: Reading
    cache: Path

    def measured(self, asked: RetrievalDataset, by_words: str = "") -> tuple[tuple[Trial, ...], Judgment]:
        """Score both graphs and compare them.

        Args:
            asked: Questions over the chunks.
            by_words: Suffix of the trials' names for questions made of chunks' own words; keywords are then left out.
        """
        exact, rounded = (
            graph_scores(self.folder, graph, self.reading, asked, self.cache, by_meaning=bool(by_words))
            for graph in self.graphs
        )
        judgment = judge(exact, rounded, groups=groups_by_answer(asked))
        names = [f"{graph.engine}{by_words}" for graph in self.graphs]
        return (Trial(names[0], mean_scores(exact)), Trial(names[1], mean_scores(rounded), judgment)), judgment


def graph_scores(
    folder: Path, graph: Graph, reading: Reading, asked: RetrievalDataset, cache: Path, *, by_meaning: bool = False
) -> QueryScores:
    """Rank all chunks with a graph's vectors, and score the ranking of each question.

    Args:
        folder: A tuned folder.
        graph: One of its graphs.
        reading: How chunks are read.
        asked: Questions with their corpus.
        cache: Folder that caches vectors; chunks are embedded once per graph and reading.
        by_meaning: As in `GraphEmbeddings`.
    """
    of_chunks = f"{graph.sha256} {reading}"
    ranking = retrieve(
        GraphEmbeddings(folder, graph, reading, by_meaning=by_meaning),
        asked,
        cache=cache,
        fingerprint=hashlib.sha256(f"{of_chunks} {by_meaning}".encode()).hexdigest(),
        document_fingerprint=hashlib.sha256(of_chunks.encode()).hexdigest(),
    )
    return score_queries(ranking, judge_first_copies(asked).qrels, HEADLINE_KS)
