"""Runs without questions: chunks are asked for by their own words, and learned from by others."""

from types import SimpleNamespace

import pytest

from docsgpt_embtune.data.corpus_questions import questions_of_both_kinds
from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.training import recipe
from docsgpt_embtune.training.recipe import Automatic

from ...sample_questions import NOUNS
from ..recipe_runs import CONFIG, CORPUS, VALIDATION

pytestmark = pytest.mark.usefixtures("quick_learning")


def test_corpus_alone_trains_and_says_what_validation_was_asked(tuned):
    said: list[str] = []
    report = tuned(None, None, corpus=CORPUS, automatic=Automatic(keywords="off"), keep_worse=True, say=said.append)
    assert any("as the model's tokens rank them, 2 mined bad chunks each" in line for line in said)
    assert [candidate.name for candidate in report.tuned.candidates] == [
        f"chunks, {recipe.SHARE_BY_TOKENS:.0%} of the way"
    ]
    assert report.manifest["validation"]["asked_by"] == "words of the chunks and sentences cut out of them"
    assert report.manifest["validation"]["queries"] == 30
    assert "training" not in report.manifest["data"]


def test_a_larger_corpus_is_not_followed_further(tuned, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(recipe, "MOST_ASKED_BY_TOKENS", 20)
    tuned(None, None, corpus=CORPUS, automatic=Automatic(keywords="off"), keep_worse=True, say=said.append)
    assert any(line.startswith("plan        1. chunks: 20 questions, as the model's tokens rank them") for line in said)


def test_vectors_that_are_no_means_of_tokens_learn_a_quarter_of_the_chunks_words(tuned, monkeypatch):
    monkeypatch.setattr(recipe, "can_be_taught_by_tokens", lambda model: False)
    report = tuned(None, None, corpus=CORPUS, automatic=Automatic(keywords="off"), keep_worse=True)
    assert [candidate.name for candidate in report.tuned.candidates] == ["chunks, 25% of the way"]


def test_what_no_person_chose_is_drawn_back_until_opening_words_find_their_chunks(tuned, undisturbed, monkeypatch):
    said: list[str] = []
    verdicts = iter(["worse", "not enough evidence"])
    monkeypatch.setattr(recipe, "judge", lambda *_, **__: SimpleNamespace(verdict=next(verdicts)))
    automatic = Automatic(keywords="off")
    report = tuned(None, None, corpus=CORPUS, automatic=automatic, keep_worse=True, say=said.append)
    guards = [line for line in said if line.startswith("guard")]
    assert guards == [
        "guard       chunks' opening words, not drawn back: worse",
        "guard       chunks' opening words, drawn back to 80%: holds",
    ]
    assert report.tuned.candidates[-1].name == "drawn back to 80%"
    assert not any(line.startswith("guard") for line in undisturbed.said)  # where questions chose


@pytest.fixture
def learned(monkeypatch):
    """The questions that the chunks are learned from by, of each run."""
    learned: list[RetrievalDataset] = []
    real = recipe.questions_from_corpus

    def spy(corpus, seed, **options):
        learned.append(real(corpus, seed, **options))
        return learned[-1]

    monkeypatch.setattr(recipe, "questions_from_corpus", spy)
    return learned


def test_what_validation_asks_by_is_not_learned_from(tuned, learned):
    report = tuned(None, None, corpus=CORPUS, keep_worse=True)
    made = questions_of_both_kinds(CORPUS, CONFIG.seed, count=15)
    assert set(report.tuned.choice.baseline["ndcg@10"]) == set(made.questions.queries)
    assert set(learned[0].corpus) == set(CORPUS) - made.by_own_words
    assert all(made.questions.corpus[doc_id].startswith(text) for doc_id, text in learned[0].corpus.items())


def test_copies_of_chunks_are_asked_for_once_and_learned_from_on_no_side(tuned, learned):
    twice = {**CORPUS, **{f"copy of {doc_id}": text for doc_id, text in CORPUS.items()}}
    report = tuned(None, None, corpus=twice, keep_worse=True)
    made = questions_of_both_kinds(CORPUS, CONFIG.seed, count=15)
    assert set(report.tuned.choice.baseline["ndcg@10"]) == set(made.questions.queries)
    assert set(learned[0].corpus) == set(CORPUS) - made.by_own_words


def test_program_text_alone_is_refused_unless_told(tuned):
    code = {f"f{n}": f"def get_{n}(self):\n    return self._{n}[key_{n}] if key_{n} in x else {n}" for n in range(80)}
    prose = {doc_id: text for doc_id, text in list(CORPUS.items())[:60]}
    with pytest.raises(TrainingError, match="only 60 of 140 chunks looked at have a few words in a row that are prose"):
        tuned(None, None, corpus={**code, **prose})
    assert tuned(None, None, corpus={**code, **prose}, keep_worse=True).folder


def test_nothing_to_learn_from_is_said(tuned):
    with pytest.raises(TrainingError, match="nothing to learn from"):
        tuned(None, None)
    with pytest.raises(TrainingError, match="only the automatic recipe"):
        tuned(None, VALIDATION, automatic=None)


def test_copies_of_one_chunk_are_not_called_one_chunk(tuned):
    with pytest.raises(TrainingError, match=r"^1 different chunk: too few"):
        tuned(None, None, corpus={str(n): CORPUS["log-kept"] for n in range(60)})


def test_chunks_too_short_to_ask_for_are_nothing_to_learn_from(tuned):
    words = {f"{noun}-{n}": noun for n, noun in enumerate(NOUNS)}
    asked = RetrievalDataset(
        {f"q{noun}": f"which {noun}" for noun in NOUNS},
        words,
        {f"q{noun}": (f"{noun}-{n}",) for n, noun in enumerate(NOUNS)},
    )
    with pytest.raises(TrainingError, match="none of the 10 chunks is long enough"):
        tuned(None, asked)
