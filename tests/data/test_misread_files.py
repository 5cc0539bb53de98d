"""Files that could be read as something that they do not say: refused, or read whole."""

import gzip
import json
import re
import zipfile
from pathlib import Path

import openpyxl
import pandas
import pytest
from click.testing import CliRunner

from docsgpt_embtune.cli import main
from docsgpt_embtune.data.dataset import load_corpus, load_dataset
from docsgpt_embtune.data.formats.content import text_id
from docsgpt_embtune.data.formats.options import ReadOptions
from docsgpt_embtune.data.formats.registry import read_content
from docsgpt_embtune.errors import DatasetError
from docsgpt_embtune.sources.candidates import Candidate
from docsgpt_embtune.sources.review import write_review

BEFORE = [{"question": f"Question {number}?", "good": [f"Answer {number}."]} for number in range(120)]


def write(tmp_path: Path, name: str, content: str | list[dict]) -> Path:
    path = tmp_path / name
    if not isinstance(content, str):
        content = json.dumps(content) if name.endswith(".json") else "\n".join(map(json.dumps, content))
    path.write_text(content, encoding="utf-8", newline="")
    return path


def workbook(path: Path, **sheets: list[list[str | None]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
        sheet.cell(len(rows) + 3, 1).value = ""  # what a deleted row leaves
        sheet.cell(len(rows) + 3, 1).number_format = "0.00"
    book.save(path)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("last.csv", 'question,good\na,b\nc,"d\ne,f\ng,h\n'),
        ("middle.csv", 'question,good\na,b\nc,"d\ne,"f"\ng,h\n'),
        ("first.tsv", 'question\tgood\na\tb\n"c\td\ne\tf\n'),
        ("backslash.csv", 'question,good\na,b\nc,"say \\"d\\", twice"\n'),
    ],
)
def test_quote_that_swallows_rows_is_refused_with_its_line(tmp_path, name, content):
    with pytest.raises(DatasetError, match=r"the row that begins in line 3 cannot be read .* quote"):
        load_dataset(write(tmp_path, name, content))


def test_csv_as_spreadsheets_write_it_is_read(tmp_path):
    long = "long " * 40_000  # Python's own limit is 131,072 characters
    content = f'\ufeffquestion;good\r\n"two\r\nlines";"say ""yes"""\r\n\r\n;\r\nplain "x";{long}\r\n;\r\n'
    dataset = load_dataset(write(tmp_path, "d.csv", content))
    assert dataset.queries.keys() == {text_id("two\r\nlines"), text_id('plain "x"')}
    assert set(dataset.corpus.values()) == {'say "yes"', long}


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;"])
def test_delimiter_that_the_first_line_tells_excel_is_taken(tmp_path, line):
    path = write(tmp_path, "d.csv", f"\ufeff{line}\r\nquestion;good\r\none, two?;a, b, c\r\nd;e;f\r\n")
    with pytest.raises(DatasetError, match=r"not 2 columns, as in the first line, but 3: line 4 \(first of 1, of 2\)"):
        load_dataset(path)
    path.write_text(path.read_text(encoding="utf-8").replace("d;e;f", "d;e"), encoding="utf-8")
    assert list(load_dataset(path).queries.values()) == ["one, two?", "d"]
    with pytest.raises(DatasetError, match="do not say which column is the question one"):
        load_dataset(write(tmp_path, "alone.csv", f"{line}\n"))


def test_table_without_a_row_of_names_is_told_so_and_not_repeated_whole(tmp_path):
    path = write(tmp_path, "bare.csv", f"How is it reset?,{'Hold the button. ' * 100}\n")
    with pytest.raises(DatasetError, match=r"question one; name them in its first row, or say it with") as refused:
        load_dataset(path)
    assert len(str(refused.value).removeprefix(str(path))) < 400


