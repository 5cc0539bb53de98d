"""What counts as a copy of another text, and what only looks like one."""

import random
import unicodedata

import numpy as np
import pytest
from click.testing import CliRunner

from docsgpt_embtune.cli import main
from docsgpt_embtune.data.dataset import load_dataset
from docsgpt_embtune.data.preparation.near_duplicates import MOST_REPEATED, letter_triples, near_duplicates
from docsgpt_embtune.data.split import connected_groups

from .made_up_data import changes, made_up, numbered, prepare, sentence, write
from .planted_faults import plant_two_chunks_answer


def test_chunk_that_nearly_repeats_two_good_ones_is_counted_once(tmp_path):
    data = made_up(40)
    plant_two_chunks_answer(data)
    data["corpus"]["other"] = data["corpus"]["c3"] + " More."
    data["relevant_docs"]["q3"].append("other")
    result = prepare(write(tmp_path, data), "--fix", "--out", tmp_path / "out", "--split", "100,0,0")
    assert "and are not marked: 1 (two-chunks-answer)" in result.output, result.output
    assert [(change["query_id"], change["doc_id"]) for change in changes(tmp_path / "out")] == [("q3", "again")]


def test_chunks_that_differ_by_what_is_asked_for_are_no_copies_of_each_other(tmp_path, tiny_base_folder):
    data = made_up(40)
    names = ["Alpha100", "Alpha200", "Alpha300"]
    alike = sentence(50)
    data["corpus"] |= {name: f"{alike} The {name} takes 7 {name[:-3]}watts." for name in names}
    data["queries"] |= {name: f"What does the {name} take?" for name in names}
    data["relevant_docs"] |= {name: [name] for name in names}
    data["irrelevant_docs"] |= {"Alpha100": ["Alpha200"]}
    path = write(tmp_path, data)
    for model in ("none", str(tiny_base_folder)):
        result = prepare(path, "--model", model)
        assert "(bad-chunk-answers)" not in result.output, result.output
        assert "(two-chunks-" not in result.output, result.output
    data["queries"]["Alpha100"] = "What do they take?"  # of which both chunks tell
    result = prepare(write(tmp_path, data))
    assert "to be read by a person: 1 (bad-chunk-may-answer)" in result.output, result.output
    assert "to be read by a person: 1 (two-chunks-may-answer)" in result.output, result.output


@pytest.mark.parametrize(
    ("question", "good", "opposite"),
    [
        (
            "what is the lower bound for connections?",
            "Smallest permitted number of connections that one machine may open before further attempts are refused",
            "Largest permitted number of connections that one machine may open before further attempts are refused",
        ),
        (
            "속성의 가능한 최소값",
            "Smallest possible value for the property that the scrollable widget and its controller share",
            "Largest possible value for the property that the scrollable widget and its controller share",
        ),
        (
            "how much does the newest agent need?",
            "The agent needs at least 40 GB of free space on the volume and the rights to install",
            "The agent needs at least 10 GB of free space on the volume and the rights to install",
        ),
    ],
)
@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("model", ["none", "bundled"])
def test_chunk_that_a_word_turns_is_left_as_it_was_marked(tmp_path, question, good, opposite, marked, model):
    data = made_up(6)
    data["queries"]["q"], data["relevant_docs"]["q"] = question, ["good"]
    data["corpus"] |= {"good": good, "opposite": opposite}
    data["irrelevant_docs"] = {"q": ["opposite"]} if marked else {}
    arguments = ["--model", model, "--fix", "--out", str(tmp_path / "out"), "--split", "100,0,0"]
    result = CliRunner().invoke(main, ["prepare", str(write(tmp_path, data)), *arguments])
    check = "bad-chunk-may-answer" if marked else "two-chunks-may-answer"
    assert f"1 ({check}); --fix leaves them" in result.output, result.output
    assert not changes(tmp_path / "out")
    mended = load_dataset(tmp_path / "out" / "train.json", corpus=tmp_path / "out" / "corpus.json")
    assert mended.relevant_docs["q"] == ("good",)
    assert mended.irrelevant_docs.get("q", ()) == (("opposite",) if marked else ())


