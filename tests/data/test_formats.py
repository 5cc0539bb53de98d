import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
from click.testing import CliRunner

from docsgpt_embtune.cli import main
from docsgpt_embtune.cli import prepare as cli_prepare
from docsgpt_embtune.data.dataset import RetrievalDataset, checked, load_corpus, load_dataset
from docsgpt_embtune.data.formats.content import text_id
from docsgpt_embtune.data.formats.options import ReadOptions
from docsgpt_embtune.data.formats.registry import FORMATS, find_format, read_content
from docsgpt_embtune.data.formats.source import Source
from docsgpt_embtune.errors import DatasetError

LOGS, WORKERS, INVOICES = "Logs, kept\nfor a “week”.", "Workers; restart\tthemselves.", "Invoices can be 'cancelled'."
KEPT, RESTARTS = "How long are logs kept?", "Who restarts a worker,\n“exactly”?"
FILE_OF = {"jsonl": "d.jsonl", "csv": "d.csv", "excel": "d.xlsx", "parquet": "d.parquet", "flag-embedding": "d.jsonl"}
WITHOUT_BAD = {"llamaindex", "ragas", "autorag"}


def of_texts(good: dict[str, list[str]], bad: dict[str, list[str]] | None = None) -> RetrievalDataset:
    """A dataset whose ids are those that formats without ids give."""

    def judged(texts: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
        return {text_id(query): tuple(map(text_id, chunks)) for query, chunks in texts.items()}

    all_texts = [text for judgments in (good, bad or {}) for chunks in judgments.values() for text in chunks]
    return RetrievalDataset(
        {text_id(query): query for query in good},
        {text_id(text): text for text in all_texts},
        judged(good),
        judged(bad or {}),
    )


PAIRS = of_texts({KEPT: [LOGS], RESTARTS: [WORKERS]}, {KEPT: [WORKERS], RESTARTS: [INVOICES]})
SEVERAL = of_texts({KEPT: [LOGS, INVOICES], RESTARTS: [WORKERS]}, {KEPT: [WORKERS]})


def without_bad(dataset: RetrievalDataset) -> RetrievalDataset:
    return replace(dataset, irrelevant_docs={})


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_format_wrote_is_recognised_and_is_the_same_dataset(tmp_path, name):
    target = FORMATS[name]
    dataset = PAIRS if name == "article" else SEVERAL
    path = tmp_path / FILE_OF.get(name, "dataset")
    target.write(dataset, path)
    assert find_format(Source(path)) is target
    again = checked(read_content(path, target.reading_back))
    expected = without_bad(dataset) if name in WITHOUT_BAD else dataset
    assert again.fingerprint == expected.fingerprint
    target.write(again, tmp_path / "again" / path.name)
    assert checked(read_content(tmp_path / "again" / path.name, target.reading_back)).fingerprint == again.fingerprint


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("article", "llamaindex")])
def test_training_and_check_read_it_without_a_flag(tmp_path, name):
    path = tmp_path / FILE_OF.get(name, "dataset")
    FORMATS[name].write(SEVERAL, path)
    assert load_dataset(path).queries == SEVERAL.queries


def test_dates_and_documents_are_kept(tmp_path):
    dataset = replace(PAIRS, dates={text_id(KEPT): "2026-03-01"}, documents={text_id(LOGS): "handbook.md"})
    for name in ("explicit", "jsonl", "csv", "excel", "parquet", "hugging-face"):
        path = tmp_path / f"{name}{FILE_OF.get(name, '')}"
        FORMATS[name].write(dataset, path)
        again = read_content(path)
        assert (again.dates, again.documents) == (dataset.dates, dataset.documents), name


