"""A model must not be put in force while DocsGPT searches vectors of another one."""

import shutil

import pytest
from click.testing import CliRunner

from docsgpt_embtune.cli import main
from scripts.kill_reembed import make_qdrant

from .conftest import contents, write_index_folder


@pytest.mark.parametrize("command", ["reembed", "reembed --rollback", "doctor"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("VECTOR_STORE=pgvector", "was not given, so that its vectors would stay another model's; give --pgvector"),
        ("VECTOR_STORE='Qdrant'  # ours", "give --qdrant"),
        ("vector_store=elasticsearch", "hands out none of its chunks; set EMBEDDINGS_NAME"),
        ("VECTOR_STORE=mongodb", "nothing can be built beside the old vectors"),
        ("VECTOR_STORE=lancedb", "cannot add a chunk"),
    ],
)
def test_store_that_is_searched_and_not_given_is_named(index_folder, tuned, tmp_path, command, line, message):
    environment = tmp_path / ".env"
    environment.write_text(f"EMBEDDINGS_NAME=/models/stock\n{line}\n")
    before = contents(index_folder), environment.read_bytes()
    words = (*command.split(), "--model", str(tuned.folder), "--indexes", str(index_folder), "--env", str(environment))
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert (contents(index_folder), environment.read_bytes()) == before


@pytest.mark.parametrize("line", ["", "VECTOR_STORE=faiss", "VECTOR_STORE=of-our-own"])
def test_store_that_is_given_raises_no_alarm(index_folder, stock, tmp_path, line):
    environment = tmp_path / ".env"
    environment.write_text(f"EMBEDDINGS_NAME={stock.folder}\n{line}\n")
    words = ("doctor", "--model", str(stock.folder), "--indexes", str(index_folder), "--env", str(environment))
    assert CliRunner().invoke(main, words).exit_code == 0


def test_store_that_was_switched_is_not_left_out_of_the_way_back(index_folder, stock, tuned, tmp_path):
    pytest.importorskip("qdrant_client", reason="its client is not installed")
    make_qdrant(str(tmp_path / "qdrant"), stock.dimension)
    environment = tmp_path / ".env"
    environment.write_text(f"EMBEDDINGS_NAME={stock.folder}\n")
    given = ["--indexes", str(index_folder), "--env", str(environment)]
    database = ["--qdrant", str(tmp_path / "qdrant")]
    for stores in (given, [*database, *given[2:]]):  # the second finds .env switched
        assert CliRunner().invoke(main, ["reembed", "--model", str(tuned.folder), *stores]).exit_code == 0
    before = contents(index_folder), environment.read_bytes()
    for words in (["reembed", "--rollback"], ["forget", "--yes"]):
        refused = CliRunner().invoke(main, [*words, *given])
        assert refused.exit_code == 2
        assert "switched together with qdrant, whose vectors would stay the new model's; give --qdr" in refused.stderr
    assert (contents(index_folder), environment.read_bytes()) == before
    assert CliRunner().invoke(main, ["reembed", "--rollback", *given, *database]).exit_code == 0
    assert environment.read_text() == f"EMBEDDINGS_NAME={stock.folder}\n"


@pytest.mark.parametrize("how", [["--dry-run"], ["--rollback"]])
def test_one_source_of_several_is_not_enough_to_switch_all(index_folder, stock, tuned, tmp_path, how, monkeypatch):
    monkeypatch.chdir(index_folder)
    other = write_index_folder(index_folder.parent / "other", stock)
    environment = tmp_path / ".env"
    environment.write_text("EMBEDDINGS_NAME=/models/stock\n")
    words = ["reembed", "--model", str(tuned.folder), "--indexes", ".", "--env", str(environment), *how]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 2
    assert f"is one of 2 sources ({index_folder.name}, other …), and {environment} switches" in refused.stderr
    assert refused.stderr.endswith(f"give --indexes {index_folder.parent}\n")
    shutil.rmtree(other)
    assert "is one of" not in CliRunner().invoke(main, words).output
