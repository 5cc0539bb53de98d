"""What was kept for a rollback, and what is left of deleted sources, can be deleted."""

import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from docsgpt_embtune.cli import main
from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from docsgpt_embtune.deployment.faiss_folder import (
    delete_remains,
    find_index_folders,
    find_remains,
)
from docsgpt_embtune.deployment.faiss_store import FaissStore
from docsgpt_embtune.errors import DeploymentError

from ..conftest import as_nobody, contents, write_index_folder


def test_what_was_kept_for_a_rollback_can_be_deleted(index_folder, tuned, tmp_path):
    store, environment = FaissStore(index_folder), EnvironmentFile(tmp_path / ".env")
    environment.path.write_bytes(b"EMBEDDINGS_NAME=old\n")
    steps.reembed([store], tuned, environment)
    in_force = contents(index_folder)
    options = ["forget", "--indexes", str(index_folder), "--env", str(environment.path)]
    asked = CliRunner().invoke(main, options, input="n\n")
    assert asked.exit_code == 1
    assert f"{index_folder}: .embtune/previous-index.faiss" in asked.output
    assert ".env.embtune.json" in asked.output
    assert store.can_roll_back()
    assert CliRunner().invoke(main, [*options, "--yes"]).exit_code == 0
    assert contents(index_folder) == in_force
    assert sorted(path.name for path in (index_folder / ".embtune").iterdir()) == ["lock", "runs.json"]
    assert not environment.path.with_name(".env.embtune.json").exists()
    with pytest.raises(DeploymentError, match="no re-embedding to take back"):
        steps.roll_back([store], environment)
    assert steps.reembed([store], tuned, environment) == []  # it is known whose vectors these are
    assert "nothing is kept" in CliRunner().invoke(main, options).output


def delete_as_docsgpt_does(folder):
    for name in ("index.faiss", "index.json", "index.pkl"):
        (folder / name).unlink()


def forget(indexes, *options, answer="y\n"):
    return CliRunner().invoke(main, ["forget", "--indexes", str(indexes), *options], input=answer)


def test_what_is_left_of_deleted_sources_is_deleted_with_what_was_kept(index_folder, stock, tuned, tmp_path):
    deleted, begun, other = (index_folder.parent / name for name in ("deleted", "begun", "other"))
    for folder in (deleted, begun, other):
        write_index_folder(folder, stock)
    environment = EnvironmentFile(tmp_path / ".env")
    environment.path.write_text(f"EMBEDDINGS_NAME={stock.folder}\n")
    steps.reembed([FaissStore(folder) for folder in (index_folder, deleted)], tuned, environment)
    FaissStore(begun).build(tuned)
    (begun / "notes.txt").write_text("an operator's")
    for folder in (deleted, begun):
        delete_as_docsgpt_does(folder)
    kept, in_force = contents(other), contents(index_folder)
    refused = forget(index_folder.parent, answer="n\n")
    assert refused.exit_code == 1
    for folder in (deleted, begun):
        assert f"{folder}: what is left of a source that was deleted\n" in refused.output
        assert (folder / ".embtune").is_dir()
    result = forget(index_folder.parent, "--env", str(environment.path))
    assert result.exit_code == 0, result.output
    assert not deleted.exists()
    assert [path.name for path in begun.iterdir()] == ["notes.txt"]
    assert (contents(other), contents(index_folder)) == (kept, in_force)
    assert FaissStore(index_folder).is_on(tuned)
    assert list(index_folder.parent.rglob("previous-index.faiss")) == []
    assert "nothing is kept" in forget(index_folder.parent).output


@pytest.mark.parametrize("given", ["indexes", "indexes/handbook"])
def test_where_every_source_was_deleted_what_is_left_of_them_is_deleted_too(index_folder, tuned, tmp_path, given):
    steps.reembed([FaissStore(index_folder)], tuned)
    delete_as_docsgpt_does(index_folder)
    result = forget(tmp_path / given)
    assert result.exit_code == 0, result.output
    assert not index_folder.exists()
    if given == "indexes":
        assert "no index in it" in str(forget(tmp_path / given).output)


def test_what_is_left_stays_where_the_way_back_may_be_needed(index_folder, stock, tuned, tmp_path):
    write_index_folder(index_folder.parent / "deleted", stock)
    environment = EnvironmentFile(tmp_path / ".env")
    environment.path.write_text(f"EMBEDDINGS_NAME={stock.folder}\n")
    steps.reembed([FaissStore(folder) for folder in find_index_folders(index_folder.parent)], tuned)
    delete_as_docsgpt_does(index_folder.parent / "deleted")
    result = forget(index_folder.parent, "--env", str(environment.path))
    assert "nothing is deleted" in result.output
    assert find_remains(index_folder.parent) == [index_folder.parent / "deleted"]


def test_source_that_was_uploaded_again_is_no_remains(index_folder, stock, tuned):
    steps.reembed([FaissStore(index_folder)], tuned)
    delete_as_docsgpt_does(index_folder)
    assert find_remains(index_folder.parent) == [index_folder]
    write_index_folder(index_folder, stock)
    delete_remains(index_folder)
    assert (index_folder / ".embtune" / "runs.json").is_file()
    assert find_remains(index_folder.parent) == []


def test_source_that_lost_its_index_is_no_remains(index_folder, tuned):
    steps.reembed([FaissStore(index_folder)], tuned)
    (index_folder / "index.faiss").unlink()
    assert find_remains(index_folder.parent) == []
    assert find_index_folders(index_folder.parent) == [index_folder]


def test_remains_that_may_not_be_deleted_are_named(stock, tuned):
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to nobody
        Path(name).chmod(0o755)
        folder = write_index_folder(Path(name) / "handbook", stock)
        steps.reembed([FaissStore(folder)], tuned)
        delete_as_docsgpt_does(folder)
        (folder / ".embtune").chmod(0o555)
        with as_nobody(), pytest.raises(DeploymentError, match=r"/\.embtune: cannot be deleted \(Permission denied"):
            delete_remains(folder)


def test_source_without_chunks_keeps_nobodys_old_vectors(index_folder, stock, tuned, tmp_path):
    stores = [FaissStore(write_index_folder(index_folder.parent / "empty", stock, [])), FaissStore(index_folder)]
    environment = EnvironmentFile(tmp_path / ".env")
    steps.reembed(stores, tuned, environment)
    steps.forget(stores, environment)
    assert [store.kept() for store in stores] == ["", ""]


def test_way_back_that_may_be_needed_is_not_deleted(index_folder, stock, tuned, tmp_path):
    store, environment = FaissStore(index_folder), EnvironmentFile(tmp_path / ".env")
    environment.path.write_text(f"EMBEDDINGS_NAME={stock.folder}\n")
    steps.reembed([store], tuned)  # as if `.env` could not be written
    with pytest.raises(DeploymentError, match=r"not on .*, which .*\.env names, so nothing is deleted"):
        steps.forget([store], environment)
    steps.roll_back([store])
