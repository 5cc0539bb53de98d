"""No layers at all: a text's vector is the mean of its tokens' rows in a table, and nothing of the order of its words.

The table begins with what the tuned model says of each token by itself, and is then moved to where the tuned model puts
the texts of this deployment.
"""

from functools import partial

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

from docsgpt_embtune.training.smaller.students import Lesson, Student, Students
from docsgpt_embtune.training.smaller.token_regression import Tokens, means, taught_tables
from docsgpt_embtune.wording import counted

NEEDS = "sentence-transformers 3.2 or later: DocsGPT 0.13 or later"
MAX_TEXTS = 6000  # taught with: memory grows with their square (600 MB), time with their cube


def static_students(lesson: Lesson) -> Students:
    """Yield the table as it begins, then as it is taught, the strongest held first."""
    tokens = Tokens(lesson.folder)
    texts = lesson.texts(runs_of_words=1, most=MAX_TEXTS)
    lesson.say(f"embedding   {counted(len(tokens), 'token')} and {counted(len(texts), 'text')} with the tuned model")
    weights = tokens.weights()
    begun = weights[:, None] * tokens.embed(lesson.teacher)  # (V, D)
    vectors = lesson.of_teacher.embed(texts)
    questions, chunks = tokens.shares(lesson.questions), tokens.shares(lesson.chunks)

    def student(name: str, table: np.ndarray) -> Student:
        model = partial(_static_model, tokens, table)
        return Student(name, means(questions, table), means(chunks, table), model, lesson.folder)

    yield student("static, tokens alone", begun)
    for strength, table in taught_tables(begun, weights, tokens.shares(texts), vectors):
        yield student(f"static, taught (strength {strength:g})", table)


def _static_model(tokens: Tokens, table: np.ndarray) -> SentenceTransformer:
    rows = torch.from_numpy(table.astype(np.float32))
    return SentenceTransformer(modules=[StaticEmbedding(tokens.tokenizer, rows), Normalize()], device="cpu")