def write(tmp_path, name: str, *records: object) -> Path:
    path = tmp_path / name
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_content_decides_and_not_the_name(tmp_path):
    lines = {"query": KEPT, "pos": [LOGS], "neg": []}, {"query": RESTARTS, "pos": [WORKERS]}
    assert find_format(Source(write(tmp_path, "train.json", *lines))).name == "flag-embedding"
    assert find_format(Source(write(tmp_path, "train.txt", "question;good", "a;b"))).name == "csv"
    assert find_format(Source(write(tmp_path, "list.json", [{"anchor": KEPT, "positive": LOGS}]))).name == "jsonl"
    FORMATS["parquet"].write(SEVERAL, tmp_path / "no_suffix")
    assert find_format(Source(tmp_path / "no_suffix")).name == "parquet"


def test_single_line_of_jsonl_is_told_by_the_name(tmp_path):
    line = {"question": KEPT, "good": LOGS}
    assert len(load_dataset(write(tmp_path, "d.jsonl", line))) == 1
    with pytest.raises(DatasetError, match=r"if it is JSONL of a single line, let its name end in \.jsonl"):
        load_dataset(write(tmp_path, "d.txt", line))


def test_beir_with_titles_scores_and_several_splits(tmp_path):
    write(tmp_path, "corpus.jsonl", {"_id": "d1", "title": "Logs", "text": "kept"}, {"_id": "d2", "text": "Workers"})
    write(tmp_path, "queries.jsonl", {"_id": "q1", "text": KEPT}, {"_id": "q2", "text": RESTARTS})
    train = write(tmp_path, "qrels/train.tsv", "query-id\tcorpus-id\tscore", "q1\td1\t2", "q1\td2\t0")
    write(tmp_path, "qrels/test.tsv", "query-id\tcorpus-id\tscore", "q2\td2\t1")
    dataset = load_dataset(train)
    assert dataset.queries == {"q1": KEPT}
    assert dataset.corpus["d1"] == "Logs kept"
    assert (dataset.relevant_docs, dataset.irrelevant_docs) == ({"q1": ("d1",)}, {"q1": ("d2",)})
    with pytest.raises(DatasetError, match="name the file itself"):
        load_dataset(tmp_path)


def test_qrels_without_names_are_read_by_place_and_trecs_too(tmp_path):
    write(tmp_path, "corpus.jsonl", {"_id": "d1", "text": "kept"}, {"_id": "d2", "text": "Workers"})
    write(tmp_path, "queries.jsonl", {"_id": "q1", "text": KEPT})
    for lines in (("q1\td1\t2", "q1\td2\t0"), ("q1 0 d1  1", "", "q1 0 d2  0"), ("q1\tQ0\td1\t1", "q1\tQ0\td2\t-1")):
        qrels = write(tmp_path, "qrels/test.tsv", *lines)
        dataset = load_dataset(tmp_path)
        assert (dataset.relevant_docs, dataset.irrelevant_docs) == ({"q1": ("d1",)}, {"q1": ("d2",)})
    assert load_dataset(qrels).fingerprint == dataset.fingerprint
    for fault in ("q1\td1\thigh", "q1\td1", "topic\tchunk\tgrade"):
        write(tmp_path, "qrels/test.tsv", fault, "q1\td1\t1")
        with pytest.raises(DatasetError, match=r"and a whole number as the score: row 1 \(first of 1, of 2\)"):
            load_dataset(tmp_path)


def test_tevatrons_ids_with_a_corpus(tmp_path):
    rows = write(
        tmp_path,
        "train.jsonl",
        {"query_id": "q", "query_text": KEPT, "positive_document_ids": ["1"], "negative_document_ids": ["2"]},
    )
    corpus = write(
        tmp_path, "corpus.jsonl", {"docid": "1", "document_text": LOGS}, {"docid": "2", "document_text": WORKERS}
    )
    dataset = load_dataset(rows, corpus=corpus)
    assert (dataset.relevant_docs, dataset.irrelevant_docs) == ({"q": ("1",)}, {"q": ("2",)})
    with pytest.raises(DatasetError, match="give their file with --corpus"):
        load_dataset(rows)


