"""What hangs together is on one side of the split, and the newest questions are tested."""

import json

import pytest

from docsgpt_embtune.data.dataset import load_dataset
from docsgpt_embtune.data.formats.content import text_id
from docsgpt_embtune.data.preparation import splitting

from .made_up_data import WORDS, edited, made_up, prepare, sentence, splits_of, write


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


def test_few_validation_questions_are_told_of_a_better_split(tmp_path):
    source = write(tmp_path, made_up(60))
    told = prepare(source, "--out", tmp_path / "out").output
    assert "9 validation questions: so few hardly choose; with --split 60,0,40 embtune train, without --val" in told
    told = prepare(source, "--out", tmp_path / "again", "--split", "60,0,40").output
    assert "validation question" not in told
    assert not (tmp_path / "again" / "validation.json").exists()
