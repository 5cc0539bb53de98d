"""The journal of a model's answers: none lost, and no file of another kind touched."""

import os

import pytest

from docsgpt_embtune.errors import GenerationError
from docsgpt_embtune.sources.answer_journal import AnswerJournal


def test_a_journal_that_was_cut_drops_its_tail_and_one_in_use_is_refused(tmp_path):
    path = tmp_path / "journal"
    with AnswerJournal(path, "tiny") as journal:
        journal.add("a", [1])
        journal.add("b", [2])
        with pytest.raises(GenerationError, match="another run is writing it"):
            AnswerJournal(path, "tiny")
    os.truncate(path, path.stat().st_size - 3)
    with AnswerJournal(path, "tiny") as journal:
        assert "a" in journal
        assert "b" not in journal
        journal.add("b", [3])
    with AnswerJournal(path, "tiny") as journal:
        assert (journal["a"], journal["b"]) == ([1], [3])
    with AnswerJournal(path, "another model") as journal:
        assert "a" not in journal


def test_a_journal_without_an_answer_leaves_no_file(tmp_path):
    path = tmp_path / "journal"
    with AnswerJournal(path, "tiny") as journal:
        assert journal.is_empty
        assert path.is_file()
    assert not path.exists()
    with AnswerJournal(path, "tiny") as journal:
        journal.add("a", [1])
        assert not journal.is_empty
    with AnswerJournal(path, "another model"):
        pass
    assert answered(path, 0) == []
    assert path.is_file()


def answered(path, count=5):
    with AnswerJournal(path, "tiny") as journal:
        return [number for number in range(count) if f"p{number}" in journal]


@pytest.fixture
def journal_of_five(tmp_path):
    path = tmp_path / "journal"
    with AnswerJournal(path, "tiny") as journal:
        for number in range(5):
            journal.add(f"p{number}", [number])
    return path


def test_broken_lines_cost_no_answer_after_them(journal_of_five):
    first, *others = journal_of_five.read_bytes().splitlines(keepends=True)
    journal_of_five.write_bytes(b"".join([first, b"\n", b"my notes\n", *others, others[0][:-9]]))
    assert answered(journal_of_five) == [0, 1, 2, 3, 4]
    assert journal_of_five.read_bytes() == b"".join([first, b"\n", b"my notes\n", *others])


def test_a_last_answer_without_its_newline_is_kept(journal_of_five):
    whole = journal_of_five.read_bytes()
    journal_of_five.write_bytes(whole[:-1])
    assert answered(journal_of_five) == [0, 1, 2, 3, 4]
    assert journal_of_five.read_bytes() == whole


@pytest.mark.parametrize("content", [b"my notes\n" * 3, b"my notes", b"{}\n"])
def test_a_file_that_is_no_journal_stays_as_it_is(tmp_path, content):
    (tmp_path / "journal").write_bytes(content)
    with pytest.raises(GenerationError, match="holds no answer of a language model, and stays as it is"):
        AnswerJournal(tmp_path / "journal", "tiny")
    assert (tmp_path / "journal").read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"\n", b'{"ke', b'{"key": "0123'])
def test_a_journal_that_was_torn_at_its_first_answer_begins_anew(tmp_path, content):
    (tmp_path / "journal").write_bytes(content)
    assert answered(tmp_path / "journal") == []
