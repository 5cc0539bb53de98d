"""The database that the data are read into: joined across blocks, and in little memory."""

import json
import re

import pytest

from docsgpt_embtune.data.formats.content import Row, RowChunk
from docsgpt_embtune.data.formats.options import ReadOptions
from docsgpt_embtune.data.preparation import statements
from docsgpt_embtune.data.preparation import store as store_module
from docsgpt_embtune.data.preparation.checks import CHECKS
from docsgpt_embtune.data.preparation.fault_check import CheckSettings, find_offenders
from docsgpt_embtune.data.preparation.store import Store, opened
from docsgpt_embtune.errors import DatasetError

from .made_up_data import made_up, prepare, sentence, write


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
