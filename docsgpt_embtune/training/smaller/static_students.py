"""Static students, without layers: a text's vector is the mean of its tokens' rows in a table, whatever their order.

The table begins with the tuned model's vector of each token by itself, and is then moved so that the texts of this
deployment come out near the tuned model's vectors of them.
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
MAX_TEXTS = 6000  # to teach with: memory grows with their square (600 MB), time with their cube


def static_students(lesson: Lesson) -> Students:
    """Yield the table as it begins, then as taught with each strength, the one held most strongly first."""
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
