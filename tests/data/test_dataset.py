import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from docsgpt_embtune.cli import main
from docsgpt_embtune.data.dataset import load_corpus, load_dataset, query_digest, save_dataset
from docsgpt_embtune.errors import DatasetError

ARTICLE = {
    "queries": {"q1": "How long are logs kept?", "q2": "Who restarts a worker?"},
    "corpus": {
        "c1": "Logs are kept for a week.",
        "c2": "Workers restart themselves.",
        "c3": "Invoices can be cancelled.",
    },
    "relevant_docs": {"q1": ["c1", "c2"], "q2": ["c2", "c3"]},
}
EXPLICIT = {**ARTICLE, "relevant_docs": {"q1": ["c1"], "q2": ["c2", "c3"]}, "irrelevant_docs": {"q1": ["c2"]}}
LLAMAINDEX = {**ARTICLE, "relevant_docs": {"q1": ["c1"], "q2": ["c2"]}, "mode": "text"}


def changed(base: dict, **changes: object) -> str:
    return json.dumps({key: value for key, value in {**base, **changes}.items() if value is not None})


def write(tmp_path, content, name="data.json"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_articles_form_with_the_flag_that_settles_it(tmp_path):
    path = write(tmp_path, json.dumps(ARTICLE))
    dataset = load_dataset(path, relevant_docs="good-bad")
    assert dataset.relevant_docs == {"q1": ("c1",), "q2": ("c2",)}
    assert dataset.irrelevant_docs == {"q1": ("c2",), "q2": ("c3",)}
    assert load_dataset(path, relevant_docs="all-good").relevant_docs["q1"] == ("c1", "c2")


def test_ambiguous_file_is_refused_with_the_flag(tmp_path):
    with pytest.raises(DatasetError, match="--relevant-docs good-bad or --relevant-docs all-good"):
        load_dataset(write(tmp_path, json.dumps(ARTICLE)))


def test_one_pair_among_single_ids_is_ambiguous_too(tmp_path):
    mixed = changed(ARTICLE, relevant_docs={"q1": ["c1"], "q2": ["c2", "c3"]})
    with pytest.raises(DatasetError, match="could be"):
        load_dataset(write(tmp_path, mixed))


def test_three_ids_cannot_be_a_good_and_a_bad_one(tmp_path):
    three = changed(ARTICLE, relevant_docs={"q1": ["c1", "c2"], "q2": ["c1", "c2", "c3"]})
    dataset = load_dataset(write(tmp_path, three))
    assert dataset.relevant_docs["q1"] == ("c1", "c2")
    assert dataset.irrelevant_docs == {}


def test_explicit_form_needs_no_flag(tmp_path):
    dataset = load_dataset(write(tmp_path, json.dumps(EXPLICIT)))
    assert dataset.relevant_docs["q2"] == ("c2", "c3")
    assert dataset.irrelevant_docs == {"q1": ("c2",)}


def test_llamaindex_file_is_all_good(tmp_path):
    dataset = load_dataset(write(tmp_path, json.dumps(LLAMAINDEX)))
    assert dataset.qrels == {"q1": {"c1": 1}, "q2": {"c2": 1}}


@pytest.mark.parametrize("wrapped", [False, True])
def test_corpus_in_a_file_of_its_own(tmp_path, wrapped):
    corpus = {"corpus": ARTICLE["corpus"]} if wrapped else ARTICLE["corpus"]
    corpus_path = write(tmp_path, json.dumps(corpus), "corpus.json")
    path = write(tmp_path, changed(EXPLICIT, corpus=None))
    assert load_dataset(path, corpus=corpus_path).corpus == ARTICLE["corpus"]


def test_what_was_saved_is_read_again(tmp_path):
    dataset = load_dataset(write(tmp_path, json.dumps(EXPLICIT)))
    save_dataset(dataset, tmp_path / "again.json")
    save_dataset(dataset, tmp_path / "questions.json", corpus=tmp_path / "corpus.json")
    again = load_dataset(tmp_path / "again.json")
    apart = load_dataset(tmp_path / "questions.json", corpus=tmp_path / "corpus.json")
    assert again.fingerprint == apart.fingerprint == dataset.fingerprint


def test_fingerprint_sees_every_change_and_no_order(tmp_path):
    dataset = load_dataset(write(tmp_path, json.dumps(EXPLICIT)))
    turned = {key: dict(reversed(values.items())) for key, values in EXPLICIT.items()}
    assert load_dataset(write(tmp_path, json.dumps(turned))).fingerprint == dataset.fingerprint
    others = [
        replace(dataset, queries={**dataset.queries, "q1": "How long?"}),
        replace(dataset, corpus={**dataset.corpus, "c3": "Invoices cannot be cancelled."}),
        replace(dataset, relevant_docs={**dataset.relevant_docs, "q2": ("c2",)}),
        replace(dataset, irrelevant_docs={"q1": ("c3",)}),
    ]
    assert len({each.fingerprint for each in (dataset, *others)}) == 5


def test_every_good_chunk_is_judged_relevant(tmp_path):
    assert load_dataset(write(tmp_path, json.dumps(EXPLICIT))).qrels == {"q1": {"c1": 1}, "q2": {"c2": 1, "c3": 1}}


OF_QUESTIONS = ("queries", "relevant_docs", "irrelevant_docs", "dates")


def test_part_of_the_questions_keeps_what_is_known_of_these_alone(tmp_path):
    dates = {"q1": "2026-01-01", "q2": "2026-02-01"}
    dataset = replace(load_dataset(write(tmp_path, json.dumps(EXPLICIT))), dates=dates)
    first, second = dataset.subset(["q1"]), dataset.subset(["q2"])
    assert (first.relevant_docs, first.irrelevant_docs) == ({"q1": ("c1",)}, {"q1": ("c2",)})
    assert (second.relevant_docs, second.irrelevant_docs) == ({"q2": ("c2", "c3")}, {})
    assert (first.dates, second.dates) == ({"q1": "2026-01-01"}, {"q2": "2026-02-01"})
    assert replace(dataset, **{name: getattr(first, name) for name in OF_QUESTIONS}) == first  # and the rest stays


def test_text_that_is_good_under_one_id_and_bad_under_another_is_refused(tmp_path):
    corpus = {**EXPLICIT["corpus"], "c2": EXPLICIT["corpus"]["c1"]}
    with pytest.raises(DatasetError, match="the same text is both good and bad, under two ids, for: 'q1'"):
        load_dataset(write(tmp_path, changed(EXPLICIT, corpus=corpus)))


def test_chunk_file_with_a_blank_chunk_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"corpus: text is empty: 'c2' \(first of 1, of 2\)"):
        load_corpus(write(tmp_path, json.dumps({"c1": "Logs", "c2": " "})))


