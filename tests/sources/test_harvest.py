"""From rated answers to candidates, to a person, and to a dataset."""

import csv
import dataclasses
import io
import json
import stat
from collections import Counter

import pytest
from click.testing import CliRunner

from docsgpt_embtune.cli import main
from docsgpt_embtune.data.dataset import load_corpus, load_dataset
from docsgpt_embtune.errors import DatasetError
from docsgpt_embtune.sources.candidates import Candidate, ChunksByText, find_candidates
from docsgpt_embtune.sources.chunks import Chunk, save_chunks
from docsgpt_embtune.sources.conversations import RatedAnswer
from docsgpt_embtune.sources.review import carry_over, dataset_from_candidates, read_review, write_review

from ..conftest import TEXTS
from .conftest import Turn, add_conversation, stored_sources

CORPUS = {f"c{number}": text for number, text in enumerate(TEXTS)}
QUESTION = "How long are logs kept?"


def answer(question=QUESTION, shown=TEXTS[:2], *, liked=True, first=True, day="2026-03-01"):
    return RatedAnswer(question, tuple(shown), liked, first, day)


def candidates(*answers, suggested=0):
    return find_candidates(answers, CORPUS, mask=str, suggested=suggested).candidates


def weights(*answers):
    return {candidate.doc_id: candidate.weight for candidate in candidates(*answers)}


def test_a_like_speaks_most_for_the_first_chunk_and_less_after_a_first_turn():
    assert weights(answer()) == {"c0": 0.5, "c1": 0.25}
    assert weights(answer(first=False)) == {"c0": 0.25, "c1": 0.125}


def test_the_same_question_adds_up_and_a_dislike_takes_back():
    assert weights(answer(), answer("how long are  logs kept?")) == {"c0": 0.9, "c1": 0.5}
    assert weights(answer(), answer(liked=False)) == {"c0": 0.0, "c1": 0.0}
    assert weights(answer(liked=False)) == {"c0": 0.0, "c1": 0.0}


def test_search_adds_the_chunk_that_was_not_shown():
    found = candidates(answer(shown=TEXTS[3:4], liked=False), suggested=1)
    assert [(candidate.doc_id, candidate.why) for candidate in found] == [
        ("c3", "shown with 0 liked and 1 disliked answers"),
        ("c0", "found by search"),
    ]


def test_questions_are_masked_before_anything_else_sees_them():
    harvest = find_candidates([answer("mail ann@example.com")], CORPUS, mask=lambda text: text.replace("ann", "x"))
    assert {candidate.question for candidate in harvest.candidates} == {"mail x@example.com"}


@pytest.mark.parametrize("blank", ["", "  ", "\n\t"])
def test_a_question_without_text_is_none(blank):
    harvest = find_candidates([answer(blank), answer()], CORPUS, mask=str, suggested=1)
    assert (harvest.answers, harvest.questions, harvest.sources) == (1, 1, 2)
    assert {candidate.question for candidate in harvest.candidates} == {QUESTION}


def test_stored_sources_find_their_chunks():
    long = "word " * 300
    chunks = ChunksByText({"long": long, "short": "word word", "twin": "word  word", "other": "x"})
    assert chunks.find(long[:1000]) == ["long"]
    assert chunks.find("word\nword") == ["short", "twin"]
    assert chunks.find("word") == []
    harvest = find_candidates([answer(shown=[TEXTS[0], "of a source that was deleted"])], CORPUS, mask=str)
    assert (harvest.sources, harvest.unknown_sources) == (2, 1)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_review_files_survive_the_round_trip(tmp_path, suffix):
    awkward = ['=HYPERLINK("x")', "'quoted", '-1; two\nlines\u2028, "and" more', "Größe?", "x" * 200_000]
    written = [Candidate(f"q{n}", text, "c0", TEXTS[0], 0.25, "why", "2026-03-01") for n, text in enumerate(awkward)]
    path = tmp_path / f"review{suffix}"
    write_review(written, path)
    assert read_review(path) == written
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_spreadsheet_never_sees_a_formula(tmp_path):
    texts = ["=1+1", "@x", "+1", "-1", "\t=1", "\r=1"]
    write_review([Candidate("q", text, "c0", text, 0.5, "why", "") for text in texts], tmp_path / "review.csv")
    table = io.StringIO((tmp_path / "review.csv").read_bytes().decode("utf-8-sig"), newline="")
    rows = [(row["question"], row["chunk"]) for row in csv.DictReader(table)]
    assert rows == [(f"'{text}", f"'{text}") for text in texts]