@pytest.mark.parametrize("copy", [numbered, lambda text: text.replace(" ", " - ")], ids=["numbered", "punctuated"])
def test_chunk_whose_bad_mark_is_dropped_is_not_marked_as_good(tmp_path, copy):
    data = made_up(40)
    data["corpus"]["copy"] = copy(data["corpus"]["c3"])
    data["irrelevant_docs"]["q3"] = ["copy"]
    prepare(write(tmp_path, data), "--fix", "--out", tmp_path / "out", "--split", "100,0,0")
    assert [change["change"] for change in changes(tmp_path / "out")] == ["drop bad mark"]
    mended = load_dataset(tmp_path / "out" / "train.json", corpus=tmp_path / "out" / "corpus.json")
    assert mended.relevant_docs["q3"] == ("c3",)
    assert not mended.irrelevant_docs


@pytest.mark.parametrize(
    ("chunk", "is_copy"),
    [
        ("{question}\n{rest}", False),
        ("## {question} {rest}", False),
        ("{first}\n{second}\r\n\r\n{rest}", False),
        ("{bare}\n{rest}", False),
        ("Q: {question}\nA: {rest}", False),
        ("**Question 3:** {question}\n{rest}", False),
        ("12. {question}\n{rest}", False),
        ("Q: {question}", True),
        ("{question}\n---\n", True),
        ("{bare} {rest}", True),
        ("{rest} {question} {rest}", True),
    ],
)
def test_question_with_which_an_entry_of_a_faq_begins_is_no_copy(tmp_path, chunk, is_copy):
    data = made_up(40)
    question, rest = "How do I reset the password of my account?", data["corpus"]["c3"]
    data["queries"]["q3"] = question
    data["corpus"]["c3"] = chunk.format(
        question=question, bare=question[:-1], first=question[:18], second=question[19:], rest=rest
    )
    prepare(write(tmp_path, data), "--fix", "--out", tmp_path / "out", "--split", "100,0,0")
    dropped = [(change["fault"], change["query_id"]) for change in changes(tmp_path / "out")]
    assert dropped == ([("copied-question", "q3")] if is_copy else [])


def test_questions_of_one_pattern_are_one_group_without_all_of_their_pairs():
    asked = [f"where is my order number {100_000 + number} that i placed last week" for number in range(300)]
    pairs = near_duplicates(asked, letter_triples, 0.75, label="")
    assert len(pairs) <= MOST_REPEATED * len(asked)
    starts, ends = np.array(pairs).T
    assert set(connected_groups(len(asked), [(starts, ends)])) == {0}


def test_questions_and_chunks_that_differ_in_a_sign_are_not_joined(tmp_path):
    questions = [
        f"How do I {what}?" for what in ("compile C", "compile C++", "compile C#", "write a += b", "write a -= b")
    ]
    chunks = ["Run gcc a.c", "Run g++ a.cpp", "Run csc a.cs", "It is a = a + b", "It is a = a - b"]
    data = {
        "queries": {f"q{n}": question for n, question in enumerate(questions)},
        "corpus": {f"c{n}": chunk for n, chunk in enumerate(chunks)},
        "relevant_docs": {f"q{n}": [f"c{n}"] for n in range(5)},
        "irrelevant_docs": {"q0": ["c1"], "q1": ["c0"]},  # what answers the one is the other's nearest miss
    }
    data["queries"]["again"], data["relevant_docs"]["again"] = "how do i  COMPILE c++ ?!", ["c1"]
    result = prepare(write(tmp_path, data), "--fix", "--out", tmp_path / "out", "--split", "100,0,0")
    assert result.exit_code == 0, result.output
    mended = load_dataset(tmp_path / "out" / "train.json", corpus=tmp_path / "out" / "corpus.json")
    assert list(mended.queries.values()) == questions
    assert list(mended.corpus.values()) == chunks
    assert mended.irrelevant_docs == {"q0": ("c1",), "q1": ("c0",)}


