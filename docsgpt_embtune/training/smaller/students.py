"""What a smaller model (a student) is taught: a tuned model's vectors of texts. No judgments are used."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sentence_transformers import SentenceTransformer

from docsgpt_embtune.data.corpus_questions import questions_from_corpus
from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.precision import resolve_precision
from docsgpt_embtune.serving.encoding import Encoder
from docsgpt_embtune.serving.keywords import Keywords
from docsgpt_embtune.serving.reading import Reading, WindowReader
from docsgpt_embtune.static_model import tokens_read
from docsgpt_embtune.training.known_vectors import KnownVectors
from docsgpt_embtune.vectors import Vectors
from docsgpt_embtune.wording import Say


@dataclass(frozen=True)
class Lesson:
    """A tuned model, the texts to teach students with, and the questions to choose among them.

    Attributes:
        folder: The tuned model's folder.
        teacher: The tuned model, reading as much of a text as it does when it serves.
        reading: How its chunks are read.
        training: Questions and chunks to teach with; the judgments are not used.
        validation: Questions to choose by.
        by_words: Whether the validation questions are words of the chunks, as the tuned model has memorised people's.
        keywords: Keywords beside the tuned model's numbers in the comparison; None if it has none, or if `by_words`, as
            keywords find each chunk by its own words.
        seed: Seed of all sampling.
        say: Takes one line of plain text before each stage.
    """

    folder: Path
    teacher: SentenceTransformer
    reading: Reading
    training: RetrievalDataset
    validation: RetrievalDataset
    by_words: bool
    keywords: Keywords | None
    seed: int
    say: Say

    @cached_property
    def questions(self) -> list[str]:
        """The validation questions, Q."""
        return list(self.validation.queries.values())

    @cached_property
    def chunks(self) -> list[str]:
        """The chunks that they are ranked over, N."""
        return list(self.validation.corpus.values())

    @cached_property
    def of_teacher(self) -> KnownVectors:
        """A cache of the tuned model's vectors."""
        return vectors_of(self.teacher)

    def texts(self, *, runs_of_words: int, most: int) -> list[str]:
        """Draw texts to teach with: questions, runs of words of each chunk, and chunks in windows that are read whole.

        Args:
            runs_of_words: How many for each chunk, each as long as a question.
            most: How many texts at most.
        """
        reader = WindowReader(self.folder, tokens_read(self.teacher))
        texts = dict.fromkeys(self.training.queries.values())
        for number in range(runs_of_words):
            texts |= dict.fromkeys(questions_from_corpus(self.training.corpus, self.seed + number).queries.values())
        texts |= dict.fromkeys(window for chunk in self.training.corpus.values() for window in reader.windows_of(chunk))
        to_choose_by = set(self.questions)  # these may be words of the chunks, too
        taught = [text for text in texts if text not in to_choose_by]
        return taught if len(taught) <= most else random.Random(self.seed).sample(taught, most)


@dataclass(frozen=True)
class Student:
    """A smaller model at some stage of its teaching.

    Attributes:
        name: Its name in comparisons.
        query_embeddings: Its vectors of the validation questions (Q, D).
        chunk_embeddings: Its vectors of the chunks (N, D).
        model: Builds the model.
        files: Folder of its config, tokenizer and prompts.
    """

    name: str
    query_embeddings: Vectors
    chunk_embeddings: Vectors
    model: Callable[[], SentenceTransformer]
    files: Path


Students = Iterator[Student]  # the least changed first


def vectors_of(model: SentenceTransformer) -> KnownVectors:
    """Return a cache of a model's vectors, which are computed in the precision that suits the machine."""
    return KnownVectors(Encoder(model, resolve_precision("auto", model.device)))