def test_ragas_of_version_0_1_and_as_a_csv_of_python_lists(tmp_path):
    old = {"question": KEPT, "contexts": [LOGS], "ground_truth": "a week", "evolution_type": "simple"}
    assert load_dataset(write(tmp_path, "old.jsonl", old)).corpus == {text_id(LOGS): LOGS}
    sheet = write(tmp_path, "new.csv", "user_input,reference_contexts", "How?,\"['one', 'two, with a comma']\"")
    assert set(load_dataset(sheet).corpus.values()) == {"one", "two, with a comma"}


def test_list_that_pandas_wrote_into_a_cell_is_its_texts(tmp_path):
    texts = ["It's a week.", 'say "hi"', "two\nlines, of C:\\new", "A long one. " * 20]
    path = tmp_path / "d.csv"
    lists = [np.array([*texts, None], dtype=object), np.array(texts), [texts[0], None]]
    pandas.DataFrame({"question": ["a", "b", "c"], "good": lists}).to_csv(path, index=False)
    dataset = load_dataset(path)
    assert [[dataset.corpus[d] for d in ids] for ids in dataset.relevant_docs.values()] == [texts, texts, texts[:1]]


@pytest.mark.parametrize(
    ("cell", "texts"),
    [
        ("['a b' 'c d']", ["a b", "c d"]),
        ('["a", null]', ["a"]),
        ("['a', None, nan]", ["a"]),
        ("[ 'a' , 'b', ]", ["a", "b"]),
        ("['it''s']", ["['it''s']"]),
        ("['a', 1]", ["['a', 1]"]),
        ("['a' b]", ["['a' b]"]),
        (r"['\x']", [r"['\x']"]),
    ],
)
def test_what_stands_in_brackets_is_a_list_or_one_text(tmp_path, cell, texts):
    path = tmp_path / "d.csv"
    pandas.DataFrame({"question": ["a"], "good": [cell]}).to_csv(path, index=False)
    assert list(load_dataset(path).corpus.values()) == texts


def test_missing_item_of_a_list_is_left_out(tmp_path):
    path = tmp_path / "d.parquet"
    pandas.DataFrame({"question": [KEPT], "good": [[LOGS, None]]}).to_parquet(path)
    for each in (path, write(tmp_path, "d.jsonl", {"question": KEPT, "good": [LOGS, None]})):
        assert list(load_dataset(each).corpus.values()) == [LOGS]


def test_retrieved_contexts_are_not_judgments(tmp_path):
    answered = {"user_input": KEPT, "retrieved_contexts": [LOGS], "response": "a week"}
    with pytest.raises(DatasetError, match="not what should be found"):
        load_dataset(write(tmp_path, "run.jsonl", answered))


def test_scores_of_0_and_1_need_no_flag_others_do(tmp_path):
    plain = write(tmp_path, "plain.csv", "query,passage,label", f"{KEPT},Logs,1", f"{KEPT},Workers,0")
    dataset = load_dataset(plain)
    assert dataset.relevant_docs == {text_id(KEPT): (text_id("Logs"),)}
    assert dataset.irrelevant_docs == {text_id(KEPT): (text_id("Workers"),)}
    graded = write(tmp_path, "graded.csv", "query,passage,score", f"{KEPT},Logs,0.9", f"{KEPT},Workers,0.3")
    with pytest.raises(DatasetError, match=r"--good-score X .*: row 1 \('0\.9'\) \(first of 2, of 2\)"):
        load_dataset(graded)
    assert read_content(graded, ReadOptions(good_score=0.5)).irrelevant_docs == dataset.irrelevant_docs