def test_file_that_another_program_packed_is_told_what_to_do(tmp_path):
    lines = "\n".join(map(json.dumps, BEFORE)).encode()
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "d.xls").write_bytes(bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600))
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("d.jsonl", lines)
    for name, message in (
        ("d.jsonl.gz", "is packed with gzip; unpack it with gunzip"),
        ("d.xls", r"of before 2007, or one with a password; save it as \.xlsx"),
        ("d.zip", r"is a zip archive and no Excel workbook \(d\.jsonl\); unpack it"),
    ):
        with pytest.raises(DatasetError, match=message):
            load_dataset(tmp_path / name)


def test_line_of_another_length_is_named(tmp_path):
    path = write(tmp_path, "d.csv", 'question,good\n"a\nb",c\nd,e,f\n')
    with pytest.raises(DatasetError, match=r"not 2 columns, as in the first line, but 3: line 4 \(first of 1, of 2\)"):
        load_dataset(path)


def test_csv_that_is_not_utf8_is_told_what_to_do(tmp_path):
    (tmp_path / "d.csv").write_bytes("question,good\ncafé,b\n".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"not UTF-8 .*; save it as UTF-8"):
        load_dataset(tmp_path / "d.csv")
    (tmp_path / "d.jsonl").write_text('{"question": "a", "good": "b"}', encoding="utf-16")
    with pytest.raises(DatasetError, match=r"not UTF-8 .*; save it as UTF-8 \(a table in Excel as CSV UTF-8\)"):
        load_dataset(tmp_path / "d.jsonl")


@pytest.mark.parametrize("name", ["d.jsonl", "d.json"])
def test_column_that_begins_late_is_read(tmp_path, name):
    late = {"question": "Late?", "good": ["Yes."], "bad": ["No."], "date": "2026-01-01", "document": "page"}
    dataset = load_dataset(write(tmp_path, name, [*BEFORE, late]))
    assert dataset.irrelevant_docs == {text_id("Late?"): (text_id("No."),)}
    assert dataset.dates == {text_id("Late?"): "2026-01-01"}
    assert dataset.documents == {text_id("Yes."): "page"}


def test_question_of_several_rows_was_asked_when_it_was_asked_last(tmp_path):
    rows = [{"question": "Late?", "good": [f"Yes {date}."], "date": date} for date in ("2026-03-01", "2026-02-01")]
    assert load_dataset(write(tmp_path, "d.jsonl", rows)).dates == {text_id("Late?"): "2026-03-01"}


@pytest.mark.parametrize(
    ("late", "message"),
    [({"score": 0}, "first rows have no column 'score'"), ({"query": "?"}, "which column is the question one")],
)
def test_late_column_that_would_change_what_was_read_is_refused(tmp_path, late, message):
    path = write(tmp_path, "d.jsonl", [*BEFORE, {"question": "Late?", "good": ["Yes."], **late}])
    with pytest.raises(DatasetError, match=message):
        load_dataset(path)


def test_good_score_without_scores_is_refused(tmp_path):
    path = write(tmp_path, "d.csv", "question,good,rating\na,b,0.1\n")
    with pytest.raises(DatasetError, match=r"--good-score 0\.5 is of no use.*--columns score=NAME"):
        read_content(path, ReadOptions(good_score=0.5))
    read = read_content(path, ReadOptions(good_score=0.5, columns={"score": "rating"}))
    assert read.irrelevant_docs == {text_id("a"): (text_id("b"),)}


@pytest.mark.parametrize(
    "column", ["relevance", "Relevant", "is_relevant", "rating", "choice", "verdict", "judgment", "judgement", "grade"]
)
def test_column_that_says_whether_a_passage_is_good_is_its_score(tmp_path, column):
    bad = {text_id("a"): (text_id("c"),)}
    path = write(tmp_path, "d.csv", f"query,passage,{column}\na,b,1\na,c,0\n")
    assert load_dataset(path).irrelevant_docs == bad
    named = write(tmp_path, "named.csv", f"query,answer,{column}\na,b,good\na,c,bad\n")
    assert read_content(named, ReadOptions(columns={"good": "answer"})).irrelevant_docs == {
        text_id("a"): (text_id("c"),)
    }
    graded = write(tmp_path, "graded.csv", f"query,passage,{column}\na,b,4\na,c,2\n")
    with pytest.raises(DatasetError, match=rf"{column}: neither 0 nor 1; say from which score on .* --good-score X"):
        load_dataset(graded)
    assert read_content(graded, ReadOptions(good_score=3)).irrelevant_docs == bad


