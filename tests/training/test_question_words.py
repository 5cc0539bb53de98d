"""What a question's words count: learned where questions agree, left alone where they say nothing."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from docsgpt_embtune.training import question_words
from docsgpt_embtune.training.question_words import CANDIDATES, learn_stresses

CHUNKS, TOPICS = 60, 20
HOW, NAME = TOPICS, TOPICS + 1  # a word that misleads, and one that tells the answer from the others of its topic


def drawn():
    """Return questions of a topic, chunks and answers: NAME stands in every answer, HOW in the other chunks."""
    asked, chunks = np.zeros((TOPICS, TOPICS + 2)), np.zeros((CHUNKS, TOPICS + 2))
    for row in range(CHUNKS):
        chunks[row, [row % TOPICS, HOW if row >= TOPICS else NAME]] = 0.7
    for topic in range(TOPICS):
        asked[topic, [topic, HOW, NAME]] = 0.6, 0.6, 0.5
    return csr_array(asked), csr_array(chunks), [[topic] for topic in range(TOPICS)]


def test_words_count_as_much_as_they_lead_to_answers():
    asked, chunks, good = drawn()
    stresses = learn_stresses(asked, chunks, good)
    assert stresses.dtype == np.float32
    assert stresses[HOW] < 1 < stresses[NAME]
    before, after = ((asked.toarray() * each) @ chunks.toarray().T for each in (1, stresses))
    assert not set(before.argmax(axis=1)) & set(range(TOPICS))
    assert after.argmax(axis=1).tolist() == list(range(TOPICS))


def test_word_of_a_single_question_is_left_alone():
    assert np.all(learn_stresses(*drawn())[:TOPICS] == 1)


@pytest.mark.parametrize("chunks", [CANDIDATES, CANDIDATES + 1])
def test_too_few_chunks_to_come_before_teach_nothing(chunks):
    asked, all_chunks, good = drawn()
    stresses = learn_stresses(asked, all_chunks[:chunks], good)
    assert (stresses[HOW] != 1) == (chunks > CANDIDATES)


def test_of_very_many_questions_a_sample_is_enough(monkeypatch):
    monkeypatch.setattr(question_words, "MOST_QUESTIONS", 10)
    asked, chunks, good = drawn()
    kept = sorted({question for question, _ in question_words._pairs(asked, chunks, good)})
    assert len(kept) == 10
    assert learn_stresses(asked, chunks, good)[HOW] < 1


def test_a_question_without_an_answer_here_is_passed_over():
    asked, chunks, good = drawn()
    good[3] = []
    assert 3 not in {question for question, _ in question_words._pairs(asked, chunks, good)}