@pytest.mark.parametrize(
    ("yes", "no"),
    [("True", "False"), ("good", "bad"), ("Relevant", "irrelevant"), ("relevant", "Not relevant"), ("yes", "no ")],
)
def test_words_are_scores(tmp_path, yes, no):
    rows = write(tmp_path, "d.csv", "query,passage,score", f"{KEPT},Logs,{yes}", f"{KEPT},Workers,{no}")
    for options in (ReadOptions(), ReadOptions(good_score=3)):
        content = read_content(rows, options)
        assert content.relevant_docs == {text_id(KEPT): (text_id("Logs"),)}
        assert content.irrelevant_docs == {text_id(KEPT): (text_id("Workers"),)}


def test_booleans_are_scores(tmp_path):
    frame = pandas.DataFrame({"question": [KEPT] * 2, "good": ["Logs", "Workers"], "score": [True, False]})
    frame.to_excel(tmp_path / "d.xlsx", index=False)
    frame.to_parquet(tmp_path / "d.parquet")
    for name in ("d.xlsx", "d.parquet"):
        assert load_dataset(tmp_path / name).irrelevant_docs == {text_id(KEPT): (text_id("Workers"),)}


def test_columns_that_do_not_tell_their_role_are_refused_with_the_flag(tmp_path):
    faq = write(tmp_path, "faq.csv", "question,answer", f"{KEPT},Logs")
    with pytest.raises(DatasetError, match=r"which column is the good one; .* say it with --columns"):
        load_dataset(faq)
    assert read_content(faq, ReadOptions(columns={"good": "answer"})).corpus == {text_id("Logs"): "Logs"}
    with pytest.raises(DatasetError, match="has no column 'reply'"):
        read_content(faq, ReadOptions(columns={"good": "reply"}))
    both = write(tmp_path, "both.csv", "question,query,good", "a,b,c")
    with pytest.raises(DatasetError, match="which column is the question one"):
        load_dataset(both)


def test_numbered_columns_hold_several_chunks(tmp_path):
    names = "question,positive,positive_2,positive_3,negative,negative_2"
    dataset = load_dataset(write(tmp_path, "d.csv", names, "a,b,c,,d,e"))
    assert [list(dataset.corpus[d] for d in ids) for ids in dataset.relevant_docs.values()] == [["b", "c"]]
    assert [list(dataset.corpus[d] for d in ids) for ids in dataset.irrelevant_docs.values()] == [["d", "e"]]
    with pytest.raises(DatasetError, match="which column is the good one"):
        load_dataset(write(tmp_path, "both.csv", "question,good,positive_2", "a,b,c"))


def test_two_formats_at_once_are_refused_with_the_flag(tmp_path):
    both = {"query": KEPT, "pos": [LOGS], "positive_passages": [{"docid": "1", "text": LOGS}]}
    path = write(tmp_path, "both.jsonl", both)
    with pytest.raises(DatasetError, match="could be flag-embedding or tevatron; say which with --from flag-embedding"):
        load_dataset(path)
    assert read_content(path, name="tevatron").corpus == {"1": LOGS}


def test_rows_of_one_question_are_joined_and_a_corpus_lends_its_ids(tmp_path):
    table = write(tmp_path, "t.tsv", "question\tgood", f"{KEPT}\tLogs", f"{KEPT}\tWorkers")
    corpus = write(tmp_path, "corpus.json", {"a": "Logs", "b": "Workers", "c": "Invoices"})
    dataset = load_dataset(table, corpus=corpus)
    assert dataset.relevant_docs == {text_id(KEPT): ("a", "b")}
    assert len(dataset.corpus) == 3
    other = write(tmp_path, "other.json", {"a": "Logs"})
    with pytest.raises(
        DatasetError, match=r"other.json does not have, by text or id .*: 'Workers' \(first of 1, of 2\)"
    ):
        load_dataset(table, corpus=other)


