"""Score keywords beside the model's numbers, at each weight that validation chooses from."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.evaluation.best_of_many import mean_ndcg
from docsgpt_embtune.evaluation.metrics import QueryScores, joined_scores
from docsgpt_embtune.evaluation.verdict import DECIDING
from docsgpt_embtune.serving.keywords import Keywords
from docsgpt_embtune.training.keywords.fitting import WIDE
from docsgpt_embtune.training.validation import Pool
from docsgpt_embtune.vectors import Vectors

WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
# The weight where no person's questions can choose one. nDCG@10 of people's (training) questions, up to 600 of each
# corpus, with narrow keywords beside the untuned model:
# | chunks | none | 10 % | 20 % | 30 % | 50 % | 80 % |
# |---|---|---|---|---|---|---|
# | a television's manual | .477 | .506 | .526 | .548 | .590 | .613 |
# | annual reports | .578 | .602 | .632 | .656 | .709 | .717 |
# | a course's questions and answers | .836 | .860 | .880 | .893 | .912 | .903 |
# | health agencies' pages | .573 | .587 | .601 | .614 | .610 | .537 |
# | a language's reference | .495 | .503 | .514 | .527 | .530 | .459 |
# | medical abstracts | .932 | .936 | .938 | .938 | .935 | .910 |
# | a library's functions, their docstrings cut out | .456 | .464 | .462 | .455 | .392 | .234 |
# | a dozen packages' functions and the rest of their docstrings | .511 | .526 | .523 | .511 | .457 | .315 |
# Beside all-mpnet-base-v2 untuned, 0, 20, 30 and 40 %: the manual .506, .549, .564, .574, the questions and answers
# .823, .862, .878, .899, the reports .707, .772, .791, .807. Higher weights make program text worse than no keywords.
USUAL_WEIGHT = 0.3
# Weights beside a model that learned from the chunks alone, which are prose then; the first that nothing speaks against
# is taken. Over up to 900 chunks, 20, 30 and 40 %: the manual .619, .637, .647, the reference .554, .555, .553, the
# questions and answers .892, .899, .903, the health pages .754, .762, .768, the reports .726, .754, .780. Over all
# chunks, 30, 40 and 50 %: the manual .628, .648, .649, the health pages .586, .586, .577.
WEIGHTS_BESIDE_TAUGHT = (0.4, USUAL_WEIGHT)
# The mean gains of the table above, interpolated between its columns.
USUAL_GAINS = dict(zip(WEIGHTS, (0.016, 0.027, 0.036, 0.037, 0.035, 0.022, 0.002, -0.021), strict=True))
# These gains count as much as this many of the questions that choose.
USUAL_GAIN_COUNTS = 15
# nDCG@10 that narrow and wide keywords must gain: so much for each 384 numbers that they add to a vector.
LEAST_WORTH, LEAST_WORTH_WIDE = 0.005, 0.015


class KeywordsAtEachWeight:
    """The keywords of given questions and chunks, computed once for all weights and models.

    Args:
        keywords: The keywords, of any weight.
        questions: Q texts.
        chunks: N texts.
        answered: The keywords' part of the chunks (N, width), if it is known already.
    """

    def __init__(
        self, keywords: Keywords, questions: Sequence[str], chunks: Sequence[str], answered: Vectors | None = None
    ) -> None:
        self._weighed = [replace(keywords, weight=weight) for weight in WEIGHTS]
        self._asked = keywords.of_questions(questions)
        self.answered = keywords.of_documents(chunks) if answered is None else answered

    def beside(
        self, query_embeddings: Vectors, chunk_embeddings: Vectors
    ) -> Iterator[tuple[Keywords, Vectors, Vectors]]:
        """Yield, for each weight, the keywords and the vectors with them, of the questions and of the chunks.

        Args:
            query_embeddings: The model's vectors of the questions (Q, D).
            chunk_embeddings: Its vectors of the chunks (N, D).
        """
        for keywords in self._weighed:
            asked = keywords.beside(query_embeddings, self._asked)
            yield keywords, asked, keywords.beside(chunk_embeddings, self.answered)


@dataclass(frozen=True)
class UnseenQuestions:
    """Validation questions, with the vectors by a model that did not learn from them.

    Attributes:
        pool: The questions, and the chunks that they are ranked over.
        query_embeddings: The model's vectors of the questions (Q, D).
        chunk_embeddings: Its vectors of the chunks (P, D).
        kinds: Name -> keywords of any weight, which did not learn from the questions either.
    """

    pool: Pool
    query_embeddings: Vectors
    chunk_embeddings: Vectors
    kinds: Mapping[str, Keywords]


class KindAtWeight(NamedTuple):
    """A kind of keywords at a weight."""

    kind: str
    weight: float

    def __str__(self) -> str:
        return f"{self.kind}, {self.weight:.0%}"


def ignoring_keyword_hits(
    scores: QueryScores, alone: QueryScores, questions: RetrievalDataset, by_own_words: Collection[str]
) -> QueryScores:
    """Give questions that keywords answer at any weight the scores that they have without keywords.

    Args:
        scores: Scores with keywords.
        alone: Scores without.
        questions: Questions about one chunk each.
        by_own_words: doc_ids of the chunks that are asked for by their own words, which keywords always find.
    """
    unmoved = {query_id for query_id, (doc_id, *_) in questions.relevant_docs.items() if doc_id in by_own_words}
    return {
        metric: {
            query_id: alone[metric][query_id] if query_id in unmoved else score
            for query_id, score in of_queries.items()
        }
        for metric, of_queries in scores.items()
    }


def score_weights(every: Sequence[UnseenQuestions]) -> dict[KindAtWeight, QueryScores]:
    """Score each kind of keywords at each weight, on all questions together, kind by kind."""
    parts: dict[KindAtWeight, list[QueryScores]] = {}
    parts_of_chunks: dict[tuple[object, ...], Vectors] = {}  # stresses do not change the chunks' part
    for unseen in every:
        chunks = tuple(unseen.pool.chunks)
        for kind, keywords in unseen.kinds.items():
            alike = (chunks, keywords.width, id(keywords.fitted))
            weighed = KeywordsAtEachWeight(keywords, unseen.pool.queries, chunks, parts_of_chunks.get(alike))
            parts_of_chunks[alike] = weighed.answered
            for each, asked, answered in weighed.beside(unseen.query_embeddings, unseen.chunk_embeddings):
                parts.setdefault(KindAtWeight(kind, each.weight), []).append(unseen.pool.score(asked, answered))
    return {weighed: joined_scores(scores) for weighed, scores in parts.items()}


def worth_their_width(scores: Mapping[KindAtWeight, QueryScores], alone: QueryScores) -> list[KindAtWeight]:
    """List the keywords whose expected gain is worth the numbers that they add to each vector, best first.

    Few questions tell little about one weight, and less about the best of many. The gains on other corpora are
    therefore counted in, as if they were some more questions. The other way that was tried is to take keywords whose
    gain is above its standard error. With models tuned on six corpora, and questions held out of training (nine splits,
    150 draws of those that choose), nDCG@10 of the others rose from .779 that way to .786 this way where 30 questions
    chose, from .789 to .793 with 60 and from .861 to .864 with 100. With 200 it stayed, .851 and .850, with wide
    keywords chosen less often.

    Args:
        scores: Scores of each kind at each weight, the cheapest and simplest first.
        alone: Scores of the model without keywords.
    """
    count = len(alone[DECIDING])

    def worth(weighed: KindAtWeight) -> float:
        gained = count * (mean_ndcg(scores[weighed]) - mean_ndcg(alone))
        expected = (gained + USUAL_GAIN_COUNTS * USUAL_GAINS[weighed.weight]) / (count + USUAL_GAIN_COUNTS)
        return expected - (LEAST_WORTH_WIDE if weighed.kind.endswith(WIDE) else LEAST_WORTH)

    return sorted((weighed for weighed in scores if worth(weighed) > 0), key=worth, reverse=True)
