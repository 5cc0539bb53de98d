import json
import os
import random
import re
import signal
import stat
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from docsgpt_embtune.cli import main
from docsgpt_embtune.data.dataset import load_dataset
from docsgpt_embtune.data.formats.content import DatasetContent, Row, RowChunk, text_id
from docsgpt_embtune.data.formats.options import ReadOptions
from docsgpt_embtune.data.preparation import prepare as prepare_module
from docsgpt_embtune.data.preparation import splitting, statements
from docsgpt_embtune.data.preparation import store as store_module
from docsgpt_embtune.data.preparation.checks import CHECKS
from docsgpt_embtune.data.preparation.fault_check import CheckSettings, find_offenders
from docsgpt_embtune.data.preparation.finders import find_near_duplicates
from docsgpt_embtune.data.preparation.near_duplicates import MOST_REPEATED, letter_triples, near_duplicates
from docsgpt_embtune.data.preparation.store import Store, opened
from docsgpt_embtune.data.split import connected_groups
from docsgpt_embtune.errors import DatasetError

WORDS = [f"{number:04}" for number in range(3600)]  # digits: of no language


def sentence(number: int, length: int = 24) -> str:
    """Words that no other number shares."""
    return " ".join(WORDS[number * length : (number + 1) * length])


def made_up(questions: int) -> dict:
    """A question for each chunk, nothing wrong with any."""
    return {
        "queries": {f"q{n}": f"Where is {WORDS[-n - 1]} {WORDS[-n - 501]}?" for n in range(questions)},
        "corpus": {f"c{n}": sentence(n).capitalize() + "." for n in range(questions)},
        "relevant_docs": {f"q{n}": [f"c{n}"] for n in range(questions)},
        "irrelevant_docs": {},
    }


def write(folder: Path, content: dict, name: str = "data.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def prepare(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["prepare", "--model", "none", *map(str, arguments)])


def changes(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "changes.jsonl").read_text(encoding="utf-8").splitlines()]


def edited(text: str) -> str:
    words = text.split()
    return " ".join(words[:10] + words[11:])


def numbered(text: str) -> str:
    """Return what says the same, as another item of a list."""
    return f"(3) The {text.removesuffix('.')}"


def plant_empty_question(data: dict) -> None:
    data["queries"]["q3"] = " ?! "


def plant_empty_chunk(data: dict) -> None:
    data["corpus"]["c3"] = "---"


def plant_unknown_id(data: dict) -> None:
    data["relevant_docs"]["q3"].append("nowhere")


def plant_duplicate_chunk(data: dict) -> None:
    data["corpus"]["copy"] = data["corpus"]["c3"].upper()
    data["relevant_docs"]["q4"].append("copy")


def plant_duplicate_question(data: dict) -> None:
    data["queries"]["again"] = data["queries"]["q3"].upper()
    data["relevant_docs"]["again"] = ["c5"]


def plant_good_and_bad(data: dict) -> None:
    data["irrelevant_docs"]["q3"] = ["c3", "c4"]


def plant_bad_chunk_answers(data: dict) -> None:
    data["corpus"]["copy"] = numbered(data["corpus"]["c3"])
    data["irrelevant_docs"]["q3"] = ["copy"]


def plant_bad_chunk_may_answer(data: dict) -> None:
    data["corpus"]["edit"] = edited(data["corpus"]["c3"])
    data["irrelevant_docs"]["q3"] = ["edit"]


def plant_two_chunks_answer(data: dict) -> None:
    data["corpus"]["again"] = numbered(data["corpus"]["c3"])


def plant_two_chunks_may_answer(data: dict) -> None:
    data["corpus"]["edit"] = edited(data["corpus"]["c3"])


def plant_copied_question(data: dict) -> None:
    data["queries"]["q3"] = " ".join(data["corpus"]["c3"].split()[3:9]) + "?"


def plant_cut_question(data: dict) -> None:
    for number in range(3):  # of which an export left as many characters
        data["queries"][f"q{number}"] = f"{sentence(number + 60)[:60]}..."


def plant_cut_chunk(data: dict) -> None:
    for number in range(4, 30):
        data["corpus"][f"c{number}"] += " Installation is here."
    data["corpus"]["c3"] += " Go on with the install"


def plant_foreign_question(data: dict) -> None:
    english = ["When does the office open in the morning?", "Who can help me with my tax return this year?"]
    for number in range(0, 40):
        data["queries"][f"q{number}"] = f"{english[number % 2]} Asked by {WORDS[number + 900]} of the {WORDS[number]}."
    data["queries"]["q3"] = "Wie lange werden die Unterlagen aufbewahrt, und wer darf sie einsehen?"


def plant_foreign_chunk(data: dict) -> None:
    for number in range(40):
        data["corpus"][f"c{number}"] = f"The office of {sentence(number, 6)} is open for people in the morning."
    data["corpus"]["c3"] = (
        "Die Unterlagen werden zehn Jahre lang aufbewahrt und danach vernichtet, so will es das Gesetz."
    )


def plant_no_good_chunk(data: dict) -> None:
    data["relevant_docs"]["q3"] = []


PLANTS = {name.removeprefix("plant_").replace("_", "-"): plant for name, plant in globals().items() if "plant_" in name}
FOR_A_PERSON = {"bad-chunk-may-answer", "two-chunks-may-answer", "cut-chunk", "foreign-question", "foreign-chunk"}
OF_HELD_OUT_FILES = {"seen-question", "seen-answer", "nearly-seen-question", "nearly-seen-answer"}