def test_ids_that_a_spreadsheet_or_json_made_numbers_of_name_their_chunks(tmp_path):
    corpus = write(
        tmp_path, "corpus.jsonl", *(json.dumps({"id": n, "text": text}) for n, text in ((7, LOGS), (8, WORKERS)))
    )
    sheet = tmp_path / "d.xlsx"
    pandas.DataFrame({"question": [KEPT, RESTARTS, "When?"], "good": [7, 8, 8], "bad": [8, None, 7]}).to_excel(sheet)
    lines = [{"question": KEPT, "good": 7, "bad": [8]}, {"question": RESTARTS, "good": [8.0]}]
    written_by_pandas = tmp_path / "d.csv"
    pandas.read_excel(sheet).to_csv(written_by_pandas)
    assert "8.0" in written_by_pandas.read_text()
    for path in (sheet, written_by_pandas, write(tmp_path, "d.jsonl", *map(json.dumps, lines))):
        dataset = load_dataset(path, corpus=corpus)
        assert dataset.corpus == {"7": LOGS, "8": WORKERS}
        assert [dataset.relevant_docs[text_id(query)] for query in (KEPT, RESTARTS)] == [("7",), ("8",)]
        assert dataset.irrelevant_docs[text_id(KEPT)] == ("8",)


def test_ids_of_autorag_may_be_numbers(tmp_path):
    asked = {"qid": [1, 2], "query": [KEPT, RESTARTS], "retrieval_gt": [[[7]], [[8, 9]]]}
    pandas.DataFrame(asked).to_parquet(tmp_path / "qa.parquet")
    chunks = {"doc_id": [7.0, 8.0, 9.0], "contents": [LOGS, WORKERS, INVOICES], "path": ["a.md", "b.md", None]}
    pandas.DataFrame(chunks).to_parquet(tmp_path / "corpus.parquet")
    dataset = load_dataset(tmp_path)
    assert (dataset.queries, dataset.relevant_docs) == ({"1": KEPT, "2": RESTARTS}, {"1": ("7",), "2": ("8", "9")})
    assert dataset.documents == {"7": "a.md", "8": "b.md"}


def test_columns_of_a_chunk_file_may_be_in_capitals(tmp_path):
    assert load_corpus(write(tmp_path, "c.csv", "ID,Title,Text ", "7,Logs,kept")) == {"7": "Logs kept"}
    assert load_corpus(write(tmp_path, "two.csv", "ID,id,TEXT", "7,8,kept")) == {"8": "kept"}
    with pytest.raises(DatasetError, match=r"has no column _id or doc_id or docid or id \(it has \['Name', 'Text'\]\)"):
        load_corpus(write(tmp_path, "d.csv", "Name,Text", "7,kept"))


def test_chunk_file_whose_column_is_no_text_says_which(tmp_path):
    lines = [{"id": 1.5, "text": LOGS}, {"id": 2, "text": 3}]
    with pytest.raises(DatasetError, match="id: text is not a string"):
        load_corpus(write(tmp_path, "corpus.jsonl", *map(json.dumps, lines)))
    with pytest.raises(DatasetError, match="text: text is not a string"):
        load_corpus(write(tmp_path, "corpus.jsonl", json.dumps(lines[1])))
    questions = {"queries": {"q": KEPT}, "relevant_docs": {"q": ["c"]}}
    with pytest.raises(DatasetError, match="holds questions and no chunks; give the file that has the chunks"):
        load_corpus(write(tmp_path, "train.json", json.dumps(questions)))