@pytest.mark.parametrize("header", ["query,passage,score,rating", "question,good,bad,rating"])
def test_column_that_may_be_a_verdict_is_none_where_another_says_what_is_good(tmp_path, header):
    path = write(tmp_path, "d.csv", f"{header}\na,b,1,5\n")
    assert load_dataset(path).relevant_docs == {text_id("a"): (text_id("b"),)}


def test_two_columns_that_may_be_the_verdict_are_refused(tmp_path):
    path = write(tmp_path, "d.csv", "query,passage,relevance,rating\na,b,1,0\n")
    with pytest.raises(DatasetError, match="do not say which column is the score one"):
        load_dataset(path)


@pytest.mark.parametrize("name", ["review.csv", "review.jsonl"])
def test_review_file_is_no_table_of_good_chunks(tmp_path, name):
    path, texts = tmp_path / name, ["Logs are kept.", "Workers restart."]
    write_review(
        [
            Candidate("q", "How long?", f"c{n}", text, 1.0, "", "", verdict)
            for n, (text, verdict) in enumerate(zip(texts, ("good", "bad"), strict=True))
        ],
        path,
    )
    with pytest.raises(DatasetError, match=rf"is a review file.*embtune harvest --reviewed {re.escape(str(path))} "):
        load_dataset(path)
    told = read_content(path, ReadOptions(columns={"score": "verdict"}))
    assert told.irrelevant_docs == {text_id("How long?"): (text_id(texts[1]),)}


@pytest.mark.parametrize(
    "options", [ReadOptions(columns={"bad": "neg"}), ReadOptions(good_score=0.5)], ids=["--columns", "--good-score"]
)
def test_options_of_tables_are_refused_for_what_is_none(tmp_path, options):
    path = write(tmp_path, "d.jsonl", [{"query": "a", "pos": ["b"], "neg": ["c"]}])
    with pytest.raises(DatasetError, match=r"is read as flag-embedding, for which --.* is of no use; leave it out"):
        read_content(path, options)
    result = CliRunner().invoke(main, ["prepare", str(path), "--model", "none", "--columns", "bad=neg"])
    assert result.exit_code == 2
    assert "for which --columns is of no use" in result.stderr


def test_role_named_twice_is_a_usage_error():
    columns = "question=q,good=g,bad=hard1,bad=hard2"
    result = CliRunner().invoke(main, ["convert", "a", "b", "--to", "csv", "--columns", columns])
    assert result.exit_code == 2
    assert "names 'bad' twice" in " ".join(result.output.split())


def test_sheets_are_read_if_one_has_rows_and_refused_if_several_have(tmp_path):
    rows = [["question", "good"], ["a", "b"], [None, None], ["c", "d"]]
    dataset = load_dataset(workbook(tmp_path / "one.xlsx", cover=[["Our FAQ"]], questions=rows))
    assert list(dataset.queries.values()) == ["a", "c"]
    assert len(load_dataset(workbook(tmp_path / "empty.xlsx", questions=rows, Sheet2=[])).queries) == 2
    both = workbook(tmp_path / "both.xlsx", march=rows, april=[["question", "good"], ["e", "f"]])
    with pytest.raises(DatasetError, match=r"has rows in 2 sheets \('march', 'april'\), where one is wanted; save"):
        load_dataset(both)


def test_what_a_sheet_writes_for_a_carriage_return_is_one(tmp_path):
    written = [["question", "good"], ["how", "First line._x000D_\nSecond line, of snake_x_case and _x12_."]]
    dataset = load_dataset(workbook(tmp_path / "crlf.xlsx", sheet=written))
    assert list(dataset.corpus.values()) == ["First line.\r\nSecond line, of snake_x_case and _x12_."]