def test_a_table_saved_with_semicolons_is_read(tmp_path):
    path = tmp_path / "review.csv"
    path.write_text("verdict;question;query_id;doc_id\nGood;Long, is it?;q;c0\n", encoding="utf-8-sig")
    (found,) = read_review(path)
    assert (found.verdict, found.question, found.weight) == ("good", "Long, is it?", 0.0)


@pytest.mark.parametrize(("written", "weight"), [("0,25", 0.25), ("0.25", 0.25), ("", 0.0)])
def test_a_weight_may_have_the_comma_of_a_country(tmp_path, written, weight):
    path = tmp_path / "review.csv"
    path.write_text(f"verdict;question;query_id;doc_id;weight\n;Long?;q;c0;{written}\n")
    assert [row.weight for row in read_review(path)] == [weight]


def test_a_weight_that_is_not_used_is_not_refused(tmp_path):
    path = tmp_path / "review.csv"
    path.write_text("verdict,question,query_id,doc_id,weight\ngood,Long?,q,c0,much\n")
    assert [(row.verdict, row.weight) for row in read_review(path)] == [("good", 0.0)]


@pytest.mark.parametrize("declared", ["sep=|\n", '"sep=|"\r\n'])
def test_a_delimiter_that_the_first_line_declares_is_used(tmp_path, declared):
    path = tmp_path / "review.csv"
    path.write_text(f"{declared}verdict|question|query_id|doc_id\ngood|Long, is it; or not?|q|c0\n", newline="")
    assert [(row.verdict, row.question) for row in read_review(path)] == [("good", "Long, is it; or not?")]
    path.write_text(f"{declared}verdict|question|query_id|doc_id\nperhaps|a|q|c0\n", newline="")
    with pytest.raises(DatasetError, match="line 3: verdict 'perhaps'"):
        read_review(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("verdict,question,query_id,doc_id\nperhaps,a,q,c0\n", "line 2: verdict 'perhaps' is neither"),
        ("question,query_id,doc_id\na,q,c0\n", "no column 'verdict'"),
        ("", "no column"),
        ("verdict,question,query_id,doc_id,weight\n,a,q,c0,x\n", "line 2: weight 'x'"),
    ],
    ids=["verdict", "column", "empty", "weight"],
)
def test_review_files_that_cannot_be_used_are_named(tmp_path, content, message):
    path = tmp_path / "review.csv"
    path.write_text(content)
    with pytest.raises(DatasetError, match=message):
        read_review(path)


def judged(**verdicts):
    rows = candidates(answer(), answer("Who restarts a worker?", TEXTS[1:2]))
    return [dataclasses.replace(row, verdict=verdicts.get(row.doc_id, "")) for row in rows if row.question == QUESTION]


def test_what_a_person_wrote_outlives_another_harvest():
    first, second = candidates(answer())
    added = dataclasses.replace(first, doc_id="c3", verdict="good")
    earlier = [dataclasses.replace(first, verdict="good", weight=0.1), dataclasses.replace(second, question="Mended?")]
    kept = carry_over([*earlier, added, *candidates(answer("Not judged?"))], [second, first])
    assert kept == [earlier[1], dataclasses.replace(first, verdict="good"), added]
    both = [dataclasses.replace(first, verdict=verdict) for verdict in ("good", "bad")]
    assert carry_over(both, [first]) == both