def test_accented_letters_are_the_same_in_one_character_and_in_two(tmp_path):
    data = made_up(40)
    data["queries"]["q3"] = "Wie läuft die Prüfung der Gebühr?"
    data["queries"]["q4"] = unicodedata.normalize("NFD", data["queries"]["q3"])
    data["corpus"]["c3"] = f"Über {sentence(3)}"
    data["corpus"]["c4"] = unicodedata.normalize("NFD", data["corpus"]["c3"])
    copied = unicodedata.normalize("NFD", f"Größe über {sentence(60)} für Bücher")
    data["queries"]["q5"] = unicodedata.normalize("NFC", copied)
    data["corpus"]["c5"] = f"Die {copied} hier."
    unseen = write(
        tmp_path, made_up(1) | {"queries": {"q0": unicodedata.normalize("NFD", "Wie heißt Ü?")}}, "test.json"
    )
    data["queries"]["q6"] = "wie heißt ü"
    prepare(write(tmp_path, data), "--held-out", unseen, "--fix", "--out", tmp_path / "out", "--split", "100,0,0")
    found = {(change["fault"], change.get("query_id") or change["doc_id"]) for change in changes(tmp_path / "out")}
    assert {
        ("duplicate-question", "q4"),
        ("duplicate-chunk", "c4"),
        ("copied-question", "q5"),
        ("seen-question", "q6"),
    } <= found


def test_words_that_differ_in_a_vowel_sign_are_not_the_same(tmp_path):
    data = made_up(40)
    day, gift = "दिन क्या है", "दान क्या है"
    data["queries"] |= {"q3": f"{day}?", "q4": f"{gift}?"}
    data["corpus"] |= {"c3": f"{day}.", "c4": f"{gift}."}
    data["irrelevant_docs"] = {"q3": ["c4"], "q4": ["c3"]}
    held_out = {"queries": {"t": f"{day} !"}, "corpus": {"a": "Nothing of that kind."}, "relevant_docs": {"t": ["a"]}}
    unseen = write(tmp_path, held_out | {"irrelevant_docs": {}}, "test.json")
    result = prepare(write(tmp_path, data), "--held-out", unseen)
    assert "a held-out file asks, too: 1 (seen-question)" in result.output, result.output
    assert "(good-and-bad)" not in result.output
    assert "duplicate-" not in result.output


@pytest.mark.parametrize("first", [0x4E00, 0x0E01, 0x30A1], ids=["Chinese", "Thai", "Japanese"])
def test_copies_are_found_where_no_spaces_are_written(tmp_path, first):
    def clause(number: int, length: int = 12) -> str:
        letters = random.Random(number)
        return "".join(chr(first + letters.randrange(40)) for _ in range(length))

    data = made_up(40)
    chunk = "，".join(map(clause, range(6))) + "。"
    data["corpus"]["c3"], data["corpus"]["c4"] = chunk, chunk[:30] + "k" + chunk[31:]
    data["queries"]["q5"] = clause(7) + "？"
    data["corpus"]["c5"] = clause(8) + clause(7) + clause(9) + "。"
    data["queries"]["q6"] = data["corpus"]["c6"] = clause(10, 6)  # may be a heading by chance
    result = prepare(write(tmp_path, data), "--fix", "--out", tmp_path / "out", "--split", "100,0,0")
    assert result.exit_code == 0, result.output
    found = {(change["fault"], change["query_id"]) for change in changes(tmp_path / "out")}
    assert found == {("copied-question", "q5")}
    assert "to be read by a person: 2 (two-chunks-may-answer)" in result.output, result.output
