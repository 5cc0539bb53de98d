"""Faults are found, mended and gone, and what cannot be mended is said."""

import json

import pytest

from docsgpt_embtune.data.dataset import load_dataset
from docsgpt_embtune.data.preparation.checks import CHECKS

from .made_up_data import changes, made_up, prepare, write
from .planted_faults import (
    FOR_A_PERSON,
    OF_HELD_OUT_FILES,
    PLANTS,
    plant_duplicate_chunk,
    plant_good_and_bad,
    plant_two_chunks_answer,
)


def test_every_check_is_planted_here():
    assert set(PLANTS) | OF_HELD_OUT_FILES == {check.name for check in CHECKS}


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


def test_something_serious_keeps_the_files_from_being_written(tmp_path):
    data = made_up(40)
    plant_good_and_bad(data)
    result = prepare(write(tmp_path, data), "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "SERIOUS" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]


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


def test_sign_and_what_chooses_its_picture_are_no_word(tmp_path):
    data = made_up(40)
    data["queries"]["q3"] = "\u2764\ufe0f"
    assert "questions without a word: 1 (" in prepare(write(tmp_path, data)).output


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