def test_half_a_character_is_harvested_as_it_is_embedded(tmp_path):
    half = "Logs are kept \ud83d for a week."
    save_chunks([Chunk("c0", half, "\ud83d.md")], tmp_path / "corpus.json", document_of=tmp_path / "documents.json")
    assert load_corpus(tmp_path / "corpus.json") == {"c0": "Logs are kept ? for a week."}
    export = [{"queries": [{"prompt": "How \ud83d long?", "feedback": "LIKE", "sources": stored_sources([half])}]}]
    (tmp_path / "export.json").write_text(json.dumps([*export, {"question": "And \ud83d?", "feedback": "LIKE"}]))
    arguments = ["--corpus", tmp_path / "corpus.json", "--mongo-export", tmp_path / "export.json"]
    arguments += ["--review", tmp_path / "review.csv", "--yes", "--suggest", "0"]
    result = CliRunner().invoke(main, ["harvest", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert "2 rated answers" in result.output
    (found,) = read_review(tmp_path / "review.csv")
    assert (found.question, found.doc_id) == ("How ? long?", "c0")


def test_command_says_how_many_answers_overlapping_exports_repeat(tmp_path):
    corpus, export = tmp_path / "corpus.json", tmp_path / "export.json"
    corpus.write_text(json.dumps(CORPUS))
    asked = {"prompt": QUESTION, "feedback": "LIKE", "sources": stored_sources(TEXTS[:1])}
    export.write_text(json.dumps([{"_id": {"$oid": "65a"}, "queries": [asked]}]))

    def harvest(*exports):
        named = [argument for path in exports for argument in ("--mongo-export", str(path))]
        out = ["--out", str(tmp_path / "train.json"), "--accept-unreviewed", "--min-weight", "0.8", "--yes"]
        return CliRunner().invoke(main, ["harvest", "--corpus", str(corpus), *named, *out])

    assert "overlap" not in harvest(export).output
    twice = harvest(export, export)
    assert twice.exit_code == 2, "the same thumb, read twice, must not pass for two"
    assert "exports overlap: 1 rated answer left out that had been read already" in twice.output
    assert "1 rated answer to 1 question;" in twice.output


def test_command_keeps_the_verdicts_of_a_review_that_is_there(tmp_path):
    corpus, review, export = (tmp_path / name for name in ("corpus.json", "review.csv", "export.json"))
    corpus.write_text(json.dumps(CORPUS))
    arguments = ["harvest", "--corpus", str(corpus), "--mongo-export", str(export), "--review", str(review), "--yes"]

    def harvest(*questions):
        asked = [{"prompt": text, "feedback": "LIKE", "sources": stored_sources(TEXTS[:1])} for text in questions]
        export.write_text(json.dumps([{"queries": asked}]))
        return CliRunner().invoke(main, arguments)

    harvest(QUESTION, "Who restarts a worker?")
    write_review([dataclasses.replace(row, verdict="bad") for row in read_review(review)], review)
    result = harvest(QUESTION, "What is new?")
    assert result.exit_code == 0, result.output
    judged = Counter((row.question, row.verdict) for row in read_review(review))
    assert set(judged) == {(QUESTION, "bad"), ("Who restarts a worker?", "bad"), ("What is new?", "")}
    assert (
        f"judged before, and kept: {judged[QUESTION, 'bad'] + judged['Who restarts a worker?', 'bad']})"
        in result.output
    )

    review.write_text("notes of something else\n")
    assert harvest(QUESTION).exit_code == 2
    assert review.read_text() == "notes of something else\n"


@pytest.mark.parametrize(("declared", "delimiter"), [("", ","), ("", ";"), ("sep=|\n", "|")])
def test_columns_of_the_reviewers_own_outlive_another_harvest(tmp_path, declared, delimiter):
    corpus, review, export = (tmp_path / name for name in ("corpus.json", "review.csv", "export.json"))
    corpus.write_text(json.dumps(CORPUS))
    asked = {"prompt": QUESTION, "feedback": "LIKE", "sources": stored_sources(TEXTS[:2])}
    export.write_text(json.dumps([{"queries": [asked]}]))
    arguments = ["--corpus", corpus, "--mongo-export", export, "--review", review, "--yes", "--suggest", "0"]
    harvest = ["harvest", *map(str, arguments)]
    assert CliRunner().invoke(main, harvest).exit_code == 0
    judged, commented = csv.DictReader(review.read_text(encoding="utf-8-sig").splitlines())
    written = [
        judged | {"verdict": "good", "who": "=Ann", "why so": ""},
        commented | {"who": "", "why so": "'Ask; Bo'"},
    ]
    table = io.StringIO()
    writer = csv.DictWriter(table, written[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(written)
    review.write_text(declared + table.getvalue(), encoding="utf-8-sig", newline="")
    assert CliRunner().invoke(main, harvest).exit_code == 0
    text = review.read_text(encoding="utf-8-sig")
    assert text.startswith(declared)
    assert list(csv.DictReader(text.removeprefix(declared).splitlines(), delimiter=delimiter)) == written


def test_own_fields_of_a_script_keep_their_kind(tmp_path):
    row = dataclasses.replace(candidates(answer())[0], verdict="good", own={"sure": 0.5, "seen": ["Ann"]})
    write_review([row], tmp_path / "review.jsonl")
    assert carry_over(read_review(tmp_path / "review.jsonl"), candidates(answer()))[0] == row


def test_nothing_that_nobody_judged_becomes_a_dataset():
    rows = candidates(answer())
    with pytest.raises(DatasetError, match=r"none of 1 questions has a good chunk.*--accept-unreviewed"):
        dataset_from_candidates(rows, CORPUS)
    made = dataset_from_candidates(rows, CORPUS, accept_unreviewed=True)
    assert (made.reviewed, made.unreviewed) == (0, 1)
    assert list(made.dataset.dates.values()) == ["2026-03-01"]
    assert list(made.dataset.relevant_docs.values()) == [("c0",)]
    assert made.dataset.irrelevant_docs == {}


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("2024-01-15", "2024-01-15"),
        ("2024-01-15T10:00:00+00:00", "2024-01-15"),
        ("1/15/2024", None),
        ("15.01.2024", None),
        ("2024-13-01", None),
    ],
)
def test_dates_that_a_spreadsheet_rewrote_are_left_out_and_counted(tmp_path, written, kept):
    corpus, review, out = tmp_path / "corpus.json", tmp_path / "review.csv", tmp_path / "train.json"
    corpus.write_text(json.dumps(CORPUS))
    write_review([dataclasses.replace(row, asked_on=written) for row in judged(c0="good")], review)
    arguments = ["--reviewed", review, "--corpus", corpus, "--out", out]
    result = CliRunner().invoke(main, ["harvest", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert list(load_dataset(out).dates.values()) == ([kept] if kept else [])
    assert ("dates left out of 1 question:" in result.output) == (kept is None)


def test_a_verdict_outweighs_every_thumb():
    made = dataset_from_candidates(judged(c0="bad", c1="good"), CORPUS, accept_unreviewed=True)
    (query_id,) = made.dataset.queries
    assert (made.dataset.relevant_docs[query_id], made.dataset.irrelevant_docs[query_id]) == (("c1",), ("c0",))
    assert (made.reviewed, made.unreviewed) == (1, 0)


def test_verdicts_that_contradict_or_point_nowhere_are_refused():
    rows = judged(c0="good")
    with pytest.raises(DatasetError, match="'c0' is marked both good and bad"):
        dataset_from_candidates([*rows, dataclasses.replace(rows[0], verdict="bad")], CORPUS)
    with pytest.raises(DatasetError, match=r"'c9' of question .* is not in the corpus"):
        dataset_from_candidates([*rows, dataclasses.replace(rows[0], doc_id="c9", verdict="bad")], CORPUS)


def test_verdicts_on_copies_of_a_chunk_that_contradict_are_refused():
    rows = judged(c0="good")
    corpus = {**CORPUS, "copy": CORPUS["c0"]}
    with pytest.raises(DatasetError, match=r"'copy' is marked both good \(as 'c0', which has the same text\) and bad"):
        dataset_from_candidates([*rows, dataclasses.replace(rows[0], doc_id="copy", verdict="bad")], corpus)


def test_a_row_for_a_question_that_stands_nowhere_is_refused():
    added = dataclasses.replace(judged(c0="good")[0], query_id="asked-new", question=" ")
    with pytest.raises(DatasetError, match="query_id 'asked-new' has no question in any of its rows"):
        dataset_from_candidates([*judged(c0="good"), added], CORPUS)


@pytest.mark.parametrize("mended_row", [0, 1])
def test_a_question_may_be_mended_in_any_of_its_rows(mended_row):
    rows = judged(c0="good", c1="bad")
    rows[mended_row] = dataclasses.replace(rows[mended_row], question="For how many days are logs kept?")
    made = dataset_from_candidates(rows, CORPUS)
    assert list(made.dataset.queries.values()) == ["For how many days are logs kept?"]


def test_a_question_mended_in_two_ways_is_refused():
    rows = [dataclasses.replace(row, question=f"Kept {row.doc_id}?") for row in judged(c0="good", c1="bad")]
    with pytest.raises(DatasetError, match=r"rows with different questions, 'Kept c0\?' and 'Kept c1\?'"):
        dataset_from_candidates(rows, CORPUS)


def test_a_country_without_phone_numbers_is_refused_before_anything_is_asked(tmp_path):
    (tmp_path / "corpus.json").write_text('{"c": "text"}')
    arguments = ["--corpus", str(tmp_path / "corpus.json"), "--mongo-export", str(tmp_path / "nowhere.json")]
    result = CliRunner().invoke(
        main, ["harvest", *arguments, "--review", str(tmp_path / "r.csv"), "--phone-region", "UK"]
    )
    assert result.exit_code == 2
    assert result.output.startswith("error: phone region 'UK' is no country")


def test_command_from_postgresql_through_a_review_to_a_dataset(tmp_path, conversations_uri):
    add_conversation(conversations_uri, [Turn(f"{QUESTION} I am ann@example.com", TEXTS[:2], "like")])
    corpus, review, out = tmp_path / "corpus.json", tmp_path / "review.csv", tmp_path / "train.json"
    save_chunks([Chunk(doc_id, text, "guide.md") for doc_id, text in CORPUS.items()], corpus)

    def run(*arguments):
        return CliRunner().invoke(main, ["harvest", "--corpus", str(corpus), *map(str, arguments)])

    source = ["--postgres", conversations_uri]
    assert "write --review FILE" in run(*source, "--out", out, "--yes").output
    assert "write --review FILE" in run(*source, "--out", out, "--review", review, "--yes").output
    assert "names of people are not" in run(*source, "--review", review).output
    assert not review.exists()
    result = run(*source, "--review", review, "--yes")
    assert result.exit_code == 0, result.output
    text = review.read_text(encoding="utf-8-sig")
    assert "[email]" in text
    assert "ann@example.com" not in text
    assert "user-4711" not in text
    nobody_judged = run("--reviewed", review, "--out", out)
    assert nobody_judged.exit_code == 2
    assert not out.exists()

    rows = [dataclasses.replace(row, verdict="good" if row.doc_id == "c0" else "bad") for row in read_review(review)]
    write_review(rows, review)
    assert run("--reviewed", review, "--out", out).exit_code == 0
    (good,) = load_dataset(out).relevant_docs.values()
    assert good == ("c0",)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
