import pytest

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.evaluation.bm25 import english_tokens, retrieve_bm25
from docsgpt_embtune.words import plain_tokens


def rank(query: str, *corpus: str, k: int = 10) -> list[str]:
    dataset = RetrievalDataset(
        queries={"q": query}, corpus={str(i): text for i, text in enumerate(corpus)}, relevant_docs={"q": ("0",)}
    )
    return retrieve_bm25(dataset, k=k).top("q", k)


def test_english_is_stemmed_and_loses_its_stop_words():
    assert english_tokens("The logs are rotated, and the worker's disk is full") == [
        "log",
        "rotat",
        "worker",
        "disk",
        "full",
    ]
    found = rank("how is a log rotated", "the disk is full and it is the end", "rotating the logs is an art for all")
    assert found == ["1"]


def test_rare_words_and_short_chunks_count_more():
    assert rank("disk alarm", "disk log", "disk alarm log", "disk job") == ["1", "0", "2"]
    assert rank("disk", "disk one two three four five", "disk one", "log one") == ["1", "0"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("Restart worker seven: disk full, alarm in logs, and call admin", ["0"], id="terse English"),
        pytest.param(
            "Logs rotieren jede Nacht in einem Dienst, Sicherungen, Rechnungen und Belege bleiben erhalten",
            [],
            id="German",
        ),
    ],
)
def test_words_are_cut_to_stems_where_a_tenth_of_all_are_english_stop_words(text, found):
    assert rank("log", text) == found


def test_another_language_keeps_its_words_as_they_are():
    assert plain_tokens("Die Protokolle rotieren") == ["die", "protokolle", "rotieren"]
    assert rank("Protokolle löschen", "Rechnung stornieren heute", "Protokolle werden gelöscht") == ["1"]


def test_text_without_spaces_is_found_by_pairs_of_characters():
    assert rank("如何重置密码", "账单可以取消", "密码重置链接一小时有效") == ["1"]


def test_equal_scores_stand_in_corpus_order_and_a_question_of_unknown_words_finds_nothing():
    assert rank("the disk", "the disk is here", "the log is there", "the disk is here") == ["0", "2"]
    assert rank("the disk", *["the disk is here"] * 40, "the log is there", k=20) == [str(row) for row in range(20)]
    assert rank("xylophone", "the disk is here", "the log is there") == []


def test_a_corpus_without_a_word_is_searched_in_vain():
    assert rank("the disk", "🙂 🙂", "+ - *", "a b") == []
    assert rank("the disk", "the of and", "it is the") == []


def test_nothing_is_logged_of_an_index(caplog):
    rank("the disk", "the disk is here")
    assert not caplog.records
