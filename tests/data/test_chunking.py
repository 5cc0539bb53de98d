from itertools import pairwise

import pytest

from docsgpt_embtune.data.chunking import chunk_text
from docsgpt_embtune.data.tokens import token_counter


def words(text: str) -> int:
    return len(text.split())


PARAGRAPHS = "\n\n".join(f"Paragraph {n} has some words. " + "It goes on. " * n for n in range(12))


def test_chunks_stay_within_the_bounds_and_lose_nothing():
    chunks = chunk_text(PARAGRAPHS, count_tokens=words, max_tokens=30, min_tokens=12)
    assert all(words(chunk) <= 30 for chunk in chunks)
    assert " ".join(chunks).split() == PARAGRAPHS.split()


def test_cuts_at_paragraphs_before_sentences():
    text = "One two three.\n\nFour five six. Seven eight nine."
    assert chunk_text(text, count_tokens=words, max_tokens=6, min_tokens=3) == [
        "One two three.",
        "Four five six. Seven eight nine.",
    ]


def test_small_pieces_are_merged_up_to_the_minimum():
    assert chunk_text("a\n\nb\n\nc\n\nd", count_tokens=words, max_tokens=3, min_tokens=2) == ["a\n\nb", "c\n\nd"]


def test_text_without_any_break_is_cut_between_words():
    chunks = chunk_text("word " * 25, count_tokens=words, max_tokens=10, min_tokens=1)
    assert [words(chunk) for chunk in chunks] == [10, 10, 5]


@pytest.mark.parametrize("max_tokens", [12, 13, 17, 24, 25, 26])
def test_a_window_is_as_long_as_may_be_whatever_its_words_count(max_tokens):
    text = " ".join("abcdefghijkl"[: 1 + n * 7 % 12] for n in range(25))
    chunks = chunk_text(text, count_tokens=len, max_tokens=max_tokens, min_tokens=0)
    assert " ".join(chunks) == text
    for chunk, following in pairwise(chunks):
        assert len(f"{chunk} ") <= max_tokens or " " not in chunk
        assert len(f"{chunk} {following.split()[0]} ") > max_tokens


@pytest.mark.parametrize("max_tokens", [1, 3, 7, 10])
def test_a_word_over_the_maximum_is_cut_between_letters(max_tokens):
    text = "Ein Rindfleischetikettierungsüberwachungsgesetz gilt."
    chunks = chunk_text(text, count_tokens=len, max_tokens=max_tokens, min_tokens=max_tokens)
    assert "".join("".join(chunks).split()) == "".join(text.split())
    assert max(map(len, chunks)) == max_tokens


@pytest.mark.parametrize(
    "text",
    [
        "他们把备份写到第二块磁盘上。" * 400,
        "バックアップは毎晩書き込まれます。" * 400,
        "การสำรองข้อมูลทำงานทุกคืน" * 400,
        "x7" * 10_000,
    ],
    ids=["chinese", "japanese", "thai", "token"],
)
def test_text_without_blanks_keeps_the_maximum(text):
    counter = token_counter("bundled")
    chunks = chunk_text(text, count_tokens=counter, max_tokens=200)
    assert "".join(chunks) == text
    assert all(len(chunk) < 1000 for chunk in chunks), "an unknown token for thousands of characters is no count"
    assert all(counter(chunk) <= 200 for chunk in chunks)


def test_a_long_line_is_counted_a_few_times_for_each_chunk():
    counted = []

    def count(text):
        counted.append(text)
        return words(text)

    chunks = chunk_text("word " * 20_000, count_tokens=count, max_tokens=1250)
    assert len(chunks) == 16
    assert len(counted) < 40 * len(chunks)


def test_blank_text_gives_no_chunk():
    assert chunk_text(" \n\n \n", count_tokens=words) == []


def test_bounds_are_checked():
    with pytest.raises(ValueError, match="got 5 and 3"):
        chunk_text("text", count_tokens=words, max_tokens=3, min_tokens=5)
