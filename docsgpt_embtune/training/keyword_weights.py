"""Keywords beside the model's numbers, at each weight that validation chooses from."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from docsgpt_embtune.serving.keywords import Keywords
from docsgpt_embtune.training.encoding import Vectors

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
