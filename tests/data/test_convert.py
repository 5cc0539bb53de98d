import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from docsgpt_embtune.cli import main
from docsgpt_embtune.data.dataset import RetrievalDataset, load_dataset, save_dataset
from docsgpt_embtune.data.formats.registry import FORMATS
from docsgpt_embtune.data.formats.round_trip import lost_by_writing
from docsgpt_embtune.errors import DatasetError

DATASET = RetrievalDataset(
    {"q1": "How long are logs kept?", "q2": "Who restarts a worker?"},
    {"c1": "Logs are kept for a week.", "c2": "Workers restart.", "c3": "It is a secret.", "c4": "Nobody asked."},
    {"q1": ("c1",), "q2": ("c2", "c3")},
    {"q1": ("c2",)},
    dates={"q1": "2026-03-01"},
    documents={"c1": "logs.md", "c2": "workers.md"},
)


def convert(source: Path, out: Path, name: str, *options: str) -> Result:
    return CliRunner().invoke(main, ["convert", str(source), str(out), "--to", name, *options])


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "in.json"
    save_dataset(DATASET, path)
    return path


def test_output_beyond_a_folder_that_is_still_to_be_made_is_left_alone_too(source, tmp_path):
    (tmp_path / "out").write_text("thesis")
    result = convert(source, tmp_path / "new" / ".." / "out", "csv")
    assert result.exit_code == 2
    assert (tmp_path / "out").read_text() == "thesis"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_output_that_exists_is_left_alone_and_nothing_is_read(tmp_path, name, kind):
    out = tmp_path / "out"
    if kind == "dangling link":
        out.symlink_to(tmp_path / "elsewhere")
    else:
        thesis = out if kind == "file" else out / "sub" / "thesis.txt"
        thesis.parent.mkdir(parents=True, exist_ok=True)
        thesis.write_text("hi")
    result = convert(tmp_path / "nowhere.csv", out, name)
    assert result.exit_code == 2
    assert f"{out}: exists already; give a name that does not, or remove it first" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert kind == "dangling link" or thesis.read_text() == "hi"


@pytest.mark.parametrize("name", ["explicit", "beir", "csv", "excel", "hugging-face"])
def test_output_goes_into_folders_that_are_made_for_it(tmp_path, source, name):
    out = tmp_path / "new" / "folder" / "out"
    result = convert(source, out, name)
    assert result.exit_code == 0, result.output
    assert set(load_dataset(out).queries.values()) == set(DATASET.queries.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.json", "new"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_output_below_a_file_is_refused(source):
    result = convert(source, source / "out.csv", "csv")
    assert result.exit_code == 2
    assert f"{source} is not a folder" in result.stderr


LOST = {
    "explicit": "",
    "jsonl": "1 chunk, 1 chunk's document, the ids",
    "beir": "1 date, 2 chunk's documents",
    "autorag": "1 bad judgment, 1 date",
    "flag-embedding": "1 chunk, 1 date, 2 chunk's documents, the ids",
    "tevatron": "1 chunk, 1 date, 2 chunk's documents",
    "ragas": "1 bad judgment, 1 chunk, 1 date, 2 chunk's documents, the ids",
}


@pytest.mark.parametrize("name", LOST)
def test_what_a_format_has_no_place_for_is_told(tmp_path, source, name):
    result = convert(source, tmp_path / "out", name)
    assert result.exit_code == 0, result.output
    told = [line for line in result.output.splitlines() if "no place" in line]
    assert told == ([f"{name} has no place for: {LOST[name]}"] if LOST[name] else [])


ODD = ["=1+1", "#N/A", "123", "true", "nan", "'a'", "-5", "0012", 'say "hi"', "a\rb", "a\r\nb", "[1]", "a;b,c\td"]
ODD += ["_x000D_", "_x000D_\r", "snake_x_case"]  # Excel writes a carriage return like that


@pytest.mark.parametrize("name", ["csv", "jsonl", "excel", "parquet", "beir", "hugging-face"])
def test_texts_that_look_like_something_else_stay_texts(tmp_path, name):
    texts = {f"c{number}": text for number, text in enumerate(ODD)}
    save_dataset(RetrievalDataset({"q": "=A1"}, texts, {"q": tuple(texts)}), tmp_path / "in.json")
    out = tmp_path / f"out.{name}"
    result = convert(tmp_path / "in.json", out, name)
    assert result.exit_code == 0, result.output
    assert set(load_dataset(out).corpus.values()) == set(ODD)


@pytest.mark.parametrize("name", ["csv", "excel"])
def test_a_list_in_a_text_is_not_two_texts_in_silence(tmp_path, name):
    save_dataset(RetrievalDataset({"q": "Which?"}, {"c": "['a', 'b']"}, {"q": ("c",)}), tmp_path / "in.json")
    result = convert(tmp_path / "in.json", tmp_path / "out", name)
    assert result.exit_code == 2
    assert "does not give back as it was" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.json"]


def test_error_while_writing_names_the_output_and_not_where_it_was_tried(tmp_path, source):
    result = convert(source, tmp_path / "out.json", "article")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {tmp_path}/out.json: the article's form")
    assert [path.name for path in tmp_path.iterdir()] == ["in.json"]


@pytest.mark.parametrize(
    "after",
    [
        replace(DATASET, corpus=DATASET.corpus | {"c1": "Logs are kept for a day."}),
        replace(DATASET, relevant_docs=DATASET.relevant_docs | {"q2": ("c2",)}),
        replace(DATASET, dates={"q1": "2026-01-03"}),
        replace(DATASET, irrelevant_docs={"q1": ("c4",)}),
    ],
)
def test_same_counts_are_not_the_same_dataset(tmp_path, after):
    with pytest.raises(DatasetError, match="does not give back as it was"):
        lost_by_writing(DATASET, after, tmp_path, "csv")


def test_one_of_the_documents_of_several_good_chunks_is_not_given_to_all(tmp_path):
    documents = {"c2": "workers.md", "c3": "secrets.md"}
    save_dataset(replace(DATASET, documents=documents), tmp_path / "in.json")
    result = convert(tmp_path / "in.json", tmp_path / "out.jsonl", "jsonl")
    assert "2 chunk's documents" in result.output
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row.get("document") for row in rows] == [None, None]


def test_roles_of_columns_may_stand_apart(tmp_path):
    (tmp_path / "faq.csv").write_text("Frage,Antwort\nhow is it reset,Hold the button.\n", encoding="utf-8")
    result = convert(
        tmp_path / "faq.csv", tmp_path / "faq.json", "explicit", "--columns", "question=Frage, good=Antwort"
    )
    assert result.exit_code == 0, result.output
    assert list(load_dataset(tmp_path / "faq.json").queries.values()) == ["how is it reset"]


@pytest.mark.parametrize(("mode", "of_files"), [(0o600, 0o600), (0o640, 0o644)])
@pytest.mark.parametrize("name", ["jsonl", "beir"])
def test_what_is_converted_from_private_data_is_private(tmp_path, name, mode, of_files):
    source, out = tmp_path / "source.json", tmp_path / "out.jsonl"
    save_dataset(DATASET, source)
    source.chmod(mode)
    assert convert(source, out, name).exit_code == 0
    written = [path for path in (out, *out.rglob("*")) if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {of_files}