@pytest.mark.parametrize("written_by", ["pandas", "openpyxl"])
def test_text_that_a_sheet_holds_as_a_formula_is_no_empty_cell(tmp_path, written_by):
    rows = [["question", "good"], ["a", "b"], ["=> how?", "c"], ["d", "=SUM(A1:A2) adds them"]]
    path = tmp_path / ("d.xlsx" if written_by == "pandas" else "d.table")
    if written_by == "pandas":
        pandas.DataFrame(rows[1:], columns=rows[0]).to_excel(path, index=False)
    else:
        workbook(path, sheet=rows)
    with pytest.raises(DatasetError, match=r"holds formulas without a value \(in A3, B4\), which would be"):
        load_dataset(path)


def test_formula_that_a_spreadsheet_program_computed_is_its_result(tmp_path):
    rows = [["question", "good", "bad"], ["a", "=A2", "=A2"], ["c", "d", None]]
    computed = workbook(tmp_path / "formulas.xlsx", sheet=rows)
    path = tmp_path / "computed.xlsx"
    with zipfile.ZipFile(computed) as before, zipfile.ZipFile(path, "w") as after:
        for name in before.namelist():
            sheet = before.read(name)
            for cell, result in (("B2", b"its text"), ("C2", b"")):
                pattern = rf'<c r="{cell}"[^>]*><f>A2</f><v ?/>'.encode()
                sheet = re.sub(pattern, rb'<c r="%b" t="str"><f>A2</f><v>%b</v>' % (cell.encode(), result), sheet)
            after.writestr(name, sheet)
    dataset = load_dataset(path)
    assert list(dataset.corpus.values()) == ["its text", "d"]
    assert not dataset.irrelevant_docs


def test_column_that_stands_twice_in_a_sheet_is_refused(tmp_path):
    twice = workbook(tmp_path / "twice.xlsx", sheet=[["question", "good", "good"], ["a", "b", "c"]])
    with pytest.raises(DatasetError, match=r"column stands twice: 'good' \(first of 1, of 3\)"):
        load_dataset(twice)
    nameless = workbook(tmp_path / "nameless.xlsx", sheet=[["question", None, "good", None], ["a", "x", "b", "y"]])
    assert set(load_dataset(nameless).corpus.values()) == {"b"}


@pytest.mark.parametrize("name", ["d.csv", "d.tsv", "d.xlsx"])
def test_columns_without_a_name_are_passed_over_in_every_table_and_may_be_told_by_number(tmp_path, name):
    rows = [["question", "", "good", " ", ""], ["a", "x", "b", "", ""], ["c", "", "d", "", "y"], [""] * 5]
    if name == "d.xlsx":
        path = workbook(tmp_path / name, sheet=rows)
    else:
        path = write(tmp_path, name, "".join(("," if name == "d.csv" else "\t").join(row) + "\n" for row in rows))
    assert list(load_dataset(path).corpus.values()) == ["b", "d"]
    told = read_content(path, options=ReadOptions(columns={"document": "column 2"}))
    assert list(told.documents.values()) == ["x"]


def test_name_that_stands_twice_in_a_csv_is_refused_beside_columns_without_one(tmp_path):
    with pytest.raises(DatasetError, match=r"column stands twice: 'good' \(first of 1, of 5\)"):
        load_dataset(write(tmp_path, "d.csv", "question,good,,,good\na,b,,,c\n"))


def test_fault_of_a_row_with_a_blank_one_before_it_has_the_rows_number(tmp_path):
    with pytest.raises(DatasetError, match=r"score: not a score; write 1 or 0: row 3 \('high'\) \(first of 1, of 3\)"):
        load_dataset(write(tmp_path, "d.csv", "question,good,score\na,b,1\n,,\nc,d,high\n"))


def test_row_without_a_question_is_named(tmp_path):
    rows = [["question", "good"], ["a", "b"], [None, "c"], [" ", "d"]]
    with pytest.raises(DatasetError, match=r"queries: text is empty: 'row 3' \(first of 2, of 3\)"):
        load_dataset(workbook(tmp_path / "d.xlsx", sheet=rows))