MALFORMED = {
    "line that is no JSON": ("d.jsonl", '{"query": "a", "pos": ["b"]}\n{"query": "a", "pos"'),
    "line that is a list": ("d.jsonl", '{"query": "a", "pos": ["b"]}\n[]'),
    "number as a question": ("d.jsonl", '{"query": 7, "pos": ["b"]}'),
    "number among the chunks": ("d.jsonl", '{"query": "a", "pos": ["b", 7]}'),
    "object as chunks": ("d.jsonl", '{"query": "a", "pos": {"b": 1}}'),
    "half a character": ("d.jsonl", '{"query": "\\ud800", "pos": ["b"]}'),
    "half a character in an id": ("d.json", '{"queries": {"\\ud800": "a"}, "corpus": {"c": "b"}, "relevant_docs": {}}'),
    "number without end": ("d.json", '{"queries": ' + "1" * 5000 + "}"),
    "passages without text": ("d.jsonl", '{"query": "a", "positive_passages": [{"docid": "1"}]}'),
    "one id, two texts": (
        "d.jsonl",
        '{"query": "a", "positive_passages": [{"docid": "1", "text": "b"}, {"docid": "1", "text": "c"}]}',
    ),
    "ragged row": ("d.csv", "question,good\na,b\na,b,c"),
    "header alone": ("d.csv", "question,good\n"),
    "column twice": ("d.csv", "question,good,good\na,b,c"),
    "quote without end": ("d.csv", 'question,good\n"a,b\nc,d'),
    "quote without end in the last column": ("d.csv", 'question,good\na,"b\nc,d\ne,f\n'),
    "quote that a later row ends": ("d.tsv", 'question\tgood\na\t"b\nc\t"d"\ne\tf\n'),
    "key twice": ("d.jsonl", '{"question": "a", "good": ["b"], "bad": ["c"], "bad": ["d"]}'),
    "key twice in a passage": ("d.jsonl", '{"query": "a", "positive_passages": [{"text": "b", "text": "c"}]}'),
    "question without a chunk": ("d.csv", "question,good\na,"),
    "score in words": ("d.csv", "question,good,score\na,b,high"),
    "no columns": ("d.txt", "nothing"),
    "empty": ("d.csv", ""),
    "not UTF-8": ("d.csv", b"question,good\na,\xe9\xe9"),
    "damaged Parquet": ("d.parquet", b"PAR1 and no more"),
    "damaged Excel": ("d.xlsx", b"PK\x03\x04 and no more"),
}


@pytest.mark.parametrize(("name", "content"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_file_is_refused_in_one_line_and_nothing_is_written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    result = CliRunner().invoke(main, ["convert", str(path), str(tmp_path / "out.json"), "--to", "explicit"])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert str(path) in result.stderr
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_error_names_the_first_row_and_counts_the_rest(tmp_path):
    path = write(tmp_path, "d.jsonl", {"query": "a", "pos": ["b"]}, {"query": 1, "pos": ["b"]}, {"query": 2, "pos": []})
    with pytest.raises(DatasetError, match=r"query: text is not a string: row 2 \(first of 2, of 3\)"):
        load_dataset(path)


def test_article_form_has_no_place_for_several_good_chunks(tmp_path):
    with pytest.raises(DatasetError, match="holds one good and one bad chunk"):
        FORMATS["article"].write(SEVERAL, tmp_path / "d.json")


def test_convert_says_what_the_target_has_no_place_for(tmp_path):
    FORMATS["explicit"].write(SEVERAL, tmp_path / "in.json")
    result = CliRunner().invoke(
        main, ["convert", str(tmp_path / "in.json"), str(tmp_path / "out.json"), "--to", "llamaindex"]
    )
    assert result.exit_code == 0, result.output
    assert "3 good and 1 bad judgments" in result.output
    assert "3 good and 0 bad judgments" in result.output
    assert "llamaindex has no place for: 1 bad judgment\n" in result.output
    assert load_dataset(tmp_path / "out.json", relevant_docs="all-good").queries == SEVERAL.queries


def test_unknown_column_role_is_a_usage_error():
    result = CliRunner().invoke(main, ["convert", "a", "b", "--to", "csv", "--columns", "nice=x"])
    assert result.exit_code == 2
    assert "'nice'" in result.output


def test_hub_that_gives_nothing_is_one_line(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DatasetError, match="the hub gave nothing"):
        read_content(Path("hub:nobody/nothing"))


def test_commands_offer_every_format():
    assert set(cli_prepare.FORMATS) == set(FORMATS)
