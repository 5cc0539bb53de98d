"""What a question's words count: learned where questions agree, left alone where they say nothing."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from docsgpt_embtune.training.keywords import question_words
from docsgpt_embtune.training.keywords.question_words import CANDIDATES, learn_stresses

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


def in_wordings(often, asked, chunks, good):
    """Return the same, the questions of the first three topics asked so many times."""
    rows = [topic for topic in range(TOPICS) for _ in range(often if topic < 3 else 1)]
    return asked[rows], chunks, [good[row] for row in rows]


@pytest.mark.parametrize("often", [1, 10])
def test_word_that_one_answer_is_asked_for_with_is_left_alone(often):
    assert np.all(learn_stresses(*in_wordings(often, *drawn()))[:TOPICS] == 1)


def test_one_question_in_many_wordings_does_not_outweigh_the_others():
    """HOW stands in the answers of the first three topics, and misleads in the others."""
    asked, chunks, good = drawn()
    turned = np.arange(CHUNKS) % TOPICS < 3
    of_words = chunks.toarray()
    of_words[turned, HOW], of_words[turned, NAME] = of_words[turned, NAME], of_words[turned, HOW]
    once, often = (learn_stresses(*in_wordings(n, asked, csr_array(of_words), good)) for n in (1, 10))
    assert once[HOW] < 0.95
    assert often[HOW] == pytest.approx(once[HOW], rel=0.01)


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
