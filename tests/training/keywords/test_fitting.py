"""Directions taken from a corpus: products that are BM25's, chunks that come later, words that nobody had."""

import random
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.evaluation.best_of_many import mean_ndcg
from docsgpt_embtune.serving.keywords import KEYWORDS_FILE, PADDING, Keywords, load_keywords
from docsgpt_embtune.training.keywords import fitting as keyword_fitting
from docsgpt_embtune.training.keywords.fitting import NARROW, STRESSED, WIDE, KeywordFitting
from docsgpt_embtune.training.validation import score_vectors

MODEL_WIDTH = 384
DRAWN = random.Random(0)
VOCABULARY = [f"{letter}{number:03d}" for letter in "abcdefgh" for number in range(100)]


def chunk(words=120):
    return " ".join(DRAWN.choice(VOCABULARY) for _ in range(words))


CHUNKS = [chunk() for _ in range(300)]
QUESTIONS = [" ".join(DRAWN.sample(text.split(), 4)) for text in CHUNKS[:50]]


@pytest.fixture(scope="module")
def fitted():
    return KeywordFitting.of(CHUNKS, MODEL_WIDTH).kinds()[NARROW]


def exact_scores(keywords, questions, chunks):
    """What the products stand for: the words' weights multiplied, as a share of a high score."""

    def weights(words):
        return dict(zip(words.tokens, words.weights.tolist(), strict=True))

    asked = [weights(keywords.of_question(question)) for question in questions]
    scores = np.zeros((len(questions), len(chunks)))
    for column, text in enumerate(chunks):
        answered = weights(keywords.of_chunk(text))
        length = max(np.linalg.norm(list(answered.values())), keywords.high)
        for row, question in enumerate(asked):
            shared = sum(value * answered.get(token, 0.0) for token, value in question.items())
            scores[row, column] = shared / length / np.linalg.norm(list(question.values()))
    return scores


def products(keywords, questions, chunks):
    return keywords.of_questions(questions) @ keywords.of_documents(chunks).T


def error(keywords, chunks=CHUNKS):
    """How far the products are off, whatever a question's whole length is taken for."""
    found, exact = products(keywords, QUESTIONS, chunks), exact_scores(keywords, QUESTIONS, chunks)
    return np.mean([1 - np.corrcoef(ours, theirs)[0, 1] for ours, theirs in zip(found, exact, strict=True)])


def test_products_are_bm25s_where_there_are_no_more_chunks_than_directions(fitted):
    assert error(fitted) < 0.001
    assert error(Keywords.of(CHUNKS, MODEL_WIDTH)) > 0.05


def test_fewer_directions_than_chunks_still_beat_random_ones():
    model_width = 768 - 256  # leaves 254 directions for 300 chunks
    assert error(KeywordFitting.of(CHUNKS, model_width).kinds()[NARROW]) < 0.5 * error(Keywords.of(CHUNKS, model_width))


def test_chunk_that_comes_later_weighs_as_much_as_the_others(fitted):
    later = [chunk(words) for words in (20, 60, 120)]
    parts = fitted.of_documents(later)[:, :-PADDING]
    lengths = [np.linalg.norm(fitted.of_chunk(text).weights) for text in later]
    assert np.allclose(np.linalg.norm(parts, axis=1), np.minimum(1.0, np.array(lengths) / fitted.high), atol=1e-5)
    assert np.allclose(np.linalg.norm(fitted.of_documents(later), axis=1), 1.0, atol=1e-5)
    words = VOCABULARY[:3]
    with_them = " ".join([chunk(60), *words])
    assert products(fitted, [" ".join(words)], [with_them, *later]).argmax() == 0


def test_word_that_the_corpus_has_not_is_found_all_the_same(fitted):
    later = [f"{chunk(40)} neuland", chunk(40), "neuland"]
    scores = products(fitted, ["neuland"], [*later, *CHUNKS])[0]
    assert set(np.argsort(-scores)[:2]) == {0, 2}
    assert np.abs(scores[3:]).max() < 0.25 < scores[0]


def test_words_that_people_ask_with_and_that_tell_nothing_count_less():
    """“Tell” stands in few chunks and is asked for with each of the others, so that BM25 takes it for what matters."""
    corpus = {f"c{n}": text for n, text in enumerate([*CHUNKS, *(f"{text} tell" for text in CHUNKS[:9])])}
    queries = {f"q{n}": f"tell {' '.join(DRAWN.sample(corpus[f'c{n}'].split(), 2))}" for n in range(10, 210)}
    relevant_docs = {f"q{n}": (f"c{n}",) for n in range(10, 210)}
    whole = RetrievalDataset(queries, corpus, relevant_docs)
    training, unseen = whole.subset(list(queries)[:100]), whole.subset(list(queries)[100:])

    kinds = KeywordFitting.of(corpus.values(), MODEL_WIDTH, wide=True).kinds(training)
    assert list(kinds) == [NARROW, f"{STRESSED} {NARROW}", WIDE, f"{STRESSED} {WIDE}"]
    plain, learned = kinds[NARROW], kinds[f"{STRESSED} {NARROW}"]
    tell = learned.known == learned.of_question("tell").keys[0]
    assert learned.stresses[tell] < 0.7
    assert plain.stresses is None
    found = [
        mean_ndcg(
            score_vectors(
                unseen, each.of_questions(list(unseen.queries.values())), each.of_documents(list(corpus.values()))
            )
        )
        for each in (plain, learned)
    ]
    assert found[1] > found[0] + 0.02
    assert np.array_equal(learned.of_documents(CHUNKS), plain.of_documents(CHUNKS))