def test_question_that_is_a_number_is_its_digits(tmp_path):
    rows = [["question", "good"], [404, "The page is gone."], [500.0, "The server failed."], ["Else?", "Ask."]]
    frame = pandas.DataFrame({"question": [404, 500], "good": ["The page is gone.", "The server failed."]})
    frame.to_json(tmp_path / "d.jsonl", orient="records", lines=True)
    for path in (workbook(tmp_path / "d.xlsx", sheet=rows), tmp_path / "d.jsonl"):
        assert list(load_dataset(path).queries.values())[:2] == ["404", "500"]


def test_row_of_a_sheet_is_named_as_the_sheet_counts(tmp_path):
    sheet = workbook(tmp_path / "d.xlsx", sheet=[["question", "good"], ["a", "b"], [None, None], [1.5, "c"]])
    with pytest.raises(DatasetError, match=r"question: text is not a string: row 4 \(first of 1, of 3\)"):
        load_dataset(sheet)
    corpus = workbook(tmp_path / "corpus.xlsx", sheet=[["id", "text"], ["a", "b"], ["c", 1.5]])
    with pytest.raises(DatasetError, match=r"text: text is not a string: row 3 \(first of 1, of 2\)"):
        load_corpus(corpus)


@pytest.mark.parametrize("name", ["d.csv", "d.jsonl", "d.parquet"])
def test_null_is_a_blank_text_in_every_table(tmp_path, name):
    path, frame = tmp_path / name, pandas.DataFrame({"question": ["a", None], "good": ["b", "c"]})
    if name == "d.jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        (frame.to_csv if name == "d.csv" else frame.to_parquet)(path, index=False)
    with pytest.raises(DatasetError, match=r"queries: text is empty: 'row 2' \(first of 1, of 2\); embtune prepare"):
        load_dataset(path)
    arguments = ["prepare", str(path), "--model", "none", "--fix", "--out", str(tmp_path / "out"), "--split", "100,0,0"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    mended = load_dataset(tmp_path / "out" / "train.json", corpus=tmp_path / "out" / "corpus.json")
    assert list(mended.queries.values()) == ["a"]


def test_offender_without_an_id_is_named_by_its_text(tmp_path):
    question = "Which of all the things that were ever asked here has no answer at all?"
    path = write(tmp_path, "d.csv", f"question,good\n{question},\n")
    start = re.escape(f"'{text_id(question)}' = '{question[:60]}…'")
    ending = r"\(first of 1, of 1\); embtune prepare --fix"
    with pytest.raises(DatasetError, match=rf"question has no good chunk: {start} {ending}"):
        load_dataset(path)
    both = write(tmp_path, "both.jsonl", [{"question": "Short?", "good": ["x"], "bad": ["x"]}])
    with pytest.raises(DatasetError, match=r"both good and bad for: '\w{16}' = 'Short\?'"):
        load_dataset(both)


IDS = [f"git-blame.txt#{number}" for number in range(6)]


@pytest.mark.parametrize("command", [["prepare"], ["convert", "--to", "explicit"]])
def test_ids_are_not_taken_for_texts_where_no_corpus_is_given(tmp_path, command):
    table = write(
        tmp_path, "ids.csv", "\n".join(["question,good", *(f"Who wrote {own_id}?,{own_id}" for own_id in IDS)])
    )
    target = [str(tmp_path / "out.json")] if command[0] == "convert" else []
    result = CliRunner().invoke(main, [command[0], str(table), *target, *command[1:]])
    assert result.exit_code == 2
    assert "ids.csv: its chunks are ids, such as 'git-blame.txt#0', and no texts; give the file that" in result.stderr
    texts = {own_id: f"The text of {own_id}." for own_id in IDS}
    corpus = write(tmp_path, "corpus.json", [])
    corpus.write_text(json.dumps(texts))
    assert load_dataset(table, corpus=corpus).corpus == texts


def test_chunks_without_spaces_in_a_script_that_has_none_are_texts(tmp_path):
    rows = [{"question": f"第{n}章?", "good": f"这是第{n}章的内容"} for n in range(6)]
    assert len(load_dataset(write(tmp_path, "zh.jsonl", rows)).corpus) == 6
