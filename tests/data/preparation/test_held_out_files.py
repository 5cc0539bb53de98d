"""Questions that a held-out file asks or answers, too."""

import pytest

from docsgpt_embtune.data.dataset import load_dataset
from docsgpt_embtune.data.formats.content import DatasetContent
from docsgpt_embtune.data.preparation.checks import CHECKS
from docsgpt_embtune.data.preparation.fault_check import CheckSettings, find_offenders
from docsgpt_embtune.data.preparation.finders import find_near_duplicates
from docsgpt_embtune.data.preparation.store import Store

from .made_up_data import changes, edited, made_up, prepare, sentence, write


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
    store.add_held_out(DatasetContent(**held_out, sources=("held_out.json",)))
    store.join()
    find_near_duplicates(store)
    find_offenders(store, next(check for check in CHECKS if check.name == name), CheckSettings())
    found = store.query("SELECT query_id, doc_id, other_id, text FROM offenders ORDER BY ALL")
    assert found == [(query_id, "c4", "a4", data["corpus"]["c4"]) for query_id in sorted(data["queries"])]


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