def test_every_check_is_planted_here():
    assert set(PLANTS) | OF_HELD_OUT_FILES == {check.name for check in CHECKS}


@pytest.mark.parametrize(("mode", "of_folder", "of_files"), [(0o600, 0o700, 0o600), (0o640, 0o755, 0o644)])
def test_what_comes_of_private_data_is_private(tmp_path, mode, of_folder, of_files):
    source, out = write(tmp_path, made_up(40)), tmp_path / "out"
    source.chmod(mode)
    assert prepare(source, "--fix", "--out", out).exit_code == 0
    assert stat.S_IMODE(out.stat().st_mode) == of_folder
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {of_files}
    assert {path.name for path in out.iterdir()} >= {"train.json", "corpus.json", "changes.jsonl"}


def test_clean_data_are_said_to_be_clean_and_are_written_as_they_are(tmp_path):
    data = made_up(40)
    result = prepare(write(tmp_path, data), "--out", tmp_path / "out", "--split", "100,0,0")
    assert result.exit_code == 0, result.output
    assert "nothing wrong found" in result.output
    again = load_dataset(tmp_path / "out" / "train.json", corpus=tmp_path / "out" / "corpus.json")
    assert again.fingerprint == load_dataset(tmp_path / "data.json").fingerprint
    assert not (tmp_path / "out" / "changes.jsonl").exists()


@pytest.mark.parametrize("name", PLANTS)
def test_planted_fault_is_found_mended_and_gone(tmp_path, name):
    data = made_up(40)
    PLANTS[name](data)
    source = write(tmp_path, data)
    fixed = prepare(source, "--out", tmp_path / "out", "--fix", "--split", "100,0,0")
    assert fixed.exit_code == 0, fixed.output
    assert f"({name})" in fixed.output
    if name in FOR_A_PERSON:
        assert not changes(tmp_path / "out")
        return
    assert name in {change["fault"] for change in changes(tmp_path / "out")}
    again = prepare(tmp_path / "out" / "train.json", "--corpus", tmp_path / "out" / "corpus.json")
    assert again.exit_code == 0
    left = "(two-chunks-answer)" if name == "bad-chunk-answers" else "nothing wrong found"  # not good for that alone
    assert left in again.output, again.output


def test_what_a_fix_does(tmp_path):
    data = made_up(40)
    plant_duplicate_chunk(data)
    plant_good_and_bad(data)
    plant_two_chunks_answer(data)
    prepare(write(tmp_path, data), "--out", tmp_path / "out", "--fix", "--split", "100,0,0")
    mended = load_dataset(tmp_path / "out" / "train.json", corpus=tmp_path / "out" / "corpus.json")
    assert set(mended.relevant_docs["q3"]) == {"c3", "again"}
    assert set(mended.relevant_docs["q4"]) == {"c4", "c3", "again"}  # the copy of c3 was good for it, so c3 is
    assert mended.irrelevant_docs == {"q3": ("c4",)}
    assert {"fault": "good-and-bad", "change": "drop bad mark", "query_id": "q3", "doc_id": "c3"}.items() <= (
        next(change for change in changes(tmp_path / "out") if change["fault"] == "good-and-bad").items()
    )


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