MALFORMED = {
    "empty file": b"",
    "not JSON": b"queries: none",
    "cut in the middle": json.dumps(EXPLICIT).encode()[:-40],
    "not UTF-8": json.dumps(EXPLICIT).encode().replace(b"week", b"w\xe9\xe9k"),
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "nested without end": b"[" * 100_000,
    "duplicate top key": b'{"queries": {}, "queries": {}}',
    "duplicate question id": changed(EXPLICIT).replace('"q2": "Who', '"q1": "Who').encode(),
    "duplicate chunk id": changed(EXPLICIT).replace('"c2": "Work', '"c1": "Work').encode(),
    "no queries": changed(EXPLICIT, queries=None),
    "no corpus": changed(EXPLICIT, corpus=None),
    "no relevant_docs": changed(EXPLICIT, relevant_docs=None),
    "queries a list": changed(EXPLICIT, queries=["How long?"]),
    "corpus a list": changed(EXPLICIT, corpus=["Logs"]),
    "relevant_docs a list": changed(EXPLICIT, relevant_docs=["c1"]),
    "irrelevant_docs a string": changed(EXPLICIT, irrelevant_docs="c1"),
    "queries empty": changed(EXPLICIT, queries={}),
    "corpus empty": changed(EXPLICIT, corpus={}),
    "question not text": changed(EXPLICIT, queries={"q1": 7, "q2": "Who?"}),
    "chunk not text": changed(EXPLICIT, corpus={**ARTICLE["corpus"], "c3": ["Invoices"]}),
    "question empty": changed(EXPLICIT, queries={"q1": "", "q2": "Who?"}),
    "chunk blank": changed(EXPLICIT, corpus={**ARTICLE["corpus"], "c3": " \n\t"}),
    "ids a string": changed(EXPLICIT, relevant_docs={"q1": "c1", "q2": ["c2"]}),
    "id a number": changed(EXPLICIT, relevant_docs={"q1": [1], "q2": ["c2"]}),
    "id twice": changed(EXPLICIT, relevant_docs={"q1": ["c1", "c1"], "q2": ["c2"]}),
    "good id points nowhere": changed(EXPLICIT, relevant_docs={"q1": ["c9"], "q2": ["c2"]}),
    "bad id points nowhere": changed(EXPLICIT, irrelevant_docs={"q1": ["c9"]}),
    "judgment of an unknown question": changed(EXPLICIT, irrelevant_docs={"q9": ["c1"]}),
    "question without judgment": changed(EXPLICIT, relevant_docs={"q1": ["c1"]}),
    "question without a good chunk": changed(EXPLICIT, relevant_docs={"q1": ["c1"], "q2": []}),
    "chunk both good and bad": changed(EXPLICIT, irrelevant_docs={"q1": ["c1"]}),
    "same text good and bad": changed(EXPLICIT, corpus={**ARTICLE["corpus"], "c2": ARTICLE["corpus"]["c1"]}),
    "ambiguous": json.dumps(ARTICLE),
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_file_is_refused_in_one_line_and_nothing_is_written(tmp_path, content):
    path = write(tmp_path, content)
    before = sorted(tmp_path.iterdir())
    result = CliRunner().invoke(main, ["train", "--train", str(path), "--out", str(tmp_path / "models" / "tuned")])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert str(path) in result.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_missing_file_and_folder_are_refused(tmp_path):
    for path in (tmp_path / "missing.json", tmp_path):
        result = CliRunner().invoke(main, ["train", "--train", str(path), "--out", str(tmp_path / "out")])
        assert result.exit_code == 2
        assert "cannot be read" in result.stderr


def test_error_names_the_first_offender_and_counts_the_rest(tmp_path):
    corpus = {"c1": "Logs", "c2": "", "c3": " "}
    with pytest.raises(DatasetError, match=r"corpus: text is empty: 'c2' \(first of 2, of 3\)"):
        load_dataset(write(tmp_path, changed(EXPLICIT, corpus=corpus)))


def test_more_than_a_good_and_a_bad_one_contradicts_the_flag(tmp_path):
    three = changed(ARTICLE, relevant_docs={"q1": ["c1", "c2", "c3"], "q2": ["c2"]})
    with pytest.raises(DatasetError, match=r"more than \[good, bad\]: 'q1'"):
        load_dataset(write(tmp_path, three), relevant_docs="good-bad")


def test_corpus_given_twice_is_refused_unless_the_one_holds_the_other(tmp_path):
    path = write(tmp_path, json.dumps(EXPLICIT))
    carried = load_dataset(path)
    larger = {**EXPLICIT["corpus"], "more": "A chunk that nobody asks about."}
    corpus_path = write(tmp_path, json.dumps(larger), "corpus.json")
    both = load_dataset(path, corpus=corpus_path)
    assert (both.corpus, both.relevant_docs) == (larger, carried.relevant_docs)
    first = next(iter(larger))
    write(tmp_path, json.dumps({**larger, first: "Another text."}), "corpus.json")
    with pytest.raises(DatasetError, match=f"carries other chunks than .*corpus.json; leave out --corpus.*'{first}'"):
        load_dataset(path, corpus=corpus_path)


def test_first_chunk_of_a_text_is_judged_for_all_of_it(tmp_path):
    content = {
        "queries": {"q1": "one?", "q2": "two?", "q3": "three?"},
        "corpus": {"a": "first", "b": "second", "copy of a": "first", "copy of b": "second"},
        "relevant_docs": {"q1": ["a"], "q2": ["copy of a"], "q3": ["b", "copy of b"]},
        "irrelevant_docs": {"q1": ["copy of b"]},
    }
    dataset = load_dataset(write(tmp_path, json.dumps(content)))
    assert dataset.relevant_docs == {"q1": ("a",), "q2": ("a",), "q3": ("b",)}
    assert dataset.irrelevant_docs == {"q1": ("b",)}
    assert dataset.corpus.keys() == content["corpus"].keys()  # what is searched


def test_digest_is_the_same_for_all_ways_to_write_a_question():
    assert query_digest("Wie läuft die Prüfung?") == "7c45ae5ab31a596e"  # as folders hold it
    assert query_digest("  wie la\u0308uft\tdie PRU\u0308FUNG? ") == "7c45ae5ab31a596e"
