"""Keywords beside the model's numbers, at each weight that validation chooses from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from docsgpt_embtune.evaluation.metrics import QueryScores, joined_scores
from docsgpt_embtune.serving.keywords import Keywords
from docsgpt_embtune.training.encoding import Vectors
from docsgpt_embtune.training.validation import ValidationPool

WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


class WeighedKeywords:
    """Keywords of given questions and chunks, read once for all weights and models.

    Args:
        keywords: Of whatever weight.
        questions: Q texts.
        chunks: N texts.
    """

    def __init__(self, keywords: Keywords, questions: Sequence[str], chunks: Sequence[str]) -> None:
        self._weighed = [replace(keywords, weight=weight) for weight in WEIGHTS]
        self._asked = keywords.of_questions(questions)
        self._answered = keywords.of_documents(chunks)

    def beside(self, questions: Vectors, chunks: Vectors) -> Iterator[tuple[Keywords, Vectors, Vectors]]:
        """Yield, for each weight, the keywords and what stores rank by: vectors of the questions and of the chunks.

        Args:
            questions: The model's vectors of the questions (Q, D).
            chunks: Its vectors of the chunks (N, D).
        """
        for keywords in self._weighed:
            yield keywords, keywords.beside(questions, self._asked), keywords.beside(chunks, self._answered)


@dataclass(frozen=True)
class Unseen:
    """Validation questions, and what a model that did not learn from them made of them.

    Attributes:
        pool: The questions, and the chunks that they are ranked over.
        queries: The model's vectors of the questions (Q, D).
        chunks: Its vectors of the chunks (P, D).
        kinds: Name -> keywords of whatever weight, which did not learn from the questions either.
    """

    pool: ValidationPool
    queries: Vectors
    chunks: Vectors
    kinds: Mapping[str, Keywords]


def score_weights(every: Sequence[Unseen]) -> dict[str, dict[float, QueryScores]]:
    """Score each kind of keywords at each weight, on all questions together: kind -> weight -> scores."""
    scores: dict[str, dict[float, QueryScores]] = {}
    for unseen in every:
        for kind, keywords in unseen.kinds.items():
            of_kind = scores.setdefault(kind, {})
            weighed = WeighedKeywords(keywords, unseen.pool.queries, unseen.pool.chunks)
            for each, asked, answered in weighed.beside(unseen.queries, unseen.chunks):
                found = unseen.pool.score(asked, answered)
                of_kind[each.weight] = joined_scores([of_kind.get(each.weight, {}), found])
    return scores