def test_copies_of_chunks_leave_no_directions_of_rounding_alone():
    keywords = KeywordFitting.of(CHUNKS[:60] * 5, MODEL_WIDTH).kinds()[NARROW]
    assert error(keywords, CHUNKS[:60]) < 0.001
    rounding = keywords.fitted.steps[:, 60:].astype(np.float32) * keywords.fitted.sizes[:, None]
    assert not rounding.any()


def test_wide_ones_hold_the_narrow_ones_directions():
    narrow, wide = KeywordFitting.of(CHUNKS, MODEL_WIDTH, wide=True).kinds().values()
    assert (narrow.width, wide.width) == (384, 1152)
    assert narrow.high == wide.high
    ours, theirs = (each.fitted.steps[:, :300] * each.fitted.sizes[:, None] for each in (narrow, wide))
    assert np.allclose(ours, theirs, atol=0.01)


def test_only_the_most_frequent_words_directions_are_kept(monkeypatch):
    monkeypatch.setattr(keyword_fitting, "MOST_WORDS", 10)
    corpus = ["the log", *CHUNKS, "the disk", *(f"the {text}" for text in CHUNKS)]
    keywords = KeywordFitting.of(corpus, MODEL_WIDTH).kinds()[NARROW]
    assert len(keywords.fitted.words) == 10
    assert set(keywords.of_chunk("the").keys) <= set(keywords.fitted.words)
    assert np.all(np.diff(keywords.fitted.words.astype(np.float64)) > 0)


@pytest.mark.parametrize("corpus", [["", "?"], ["one chunk of its own"], ["no word", "occurs twice"], ["same", "same"]])
def test_corpus_with_next_to_nothing_in_it(corpus):
    for keywords in KeywordFitting.of(corpus, MODEL_WIDTH, wide=True).kinds().values():
        for part in (keywords.of_documents([*corpus, "else"]), keywords.of_questions([*corpus, "else"])):
            assert np.allclose(np.linalg.norm(part, axis=1), 1.0, atol=1e-5)
        assert products(keywords, ["one chunk"], ["one chunk of its own", "else"]).argmax() == 0


def test_large_corpus_is_left_to_random_directions(monkeypatch):
    monkeypatch.setattr(keyword_fitting, "MOST_CHUNKS", len(CHUNKS) - 1)
    narrow, wide = KeywordFitting.of(CHUNKS, MODEL_WIDTH, wide=True).kinds().values()
    assert narrow.fitted is None
    assert wide.fitted is None
    assert np.array_equal(narrow.of_documents(CHUNKS), Keywords.of(CHUNKS, MODEL_WIDTH).of_documents(CHUNKS))


def test_of_a_larger_corpus_words_are_counted_in_a_part(monkeypatch):
    monkeypatch.setattr(keyword_fitting, "MOST_CHUNKS", len(CHUNKS) - 1)
    whole = KeywordFitting.of(CHUNKS, MODEL_WIDTH).kinds()[NARROW]
    monkeypatch.setattr(keyword_fitting, "MOST_COUNTED", len(CHUNKS) // 2)
    counted = KeywordFitting.of(CHUNKS, MODEL_WIDTH).kinds()[NARROW]
    assert (whole.chunks, counted.chunks) == (len(CHUNKS), len(CHUNKS) // 2)
    drawn, alike = products(whole, QUESTIONS, CHUNKS), products(counted, QUESTIONS, CHUNKS)
    assert np.corrcoef(drawn.ravel(), alike.ravel())[0, 1] > 0.95


def test_folder_gives_the_same_vectors_and_tells_of_no_word(fitted, tmp_path):
    keywords = replace(fitted, weight=0.3, stresses=np.linspace(0.5, 2, len(fitted.known), dtype=np.float32))
    keywords.write(tmp_path)
    assert b"a001" not in (tmp_path / KEYWORDS_FILE).read_bytes()
    again = load_keywords(tmp_path)
    assert again.weight == 0.3
    assert np.array_equal(again.of_documents(CHUNKS), keywords.of_documents(CHUNKS))
    assert np.array_equal(again.of_questions(QUESTIONS), keywords.of_questions(QUESTIONS))


def test_folder_with_a_part_of_the_directions_is_refused(fitted, tmp_path):
    fitted.write(tmp_path)
    with safe_open(tmp_path / KEYWORDS_FILE, framework="numpy") as kept:
        tensors, metadata = {name: kept.get_tensor(name) for name in kept.keys()}, kept.metadata()
    save_file(tensors | {"steps": tensors["steps"][:, :100].copy()}, tmp_path / KEYWORDS_FILE, metadata)
    with pytest.raises(ModelFolderError, match="the keywords cannot be read"):
        load_keywords(tmp_path)


def test_no_question_at_all_tells_nothing():
    none = RetrievalDataset({}, {f"c{n}": text for n, text in enumerate(CHUNKS)}, {})
    kinds = KeywordFitting.of(CHUNKS, MODEL_WIDTH).kinds(none)
    assert (kinds[f"{STRESSED} {NARROW}"].stresses == 1).all()