def test_something_serious_keeps_the_files_from_being_written(tmp_path):
    data = made_up(40)
    plant_good_and_bad(data)
    result = prepare(write(tmp_path, data), "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "SERIOUS" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]


@pytest.mark.parametrize(
    ("name", "question", "answer"),
    [
        ("seen-question", "WHERE is {q}!", "Nothing of that kind is known here."),
        ("nearly-seen-question", "Where  is {q}s ?", "Nothing of that kind is known here."),
        ("seen-answer", "What else?", "{c}"),
        ("nearly-seen-answer", "What else?", "{edited}"),
    ],
)
def test_question_that_leaks_from_a_held_out_file_is_dropped(tmp_path, name, question, answer):
    data = made_up(40)
    chunk = data["corpus"]["c3"]
    text = question.format(q=data["queries"]["q3"].removeprefix("Where is ").rstrip("?"))
    held_out = {
        "queries": {"t": text},
        "corpus": {"a": answer.format(c=chunk, edited=edited(chunk))},
        "relevant_docs": {"t": ["a"]},
        "irrelevant_docs": {},
    }
    source, unseen = write(tmp_path, data), write(tmp_path, held_out, "test.json")
    looked = prepare(source, "--held-out", unseen)
    assert looked.exit_code == 1
    assert f"{next(check.what for check in CHECKS if check.name == name)}: 1 (" in looked.output
    prepare(source, "--held-out", unseen, "--out", tmp_path / "out", "--fix", "--split", "100,0,0")
    assert "q3" not in load_dataset(tmp_path / "out" / "train.json", corpus=tmp_path / "out" / "corpus.json").queries


def test_near_copy_of_a_held_out_question_is_dropped_where_an_exact_copy_stands_beside_it(tmp_path):
    data, held_out = made_up(40), made_up(1)
    data["queries"]["q3"] = held_out["queries"]["q0"] = "How do I reset the password of my account in the portal?"
    data["queries"]["q4"] = "How do I reset the passwords of my account in the portal?"
    held_out["corpus"]["c0"] = "Nothing of that kind is known here."
    unseen = write(tmp_path, held_out, "test.json")
    prepare(write(tmp_path, data), "--held-out", unseen, "--out", tmp_path / "out", "--fix", "--split", "100,0,0")
    dropped = {(change["fault"], change["query_id"]) for change in changes(tmp_path / "out")}
    assert dropped == {("seen-question", "q3"), ("nearly-seen-question", "q4")}


def test_questions_of_one_pattern_are_one_group_without_all_of_their_pairs():
    asked = [f"where is my order number {100_000 + number} that i placed last week" for number in range(300)]
    pairs = near_duplicates(asked, letter_triples, 0.75, label="")
    assert len(pairs) <= MOST_REPEATED * len(asked)
    starts, ends = np.array(pairs).T
    assert set(connected_groups(len(asked), [(starts, ends)])) == {0}


def test_of_a_pattern_every_question_that_nearly_repeats_a_held_out_one_is_dropped(tmp_path):
    data, unseen = made_up(80), made_up(2)
    pattern = "Where is my order number {} that I placed last week, and when will it arrive at my home in the end?"
    data["queries"] |= {f"q{number}": pattern.format(100_000 + number) for number in range(60)}
    unseen["queries"] = {"q0": pattern.format(200_000), "q1": "Where is something else altogether to be found?"}
    unseen["corpus"] = {"c0": sentence(90), "c1": sentence(91)}
    arguments = [write(tmp_path, data), "--held-out", write(tmp_path, unseen, "unseen.json")]
    prepare(*arguments, "--fix", "--out", tmp_path / "out", "--split", "100,0,0")
    kept = load_dataset(tmp_path / "out" / "train.json", corpus=tmp_path / "out" / "corpus.json")
    assert not [text for text in kept.queries.values() if "order number" in text]


@pytest.mark.parametrize(
    ("relevant_docs", "message"),
    [({"t": ["1"]}, "chunk is missing from the corpus: 't' -> '1'"), ({"T": ["a"]}, "unknown question: 'T'")],
)
def test_held_out_file_whose_judgments_point_nowhere_is_refused(tmp_path, relevant_docs, message):
    held_out = {"queries": {"t": "What else?"}, "corpus": {"a": sentence(3)}, "irrelevant_docs": {}}
    unseen = write(tmp_path, held_out | {"relevant_docs": relevant_docs}, "test.json")
    result = prepare(write(tmp_path, made_up(10)), "--held-out", unseen)
    assert result.exit_code == 2, result.output
    assert f"{unseen}: relevant_docs: {message} (first of 1, of 1)" in result.stderr


@pytest.mark.parametrize(("name", "change"), [("seen-answer", str.upper), ("nearly-seen-answer", edited)])
def test_change_of_several_leaking_answers_is_logged_with_the_text_of_the_one_it_names(tmp_path, name, change):
    data = made_up(40)
    data["relevant_docs"] = {query_id: ["c9", "c4", "c7"] for query_id in data["queries"]}
    held_out = {
        "queries": {"t": "What else?"},
        "corpus": {f"a{n}": change(data["corpus"][f"c{n}"]) for n in (9, 7, 4)},
        "relevant_docs": {"t": ["a9", "a7", "a4"]},
    }
    store = Store(tmp_path, tmp_path)
    store.add_content(DatasetContent(data["queries"], data["corpus"], data["relevant_docs"]))
    store.add_held_out(DatasetContent(held_out["queries"], held_out["corpus"], held_out["relevant_docs"]), tmp_path)
    store.join()
    find_near_duplicates(store)
    find_offenders(store, next(check for check in CHECKS if check.name == name), CheckSettings())
    found = store.query("SELECT query_id, doc_id, other_id, text FROM offenders ORDER BY ALL")
    assert found == [(query_id, "c4", "a4", data["corpus"]["c4"]) for query_id in sorted(data["queries"])]


def splits_of(folder: Path) -> dict[str, set[str]]:
    files = {path.stem: path for path in folder.glob("*.json") if path.stem != "corpus"}
    return {name: set(load_dataset(path, corpus=folder / "corpus.json").queries) for name, path in files.items()}


def test_no_answer_and_no_document_is_in_two_splits(tmp_path):
    data = made_up(80)
    data["documents"] = {f"c{n}": f"page {n // 4}" for n in range(80)}
    data["relevant_docs"]["q0"].append("c79")  # joins the first page and the last
    result = prepare(write(tmp_path, data), "--out", tmp_path / "out", "--split", "60,20,20")
    assert result.exit_code == 0, result.output
    splits = splits_of(tmp_path / "out")
    assert {name: len(queries) for name, queries in splits.items()} == {"train": 48, "validation": 16, "test": 16}
    for queries in splits.values():
        pages = {int(query.removeprefix("q")) // 4 for query in queries}
        assert queries == {f"q{n}" for n in range(80) if n // 4 in pages}
        assert (0 in pages) == (19 in pages)


def test_near_duplicate_chunks_keep_their_questions_together(tmp_path):
    data = made_up(40)
    for number in range(0, 40, 2):
        data["corpus"][f"c{number + 1}"] = edited(data["corpus"][f"c{number}"])
        data["relevant_docs"][f"q{number}"] = [f"c{number}", f"c{number + 1}"]
        data["relevant_docs"][f"q{number + 1}"] = [f"c{number + 1}"]
    prepare(write(tmp_path, data), "--out", tmp_path / "out", "--split", "50,0,50")
    splits = splits_of(tmp_path / "out")
    assert {len(queries) for queries in splits.values()} == {20}
    assert all(
        ({f"q{n}", f"q{n + 1}"} <= splits["test"]) != ({f"q{n}", f"q{n + 1}"} <= splits["train"])
        for n in range(0, 40, 2)
    )


@pytest.mark.parametrize("copied", ["chunks", "questions", "nearly chunks"])
def test_copies_under_two_ids_keep_their_questions_together(tmp_path, copied):
    data = made_up(40)
    for number in range(0, 40, 2):
        if copied == "questions":
            data["queries"][f"q{number + 1}"] = data["queries"][f"q{number}"]
        else:
            copy = data["corpus"][f"c{number}"]
            # Other signs between the same words: no copy that `--fix` would join.
            data["corpus"][f"c{number + 1}"] = copy if copied == "chunks" else copy.replace(" ", " - ")
    result = prepare(write(tmp_path, data), "--out", tmp_path / "out", "--split", "50,0,50")
    assert result.exit_code == 0, result.output
    for queries in splits_of(tmp_path / "out").values():
        assert {f"q{int(query[1:]) ^ 1}" for query in queries} == queries
        assert len(queries) == 20


@pytest.mark.parametrize("way", ["rows", "rows and corpus", "joined"])
def test_documents_that_hold_the_same_chunk_are_on_one_side(tmp_path, way):
    chunks = [sentence(n) for n in range(40)]
    chunks[20] = chunks[0] + ("." if way == "joined" else "")
    questions = list(made_up(40)["queries"].values())
    pages = [f"page {n // 4}" for n in range(40)]
    if way == "joined":
        source = write(
            tmp_path,
            made_up(40)
            | {
                "corpus": {f"c{n:02}": chunk for n, chunk in enumerate(chunks)},
                "relevant_docs": {f"q{n}": [f"c{n:02}"] for n in range(40)},
                "documents": {f"c{n:02}": page for n, page in enumerate(pages)},
            },
        )
    else:
        lines = map(",".join, zip(questions, chunks, pages, strict=True))
        source = tmp_path / "rows.csv"
        source.write_text("\n".join(["question,good,document", *lines]), encoding="utf-8")
    corpus = ("--corpus", write(tmp_path, {text_id(chunk): chunk for chunk in chunks}, "all.json"))
    options = ("--fix", *(corpus if way == "rows and corpus" else ()))
    for seed in range(4):
        out = tmp_path / f"out{seed}"
        result = prepare(source, *options, "--out", out, "--split", "50,0,50", "--seed", seed)
        assert result.exit_code == 0, result.output
        test = set(load_dataset(out / "test.json", corpus=out / "corpus.json").queries.values())
        sides = [questions[n] in test for n in (0, 1, 2, 3, 20, 21, 22, 23)]
        assert len(set(sides)) == 1, sides


def test_joined_question_was_asked_when_it_was_asked_last(tmp_path):
    data = made_up(40)
    data["dates"] = {f"q{n}": "2026-01-01" for n in range(40) if n != 1}
    for number, date in (("0", "2026-03-01T01:00:00+09:00"), ("00", "2026-02-28T20:00Z"), ("1", "2026-03-02")):
        data["queries"][f"again{number}"] = data["queries"][f"q{number[0]}"].upper()
        data["relevant_docs"][f"again{number}"] = [f"c{number[0]}"]
        data["dates"][f"again{number}"] = date
    result = prepare(write(tmp_path, data), "--fix", "--by-date", "--out", tmp_path / "out", "--split", "70,25,5")
    assert result.exit_code == 0, result.output
    dates = load_dataset(tmp_path / "out" / "test.json", corpus=tmp_path / "out" / "corpus.json").dates
    assert dates == {"q0": "2026-02-28T20:00Z", "q1": "2026-03-02"}


def test_documents_may_come_from_a_file_of_their_own(tmp_path):
    pages = write(tmp_path, {f"c{n}": f"page {n % 2}" for n in range(40)}, "pages.json")
    prepare(write(tmp_path, made_up(40)), "--document-of", pages, "--out", tmp_path / "out", "--split", "50,0,50")
    assert splits_of(tmp_path / "out")["test"] in ({f"q{n}" for n in range(s, 40, 2)} for s in (0, 1))


def test_documents_of_other_chunks_are_refused_and_those_of_some_are_noted(tmp_path):
    rows = "".join(f"Where is {WORDS[-n - 1]}?,{sentence(n)}\n" for n in range(40))
    (tmp_path / "rows.csv").write_text(f"question,good\n{rows}", encoding="utf-8")
    pages = write(tmp_path, {f"c{n}": f"page {n % 2}" for n in range(20)}, "pages.json")
    refused = prepare(tmp_path / "rows.csv", "--document-of", pages)
    assert refused.exit_code == 2
    assert "none of its 20 ids ('c0' …) is a chunk of" in refused.stderr
    some = prepare(write(tmp_path, made_up(40)), "--document-of", pages)
    assert f"note: {pages} names the documents of 20 of 40 chunks\n" in some.output


def test_by_date_the_newest_are_tested_and_an_older_one_with_their_answer_is_left_out(tmp_path):
    data = made_up(40)
    data["dates"] = {f"q{n}": f"2026-{1 + n // 28:02}-{1 + n % 28:02}" for n in range(40)}
    data["relevant_docs"]["q2"] = ["c39"]
    result = prepare(write(tmp_path, data), "--by-date", "--out", tmp_path / "out", "--split", "50,25,25")
    splits = splits_of(tmp_path / "out")
    assert splits["test"] == {f"q{n}" for n in range(30, 40)}
    assert splits["validation"] == {f"q{n}" for n in range(20, 30)}
    assert splits["train"] == {f"q{n}" for n in range(20)} - {"q2"}
    assert "share their answer: 1 question\n" in result.output


def test_by_date_without_dates_is_refused(tmp_path):
    result = prepare(write(tmp_path, made_up(40)), "--by-date", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "no date (ISO 8601) for 'q0' (first of 40, of 40)" in result.stderr


@pytest.mark.parametrize("date", ["05-01-23", "05.01.2023", "1-5-2023", "epoch", "infinity", "2023-01-05 (BC)", "2023"])
def test_by_date_takes_no_other_way_to_write_a_date(tmp_path, date):
    data = made_up(40)
    data["dates"] = {f"q{n}": "2026-01-01" for n in range(40)} | {"q7": date}
    result = prepare(write(tmp_path, data), "--by-date", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "no date (ISO 8601) for 'q7' (first of 1, of 40)" in result.stderr


def test_by_date_goes_by_the_moment_and_not_by_the_clock_on_the_wall(tmp_path):
    data = made_up(4)
    written = ["2026-01-01T20:00:00+09:00", " 2026-01-01 12:00 ", "2026-01-01T05:00:00-08:00", "2026-01-01T14:00Z"]
    data["dates"] = {f"q{n}": date for n, date in enumerate(written)}  # 11, 12, 13 and 14 o'clock in UTC
    prepare(write(tmp_path, data), "--by-date", "--out", tmp_path / "out", "--split", "50,25,25")
    assert splits_of(tmp_path / "out") == {"train": {"q0", "q1"}, "validation": {"q2"}, "test": {"q3"}}


def test_by_date_in_vain_leaves_no_folder(tmp_path):
    assert prepare(write(tmp_path, made_up(40)), "--by-date", "--out", tmp_path / "new" / "out").exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]


def test_same_seed_same_splits(tmp_path):
    source = write(tmp_path, made_up(40))
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        prepare(source, "--out", tmp_path / name, "--seed", seed)
    assert splits_of(tmp_path / "a") == splits_of(tmp_path / "b") != splits_of(tmp_path / "c")


def test_questions_that_hang_together_cannot_be_parted(tmp_path):
    data = made_up(10)
    data["documents"] = {f"c{n}": "one page" for n in range(10)}
    result = prepare(write(tmp_path, data), "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "10 of 10 hang together" in result.stderr


@pytest.mark.parametrize(
    ("why", "dropped"),
    [
        ("held out", "questions that a held-out file asks, too: 12 (seen-question)"),
        ("nothing good", "questions without a good chunk: 12 (no-good-chunk)"),
        (
            "unknown chunks",
            "judgments of a question or chunk that is not there: 12 (unknown-id); questions without a good chunk: 12 "
            "(no-good-chunk)",
        ),
    ],
)
def test_mending_that_leaves_no_question_says_what_was_dropped(tmp_path, why, dropped):
    data = made_up(12)
    held_out = ("--held-out", write(tmp_path, data, "test.json")) if why == "held out" else ()
    if why != "held out":
        data["relevant_docs"] = {q: ["nowhere"] if why == "unknown chunks" else [] for q in data["queries"]}
    result = prepare(write(tmp_path, data), *held_out, "--fix", "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert f"data.json: no question is left of 12, as --fix dropped {dropped}; look at them" in result.stderr
    assert not (tmp_path / "out").exists()


def test_too_few_questions_are_said(tmp_path):
    result = prepare(write(tmp_path, made_up(40)), "--out", tmp_path / "out")
    assert "6 test questions: with fewer than 100" in result.output


def test_what_does_not_fit_into_memory_streams_as_rows(tmp_path, monkeypatch):
    lines = [
        {"question": f"Where is {WORDS[-n - 1]} {WORDS[-n - 501]}?", "good": [sentence(n)], "bad": [sentence(n + 50)]}
        for n in range(40)
    ]
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    prepare(source, "--out", tmp_path / "small", "--split", "50,0,50")
    monkeypatch.setattr(splitting, "_IN_MEMORY", 10)
    result = prepare(source, "--out", tmp_path / "large", "--split", "50,0,50")
    assert result.exit_code == 0, result.output
    for split in ("train", "test"):
        small = load_dataset(tmp_path / "small" / f"{split}.json", corpus=tmp_path / "small" / "corpus.json")
        large = load_dataset(tmp_path / "large" / f"{split}.jsonl")
        assert not (tmp_path / "large" / "corpus.jsonl").exists()
        assert large.queries == small.queries
        assert large.relevant_docs == small.relevant_docs
        assert large.irrelevant_docs == small.irrelevant_docs


@pytest.mark.parametrize("why", ["never judged", "left out"])
def test_chunks_that_no_row_names_stream_into_a_corpus(tmp_path, monkeypatch, why):
    data = made_up(40)
    if why == "never judged":
        data["corpus"] |= {f"d{n}": sentence(n) for n in range(50, 60)}
    else:
        data["dates"] = {f"q{n}": f"2026-{1 + n // 28:02}-{1 + n % 28:02}" for n in range(40)}
        data["relevant_docs"]["q2"].append("c39")
    monkeypatch.setattr(splitting, "_IN_MEMORY", 10)
    by_date = ["--by-date"] * (why == "left out")
    out = tmp_path / "out"
    result = prepare(write(tmp_path, data), *by_date, "--out", out, "--split", "50,0,50")
    assert result.exit_code == 0, result.output
    assert f"note: not all chunks are in the splits' rows: give --corpus {out}/corpus.jsonl with each" in result.output
    for split in ("train", "test"):
        dataset = load_dataset(out / f"{split}.jsonl", corpus=out / "corpus.jsonl")
        assert dataset.corpus == data["corpus"]
        assert list(dataset.relevant_docs.values()) == [
            tuple(data["relevant_docs"][f"q{n}"])
            for n in range(40)
            if data["queries"][f"q{n}"] in dataset.queries.values()
        ]


def test_model_tells_a_bad_chunk_that_says_the_same_in_other_letters(tmp_path, tiny_base_folder):
    data = made_up(6)
    data["corpus"] |= {
        "good": "Logs are kept for a week.",
        "same": "Lögs are kept fór a wéek.",  # other letters, but this model reads no accents
        "other": "An invoice",
    }
    data["queries"]["q"] = "How long are logs kept?"
    data["relevant_docs"]["q"], data["irrelevant_docs"]["q"] = ["good"], ["same", "other"]
    result = CliRunner().invoke(main, ["prepare", str(write(tmp_path, data)), "--model", str(tiny_base_folder)])
    assert "bad chunks that may answer, to be read by a person: 1 (" in result.output, result.output
    assert "q same: How long are logs kept?" in result.output


def test_model_tells_a_bad_chunk_that_answers_in_other_words_from_one_that_does_not(tmp_path):
    data = made_up(6)
    data["corpus"] |= {
        "good": "Log files are kept for seven days and deleted after that.",
        "same": "It takes one week until old log files are deleted.",
        "other": "Log files are written by every worker into a folder of its own.",
    }
    data["queries"]["q"] = "How long until log files are deleted?"
    data["relevant_docs"]["q"], data["irrelevant_docs"]["q"] = ["good"], ["same", "other"]
    result = CliRunner().invoke(main, ["prepare", str(write(tmp_path, data)), "--model", "bundled"])
    assert "bad chunks that may answer, to be read by a person: 1 (" in result.output, result.output
    assert "q same: How long until" in result.output
    assert result.exit_code == 0  # a suspicion is nothing serious


@pytest.mark.parametrize("arguments", [["--split", "50,50"], ["--split", "80,10,20"], ["--split", "a,b,c"], ["--fix"]])
def test_impossible_wishes_are_usage_errors(tmp_path, arguments):
    assert prepare(write(tmp_path, made_up(10)), *arguments).exit_code == 2


def test_share_of_nothing_for_training_is_told_so(tmp_path):
    result = prepare(write(tmp_path, made_up(10)), "--out", tmp_path / "out", "--split", "0,0,100")
    assert result.exit_code == 2
    assert "'0,0,100' leaves no question for training; give the first share more than 0" in result.stderr


def test_shares_that_make_100_but_for_rounding_are_taken(tmp_path):
    result = prepare(write(tmp_path, made_up(30)), "--out", tmp_path / "out", "--split", "33.4,33.3,33.3")
    assert result.exit_code == 0, result.output


def test_existing_output_is_refused_before_the_source_is_read(tmp_path):
    (tmp_path / "out").mkdir()
    result = prepare(tmp_path / "nowhere.json", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "out: exists already" in result.stderr


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    result = prepare(write(tmp_path, made_up(40)), "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "exists already" in result.stderr


def test_what_comes_to_stand_at_the_output_meanwhile_is_left_alone(tmp_path, monkeypatch):
    def split_slowly(*arguments, **options):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("precious", encoding="utf-8")
        return splitting.split_questions(*arguments, **options)

    monkeypatch.setattr(prepare_module, "split_questions", split_slowly)
    result = prepare(write(tmp_path, made_up(40)), "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert "out: exists already" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.json", "out"]


def test_sigterm_in_a_long_statement_leaves_no_text_behind(tmp_path):
    code = """
from docsgpt_embtune.cli import main
from docsgpt_embtune.data.preparation import prepare as prepare_module

def split_questions(store, *arguments, **options):
    print("splitting", flush=True)
    store.query("SELECT count(*) FROM range(1_000_000_000_000) AS t(number) WHERE hash(number) = 1")

prepare_module.split_questions = split_questions
main()
"""
    arguments = ["prepare", write(tmp_path, made_up(40)), "--out", tmp_path / "out", "--model", "none"]
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"splitting\n"
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]


def test_new_folder_is_open_to_other_users(tmp_path):
    source = write(tmp_path, made_up(40))
    before = os.umask(0o077)
    try:
        prepare(source, "--out", tmp_path / "out")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


@pytest.fixture
def every_line(monkeypatch):
    """Let a bar leave each of its lines, where there is no terminal."""
    monkeypatch.setattr("docsgpt_embtune.progress.SECONDS_BETWEEN_LINES", 0)


@pytest.mark.usefixtures("every_line")
def test_cross_encoder_tells_a_bad_chunk_that_answers_as_well_as_the_good_one(tmp_path, tiny_base_folder):
    data = made_up(6)
    data["corpus"] |= {"good": "Logs are kept for a week.", "bad": "An invoice can be cancelled."}
    data["queries"]["q"] = "How long are logs kept?"
    data["relevant_docs"]["q"], data["irrelevant_docs"]["q"] = ["good"], ["bad"]
    swapped = data | {"relevant_docs": data["relevant_docs"] | {"q": ["bad"]}, "irrelevant_docs": {"q": ["good"]}}
    folder = cross_encoder(tmp_path / "cross-encoder", tiny_base_folder)
    results = [
        CliRunner().invoke(
            main, ["prepare", str(write(tmp_path, content)), "--model", "none", "--cross-encoder", str(folder)]
        )
        for content in (data, swapped)
    ]
    # Its weights are random, but whichever chunk it prefers, it prefers it in both.
    assert sorted(result.exit_code for result in results) == [0, 1], [result.output for result in results]
    found = next(result for result in results if result.exit_code == 1)
    assert "bad chunks that answer after all: 1 (bad-chunk-answers)" in found.output
    assert "asking the cross-encoder" in found.stderr
    assert "Batches" not in found.stderr


def cross_encoder(folder: Path, base: Path) -> Path:
    """A random one that reads the base's words."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, BertForSequenceClassification

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(base, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def test_folder_that_is_no_cross_encoder_is_refused(tmp_path):
    data = made_up(6)
    data["irrelevant_docs"]["q1"] = ["c2"]
    (tmp_path / "nothing").mkdir()
    result = prepare(write(tmp_path, data), "--cross-encoder", tmp_path / "nothing")
    assert result.exit_code == 2
    assert "nothing" in result.stderr
    assert "Traceback" not in result.stderr


def test_model_without_a_head_is_no_cross_encoder(tmp_path, tiny_base_folder):
    data = made_up(6)
    data["irrelevant_docs"]["q1"] = ["c2"]
    result = prepare(write(tmp_path, data), "--cross-encoder", tiny_base_folder)
    assert result.exit_code == 2, result.output
    assert f"{tiny_base_folder}: no cross-encoder" in result.stderr
    assert "(BertModel)" in result.stderr


@pytest.mark.usefixtures("every_line")
def test_bars_say_what_is_embedded(tmp_path, tiny_base_folder):
    data = made_up(6)
    data["irrelevant_docs"]["q1"] = ["c2"]
    result = CliRunner().invoke(main, ["prepare", str(write(tmp_path, data)), "--model", str(tiny_base_folder)])
    assert "embedding questions" in result.stderr
    assert "embedding chunks" in result.stderr
    assert "Batches" not in result.stderr


@pytest.mark.usefixtures("every_line")
@pytest.mark.parametrize("run", [Store.query, Store.stream])
def test_statement_that_takes_long_has_a_bar_that_moves(tmp_path, monkeypatch, capsys, run):
    monkeypatch.setattr(statements, "_PATIENCE", 0)
    monkeypatch.setattr(statements, "_TICK", 0.01)
    store = Store(tmp_path, tmp_path)
    store.query("CREATE TABLE numbers AS SELECT range AS number FROM range(1_000_000)")
    first, *_ = run(store, "SELECT number FROM numbers ORDER BY hash(number) LIMIT 900_000", label="shuffling numbers")
    assert len(first) == 1
    shares = {float(share) for share in re.findall(r"shuffling numbers: +(\d+)%", capsys.readouterr().err)}
    assert len(shares) > 1, shares
    assert max(shares) <= 100


def test_rows_of_one_question_are_joined_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_BLOCK", 1)
    first, second, third = sentence(1), sentence(2), sentence(3)
    lines = [
        {"question": "Which one?", "good": [first], "bad": [second], "date": "2026-03-01", "document": "page 1"},
        {"question": "Which other?", "good": [second], "bad": [first], "date": "2026-01-01", "document": "page 2"},
        {"question": "Which one?", "good": [third], "bad": [second], "date": "2026-02-01", "document": "page 3"},
    ]
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    with opened(source, ReadOptions()) as store:
        assert store.query("SELECT text, date FROM questions ORDER BY position") == [
            ("Which one?", "2026-03-01"),
            ("Which other?", "2026-01-01"),
        ]
        assert store.query("SELECT text, document FROM chunks ORDER BY document") == [
            (first, "page 1"),
            (second, "page 2"),
            (third, "page 3"),
        ]
        judged = store.query(
            "SELECT q.text, good, count(*) FROM judgments JOIN questions q USING (query_id) GROUP BY ALL"
        )
        assert sorted(judged) == [
            ("Which one?", False, 1),
            ("Which one?", True, 2),
            ("Which other?", False, 1),
            ("Which other?", True, 1),
        ]


@pytest.mark.parametrize("rows_at_once", [1, 100])
def test_id_that_stands_for_two_texts_is_refused(tmp_path, monkeypatch, rows_at_once):
    monkeypatch.setattr(store_module, "_BLOCK", rows_at_once)
    rows = [
        Row("q1", "Where?", (RowChunk("c1", "Here."),)),
        Row("q2", "When?", (RowChunk("c1", "Now."),)),
        Row("q3", "Who?", (RowChunk("c3", "Me."),)),
    ]
    store = Store(tmp_path, tmp_path / "rows")
    store.add_rows(rows)
    with pytest.raises(DatasetError, match=r"one chunk id stands for two texts: 'c1' \(first of 1, of 2\)"):
        store.join()


@pytest.mark.parametrize("rows_at_once", [1, 100])
def test_empty_date_and_document_erase_none(tmp_path, monkeypatch, rows_at_once):
    monkeypatch.setattr(store_module, "_BLOCK", rows_at_once)
    chunk = (RowChunk("c", sentence(1)),)
    store = Store(tmp_path, tmp_path / "rows")
    store.add_rows([Row("q", "Where?", chunk, date="2026-01-01", document="page 1"), Row("q", "Where?", chunk)])
    store.join()
    assert store.query("SELECT date FROM questions") == [("2026-01-01",)]
    assert store.query("SELECT document FROM chunks") == [("page 1",)]


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


def test_sign_and_what_chooses_its_picture_are_no_word(tmp_path):
    data = made_up(40)
    data["queries"]["q3"] = "\u2764\ufe0f"
    assert "questions without a word: 1 (" in prepare(write(tmp_path, data)).output


def test_held_out_file_has_its_own_chunks_and_the_columns_that_it_shares(tmp_path):
    chunks = write(tmp_path, {"c1": sentence(1), "c2": sentence(2), "c3": sentence(3)}, "chunks.json")
    source = tmp_path / "source.csv"
    source.write_text(f"ask,answer,mark\nWhere is it?,{sentence(1)},9\nWho is it?,{sentence(2)},8\n", encoding="utf-8")
    (tmp_path / "table.csv").write_text(f"ask,answer\nWhere is it?,{sentence(7)}\n", encoding="utf-8")
    write(tmp_path, made_up(3), "own.json")
    bare = {key: value for key, value in made_up(3).items() if key != "corpus"}
    write(tmp_path, bare | {"relevant_docs": {query_id: ["c3"] for query_id in bare["queries"]}}, "bare.json")
    held_out = [word for name in ("table.csv", "own.json", "bare.json") for word in ("--held-out", tmp_path / name)]
    columns = ("--columns", "question=ask,good=answer,score=mark", "--good-score", "5")
    result = prepare(source, "--corpus", chunks, *columns, *held_out)
    assert "questions that a held-out file asks, too: 1 (seen-question)" in result.output, result.output
    # `own.json` has a chunk c1 of the source, though under another question.
    assert "questions whose good chunk answers a held-out question, too: 2 (seen-answer)" in result.output


def test_more_text_than_memory_is_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "MEMORY", "48MB")
    store = Store(tmp_path, tmp_path / "rows")
    store.query("SET threads = 1")  # each takes a part of the memory
    store.add_rows(
        Row(f"question {n}", f"Where is {n}?", (RowChunk(f"chunk {n}", f"{n:04000}"),), document=f"page {n}" * 10)
        for n in range(20_000)
    )
    store.join()
    for check in CHECKS:
        if not check.slow:
            find_offenders(store, check, CheckSettings())
            assert not store.number("SELECT count(*) FROM offenders"), check.name
    assert store.number("SELECT count(*) FROM chunks WHERE document <> ''") == 20_000


def test_too_little_room_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "MEMORY", "1MB")
    result = prepare(write(tmp_path, made_up(100)), "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert "too little disk or memory" in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]


def test_folder_that_duckdb_cannot_work_in_is_refused(tmp_path):
    (tmp_path / "why?").mkdir()
    result = prepare(write(tmp_path, made_up(100)), "--out", tmp_path / "why?" / "out")
    assert result.exit_code == 2, result.output
    assert "why?: DuckDB cannot work below a folder with a ? in its name" in result.stderr
    assert not list((tmp_path / "why?").iterdir())


@pytest.mark.parametrize("spelled", [str.upper, "{}.0".format], ids=["in capitals", "as a number"])
def test_ids_that_point_nowhere_for_their_spelling_are_told_so(tmp_path, spelled):
    data = made_up(12)
    for number in range(3):
        data["relevant_docs"][f"q{number}"].append(spelled(f"c{number + 4}"))
    looked = prepare(write(tmp_path, data))
    hint = "3 of 3 ids that point nowhere would be known in another case, or without a final '.0'; spell them as"
    assert f"note: {hint}" in looked.output
    data["relevant_docs"] |= {f"q{number}": [f"c{number}", f"gone {number}"] for number in range(4, 7)}
    assert "would be known" not in prepare(write(tmp_path, data)).output  # of half of them it is chance, or a mixture


def test_rows_that_name_a_chunk_which_the_corpus_lacks_are_told_and_dropped(tmp_path):
    data = made_up(12)
    corpus = write(tmp_path, data["corpus"], "corpus.json")
    table = tmp_path / "table.jsonl"
    rows = [{"question": data["queries"][f"q{n}"], "good": data["corpus"][f"c{n}"]} for n in range(12)]
    rows[3]["good"] = "The first line.\nAnother of a chunk that is gone."
    table.write_text("\n".join(map(json.dumps, rows)))

    looked = prepare(table, "--corpus", corpus)
    assert looked.exit_code == 1, looked.output
    assert "judgments of a question or chunk that is not there: 1 (unknown-id); --fix drops" in looked.output
    assert f"The first line. Another of a chunk that is gone.: {rows[3]['question']}" in looked.output

    mended = prepare(table, "--corpus", corpus, "--fix", "--out", tmp_path / "out")
    assert mended.exit_code == 0, mended.output
    assert [change["change"] for change in changes(tmp_path / "out")] == ["drop judgment", "drop question"]


def test_few_validation_questions_are_told_of_a_better_split(tmp_path):
    source = write(tmp_path, made_up(60))
    told = prepare(source, "--out", tmp_path / "out").output
    assert "9 validation questions: so few hardly choose; with --split 60,0,40 embtune train, without --val" in told
    told = prepare(source, "--out", tmp_path / "again", "--split", "60,0,40").output
    assert "validation question" not in told
    assert not (tmp_path / "again" / "validation.json").exists()
