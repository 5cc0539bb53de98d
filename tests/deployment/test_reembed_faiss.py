"""Re-embedding of index folders: nothing lost, nothing half, and back to the byte."""

import contextlib
import errno
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from docsgpt_embtune.cli import main
from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.deployment.deployed_model import FolderModel, load_deployed_model
from docsgpt_embtune.deployment.doctor import examine
from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from docsgpt_embtune.deployment.faiss_folder import (
    WORK,
    delete_remains,
    find_index_folders,
    find_remains,
    index_vectors,
    read_index,
    read_sidecar,
)
from docsgpt_embtune.deployment.faiss_store import FaissStore
from docsgpt_embtune.deployment.vector_journal import VectorJournal
from docsgpt_embtune.errors import DeploymentError
from docsgpt_embtune.model_folder import fingerprint, read_manifest, write_manifest
from docsgpt_embtune.serving.keywords import Keywords
from docsgpt_embtune.serving.reading import Reading

from ..conftest import build_tiny_folder
from .conftest import CHUNKS, as_nobody, contents, rewrite_vectors, same_vectors, search, write_index_folder

LATE = "A chunk that came in between."


def test_every_chunk_is_embedded_anew_and_nothing_else_changes(index_folder, tuned):
    before = contents(index_folder)
    swapped = steps.reembed([FaissStore(index_folder)], tuned)
    after = contents(index_folder)
    assert len(swapped) == 1
    assert {name for name in before if before[name] != after[name]} == {"index.faiss"}
    assert same_vectors(index_vectors(read_index(index_folder)), tuned.embed(CHUNKS))
    assert search(index_folder, tuned, CHUNKS[7]) == [CHUNKS[7]]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_who_may_read_an_index_may_read_the_next_and_the_restored_one(index_folder, tuned):
    index = index_folder / "index.faiss"
    os.chown(index, 1234, 1235)
    index.chmod(0o640)
    umask = os.umask(0o077)
    try:
        store = FaissStore(index_folder)
        steps.reembed([store], tuned)
        new = index.stat()
        kept = (index_folder / ".embtune" / "previous-index.faiss").stat()
        steps.roll_back([store])
        restored = index.stat()
    finally:
        os.umask(umask)
    for found in (new, kept, restored):
        assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o640, 1234, 1235)


def test_sources_behind_links_are_found_once(tmp_path, stock):
    elsewhere = tmp_path / "disk2" / "s2"
    elsewhere.mkdir(parents=True)
    write_index_folder(elsewhere, stock)
    indexes = tmp_path / "indexes"
    indexes.mkdir()
    (indexes / "s2").symlink_to(elsewhere)
    (indexes / "again").symlink_to(indexes)
    assert [folder.resolve() for folder in find_index_folders(indexes)] == [elsewhere]


def test_rollback_brings_every_byte_back(index_folder, tuned, tmp_path):
    before = contents(index_folder)
    environment = EnvironmentFile(tmp_path / ".env")
    environment.path.write_bytes(b"API_KEY=x\nEMBEDDINGS_NAME='old' # mine\nVECTOR_STORE=faiss")
    lines = environment.path.read_bytes()
    store = FaissStore(index_folder)
    steps.reembed([store], tuned, environment)
    assert environment.get("EMBEDDINGS_NAME") == str(tuned.folder)
    steps.roll_back([store], environment)
    assert contents(index_folder) == before
    assert environment.path.read_bytes() == lines
    assert sorted(path.name for path in index_folder.iterdir()) == sorted(before)
    with pytest.raises(DeploymentError, match="no re-embedding to take back"):
        steps.roll_back([store], environment)


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


def test_remains_that_may_not_be_deleted_are_named(stock, tuned):
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to nobody
        Path(name).chmod(0o755)
        folder = write_index_folder(Path(name) / "handbook", stock)
        steps.reembed([FaissStore(folder)], tuned)
        delete_as_docsgpt_does(folder)
        (folder / ".embtune").chmod(0o555)
        with as_nobody(), pytest.raises(DeploymentError, match=r"/\.embtune: cannot be deleted \(Permission denied"):
            delete_remains(folder)


def test_way_back_that_may_be_needed_is_not_deleted(index_folder, stock, tuned, tmp_path):
    store, environment = FaissStore(index_folder), EnvironmentFile(tmp_path / ".env")
    environment.path.write_text(f"EMBEDDINGS_NAME={stock.folder}\n")
    steps.reembed([store], tuned)  # as if `.env` could not be written
    with pytest.raises(DeploymentError, match=r"not on .*, which .*\.env names, so nothing is deleted"):
        steps.forget([store], environment)
    steps.roll_back([store])


def test_second_run_has_nothing_to_do(index_folder, tuned):
    store = FaissStore(index_folder)
    steps.reembed([store], tuned)
    written = (index_folder / "index.faiss").stat().st_mtime_ns
    assert steps.reembed([store], tuned) == []
    assert (index_folder / "index.faiss").stat().st_mtime_ns == written


def test_new_width_is_a_new_index(index_folder, tmp_path):
    wide = load_deployed_model(str(build_tiny_folder(tmp_path, seed=2, hidden_size=48)))
    plan = steps.plan([FaissStore(index_folder)], wide)[0]
    assert (plan.width_before, plan.width_after) == (32, 48)
    steps.reembed([FaissStore(index_folder)], wide)
    assert read_index(index_folder).d == 48
    assert search(index_folder, wide, CHUNKS[3]) == [CHUNKS[3]]


def test_old_index_with_only_the_pickle(tmp_path, stock, tuned):
    folder = write_index_folder(tmp_path / "old", stock, sidecars=("pkl",))
    assert read_sidecar(folder).metadata["chunk-3"] == {"source": "chunk-3.md", "token_count": 9}
    steps.reembed([FaissStore(folder)], tuned)
    assert sorted(contents(folder)) == ["index.faiss", "index.pkl"]
    from langchain_community.vectorstores import FAISS

    store = FAISS.load_local(str(folder), tuned.embeddings, allow_dangerous_deserialization=True)
    assert store.similarity_search(CHUNKS[9], k=1)[0].page_content == CHUNKS[9]


def test_hostile_pickle_runs_nothing(index_folder, tmp_path):
    proof = tmp_path / "ran"
    (index_folder / "index.json").unlink()
    (index_folder / "index.pkl").write_bytes(f"cbuiltins\nopen\n(V{proof}\nVw\ntR.".encode())
    with pytest.raises(DeploymentError, match=r"names builtins\.open"):
        FaissStore(index_folder).texts()
    assert not proof.exists()


def test_dry_run_changes_nothing(index_folder, tuned):
    before = sorted(index_folder.rglob("*"))
    plan = steps.plan([FaissStore(index_folder)], tuned)[0]
    assert (plan.chunks, plan.remaining, plan.done) == (len(CHUNKS), len(set(CHUNKS)), False)
    assert plan.seconds > 0
    journal, index = (4 * 32 + 32) * len(set(CHUNKS)), (index_folder / "index.faiss").stat().st_size
    assert plan.disk_bytes == journal + 4 * 32 * len(CHUNKS) + index
    assert sorted(index_folder.rglob("*")) == before


def test_dry_run_beside_a_run_leaves_that_its_journal(index_folder, tuned):
    store = FaissStore(index_folder)
    with VectorJournal(index_folder / ".embtune", tuned) as journal:
        journal.embed_missing(CHUNKS[:20])
        for path in (index_folder / ".embtune").iterdir():
            with path.open("ab") as file:
                file.write(b"half of a block")  # that the other process has begun to write
        before = {path: path.read_bytes() for path in index_folder.rglob("*.*") if path.is_file()}
        (plan,) = steps.plan([store], tuned)
    assert plan.remaining == len(set(CHUNKS)) - 20
    assert {path: path.read_bytes() for path in index_folder.rglob("*.*") if path.is_file()} == before


def test_index_that_changes_meanwhile_is_not_swapped(index_folder, stock, tuned):
    store = FaissStore(index_folder)
    store.build(tuned)
    write_index_folder(index_folder, stock, [*CHUNKS, LATE])
    before = contents(index_folder)
    with pytest.raises(DeploymentError, match="changed while it was re-embedded"):
        store.prepare(tuned)
    assert contents(index_folder) == before
    steps.reembed([store], tuned)
    assert search(index_folder, tuned, LATE) == [LATE]


def test_upload_during_verification_is_not_overwritten(index_folder, tuned):
    class UploadsMeanwhile(FolderModel):
        def embed(self, texts):
            write_index_folder(index_folder, tuned, [*CHUNKS, LATE])
            return super().embed(texts)

    store = FaissStore(index_folder)
    store.build(tuned)
    store.prepare(UploadsMeanwhile(tuned.name, tuned.fingerprint, tuned.embeddings, tuned.folder))
    with pytest.raises(DeploymentError, match="changed while it was re-embedded"):
        store.swap(tuned)
    assert read_sidecar(index_folder).row_texts[-1] == LATE
    assert read_index(index_folder).ntotal == len(CHUNKS) + 1
    assert not store.can_roll_back()


def test_what_another_run_built_since_is_not_swapped_in(index_folder, tuned, third):
    store, other = FaissStore(index_folder), FaissStore(index_folder)
    before = contents(index_folder)
    for built in (store, other):
        built.build(tuned if built is store else third)
        built.prepare(tuned if built is store else third)
    with pytest.raises(DeploymentError, match="another re-embedding was at work here"):
        store.swap(tuned)
    assert contents(index_folder) == before
    other.swap(third)
    assert other.is_on(third)
    other.roll_back()
    assert contents(index_folder) == before


def test_run_that_another_one_overtook_leaves_the_way_back(index_folder, tuned, third):
    class Overtaken(FolderModel):
        def embed_many(self, texts):
            steps.reembed([FaissStore(index_folder)], third)
            return super().embed_many(texts)

    before = contents(index_folder)
    store = FaissStore(index_folder)
    with pytest.raises(DeploymentError, match="changed while it was re-embedded"):
        store.build(Overtaken(tuned.name, tuned.fingerprint, tuned.embeddings, tuned.folder))
    assert store.is_on(third)
    steps.roll_back([store])
    assert contents(index_folder) == before


@pytest.mark.slow
def test_run_that_cannot_write_leaves_whole_what_another_one_built(index_folder, tuned):
    store = FaissStore(index_folder)
    store.build(tuned)
    store.prepare(tuned)
    index_bytes = (index_folder / "index.faiss").stat().st_size
    child = start_child(index_folder, tuned, limit=index_bytes - 10)  # room for the journal, which is less
    assert "its end is missing; the old vectors are in force and whole" in child.communicate()[1]
    store.swap(tuned)
    assert search(index_folder, tuned, CHUNKS[5]) == [CHUNKS[5]]


def test_swap_leaves_no_journal_but_one_that_another_run_is_at_work_with(index_folder, tuned, third):
    store = FaissStore(index_folder)
    store.build(third)  # and given up
    with VectorJournal(index_folder / ".embtune", tuned):
        steps.reembed([store], third)
    names = {path.name for path in (index_folder / ".embtune").iterdir()}
    assert {name for name in names if name.endswith((".keys", ".vectors"))} == {
        f"{tuned.fingerprint[:16]}-32.{end}" for end in ("keys", "vectors")
    }
    steps.reembed([store], tuned)
    names = {path.name for path in (index_folder / ".embtune").iterdir()}
    assert names == {"lock", "previous-index.faiss", "runs.json"}


class FailsToSwap(FaissStore):
    """A source that is uploaded to between its last check and its swap."""

    def swap(self, model):
        write_index_folder(self.folder, model, [*CHUNKS, LATE])
        super().swap(model)


class BreaksAtSwap(FaissStore):
    """A source whose disk fails when it is to be swapped."""

    def swap(self, model):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_failure_after_the_first_swap_names_it_and_both_ways_out(index_folder, stock, tuned, tmp_path):
    other = write_index_folder(index_folder.parent / "other", stock)
    environment = EnvironmentFile(tmp_path / ".env")
    environment.path.write_text("EMBEDDINGS_NAME=/models/stock\n")
    before = contents(index_folder)
    stores = [FaissStore(index_folder), FailsToSwap(other)]
    with pytest.raises(DeploymentError, match=r"other: changed .*handbook: on the new model already, while .*rollback"):
        steps.reembed(stores, tuned, environment)
    assert environment.get("EMBEDDINGS_NAME") == "/models/stock"
    with pytest.raises(DeploymentError, match=r"/models/stock, which it names, is no folder here.* give --model"):
        steps.roll_back(stores[:1], environment)
    assert steps.roll_back(stores[:1], environment, stock) == stores[:1]
    assert contents(index_folder) == before


def test_who_stops_it_between_two_swaps_is_told_what_is_half_done(index_folder, stock, tuned, tmp_path):
    class StoppedAtSwap(FaissStore):
        def swap(self, model):
            raise KeyboardInterrupt

    other = StoppedAtSwap(write_index_folder(index_folder.parent / "other", stock))
    environment = EnvironmentFile(tmp_path / ".env")
    with pytest.raises(KeyboardInterrupt) as stopped:
        steps.reembed([FaissStore(index_folder), other], tuned, environment)
    assert len(stopped.value.__notes__) == 1
    assert re.search(r"handbook: on the new model already, while .*\.env still names", stopped.value.__notes__[0])
    with pytest.raises(KeyboardInterrupt) as stopped:
        steps.reembed([other], tuned, environment)
    assert not hasattr(stopped.value, "__notes__")


def test_every_store_is_verified_before_the_first_is_swapped(index_folder, stock, tuned):
    class FailsToVerify(FaissStore):
        def build(self, model):
            super().build(model)
            write_index_folder(self.folder, stock, [*CHUNKS, LATE])

    other = FailsToVerify(write_index_folder(index_folder.parent / "other", stock))
    before = contents(index_folder)
    with pytest.raises(DeploymentError, match="other: changed while it was re-embedded"):
        steps.reembed([FaissStore(index_folder), other], tuned)
    assert contents(index_folder) == before


def test_env_that_cannot_be_renamed_after_the_swap(index_folder, tuned, tmp_path):
    environment = EnvironmentFile(tmp_path / ".env")

    class TurnsEnvironmentIntoFolder(FaissStore):
        def swap(self, model):
            super().swap(model)
            environment.path.mkdir()

    before = contents(index_folder)
    with pytest.raises(DeploymentError, match=r"\.env: .*handbook: on the new model already, while .*rollback, and"):
        steps.reembed([TurnsEnvironmentIntoFolder(index_folder)], tuned, environment)
    environment.path.rmdir()
    steps.roll_back([FaissStore(index_folder)], environment)
    assert contents(index_folder) == before
    assert list(tmp_path.glob(".env*")) == []


@pytest.mark.skipif(not Path("/proc").is_mount(), reason="no mount point that is there everywhere")
def test_mounted_env_is_refused_before_the_work(index_folder, tuned):
    with pytest.raises(DeploymentError, match="/proc: is a mount point"):
        steps.reembed([FaissStore(index_folder)], tuned, EnvironmentFile(Path("/proc")))
    assert not (index_folder / ".embtune").exists()


def test_rollback_by_half_is_refused(index_folder, stock, tuned, tmp_path):
    other = write_index_folder(index_folder.parent / "other", stock)
    stores = [FaissStore(index_folder), FaissStore(other)]
    environment = EnvironmentFile(tmp_path / ".env")
    environment.path.write_text("EMBEDDINGS_NAME=/models/stock\n")
    steps.reembed(stores, tuned, environment)
    shutil.rmtree(other / ".embtune")
    before = contents(index_folder), environment.path.read_bytes()
    with pytest.raises(DeploymentError, match=r"other: has vectors of .* nothing is rolled back"):
        steps.roll_back(stores, environment)
    assert (contents(index_folder), environment.path.read_bytes()) == before
    steps.roll_back(stores[:1], environment)
    assert environment.get("EMBEDDINGS_NAME") == "/models/stock"


def test_source_that_cannot_be_written_to_is_named_before_a_rollback(stock, tuned):
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to nobody
        folder = Path(name)
        folder.chmod(0o777)
        model = load_deployed_model(str(shutil.copytree(tuned.folder, folder / "tuned")))
        stores = [FaissStore(write_index_folder(folder / source, stock)) for source in "ab"]
        before = [contents(store.folder) for store in stores]
        environment = EnvironmentFile(folder / ".env")
        environment.path.write_text("EMBEDDINGS_NAME=all-mpnet-base-v2\n")
        steps.reembed(stores, model, environment)
        environment.path.chmod(0o644)
        environment.path.with_name(".env.embtune.json").chmod(0o644)
        for path in (folder / "a", folder / "a" / ".embtune", folder / "b" / ".embtune"):
            path.chmod(0o777)
        with as_nobody(), pytest.raises(DeploymentError, match=r"/b cannot be written to, so that nothing is rolled"):
            steps.roll_back(stores, environment)
        assert environment.get_switched("EMBEDDINGS_NAME") == str(folder / "tuned")
        assert [store.is_on(model) for store in stores] == [True, True]
        steps.roll_back(stores, environment)
        assert [contents(store.folder) for store in stores] == before


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        (OSError(errno.EIO, "broken"), r"other: broken; .*\.env, .*handbook: back already, and not yet .*other: "),
        (KeyboardInterrupt("killed"), "killed"),
    ],
)
def test_rollback_that_stops_half_way_goes_on_with_the_same_command(index_folder, stock, tuned, tmp_path, stop, said):
    class StopsAtRollback(FaissStore):
        def roll_back(self):
            raise stop

    folders = [index_folder, write_index_folder(index_folder.parent / "other", stock)]
    stores, before = [FaissStore(folder) for folder in folders], [contents(folder) for folder in folders]
    environment = EnvironmentFile(tmp_path / ".env")
    environment.path.write_text("EMBEDDINGS_NAME=all-mpnet-base-v2\n")
    steps.reembed(stores, tuned, environment)
    with pytest.raises((DeploymentError, KeyboardInterrupt), match=said):
        steps.roll_back([stores[0], StopsAtRollback(folders[1])], environment)
    assert steps.roll_back(stores, environment) == stores[1:]
    assert [contents(folder) for folder in folders] == before
    assert list(tmp_path.glob(".env*")) == [environment.path]


def test_chunks_that_come_while_a_rollback_looks_around_are_not_lost(index_folder, tuned, tmp_path, monkeypatch):
    environment = EnvironmentFile(tmp_path / ".env")
    steps.reembed([FaissStore(index_folder)], tuned, environment)
    take_back = environment.take_back

    def upload_and_take_back():
        write_index_folder(index_folder, tuned, [*CHUNKS, LATE])
        return take_back()

    monkeypatch.setattr(environment, "take_back", upload_and_take_back)
    with pytest.raises(DeploymentError, match=r"chunks were added .*\.env: back already, and not yet .*handbook"):
        steps.roll_back([FaissStore(index_folder)], environment)
    assert read_index(index_folder).ntotal == len(CHUNKS) + 1
    assert (index_folder / ".embtune" / "previous-index.faiss").is_file()


def test_way_out_of_a_refused_rollback_puts_all_on_the_old_model(index_folder, stock, tuned, tmp_path):
    environment = tmp_path / ".env"
    environment.write_text(f"EMBEDDINGS_NAME={stock.folder}\n")
    given = ("--indexes", index_folder.parent, "--env", environment)
    reembed_command("--model", tuned.folder, *given)
    since = write_index_folder(index_folder.parent / "since", tuned)
    refused = reembed_command("--rollback", *given)
    assert refused.stderr.endswith("embed them all with the old model instead: embtune reembed --model OLD_MODEL\n")
    assert reembed_command("--model", stock.folder, *given).exit_code == 0
    assert [examine(FaissStore(folder), stock) for folder in (index_folder, since)] == [[], []]
    assert environment.read_text() == f"EMBEDDINGS_NAME={stock.folder}\n"


def test_second_switch_that_failed_goes_back_to_the_model_that_env_names(index_folder, stock, tuned, third, tmp_path):
    other = write_index_folder(index_folder.parent / "other", stock)
    stores = [FaissStore(index_folder), FaissStore(other)]
    environment = EnvironmentFile(tmp_path / ".env")
    environment.path.write_text(f"EMBEDDINGS_NAME={stock.folder}\n")
    steps.reembed(stores, tuned, environment)
    write_index_folder(other, tuned, [*CHUNKS, LATE])  # could not go back to the stock model, and need not
    before = contents(index_folder), environment.path.read_bytes()
    with pytest.raises(DeploymentError, match=r"handbook: on the new model already, while .*rollback"):
        steps.reembed([stores[0], BreaksAtSwap(other)], third, environment)
    assert steps.roll_back(stores, environment) == stores[:1]
    assert (contents(index_folder), environment.path.read_bytes()) == before
    assert search(other, tuned, LATE) == [LATE]


@pytest.mark.parametrize("name", ["a folder", "a hub name"])
def test_second_switch_that_failed_goes_back_no_farther(index_folder, stock, tuned, third, tmp_path, name):
    folder = shutil.copytree(tuned.folder, tmp_path / "models" / "tuned")
    environment = EnvironmentFile(tmp_path / ".env")
    environment.path.write_text(f"EMBEDDINGS_NAME={stock.folder if name == 'a folder' else 'all-mpnet-base-v2'}\n")
    stores = [FaissStore(index_folder), FaissStore(write_index_folder(index_folder.parent / "other", stock))]
    steps.reembed(stores, load_deployed_model(str(folder)), environment)
    with pytest.raises(DeploymentError, match="on the new model already"):
        steps.reembed([stores[0], BreaksAtSwap(stores[1].folder)], third, environment)
    shutil.rmtree(folder)  # so that nothing can be compared with it
    before = contents(index_folder), environment.path.read_bytes()
    with pytest.raises(DeploymentError, match=r"handbook: the vectors that would come back are not of .*OLD_MODEL"):
        steps.roll_back(stores, environment)
    assert (contents(index_folder), environment.path.read_bytes()) == before


def test_model_that_was_written_again_into_the_same_folder_is_no_way_back(index_folder, stock, tuned, third, tmp_path):
    folder = shutil.copytree(tuned.folder, tmp_path / "models" / "tuned")
    environment = EnvironmentFile(tmp_path / ".env")
    environment.path.write_text(f"EMBEDDINGS_NAME={stock.folder}\n")
    store = FaissStore(index_folder)
    steps.reembed([store], load_deployed_model(str(folder)), environment)
    shutil.rmtree(folder)
    shutil.copytree(third.folder, folder)
    steps.reembed([store], load_deployed_model(str(folder)), environment)
    before = contents(index_folder), environment.path.read_bytes()
    with pytest.raises(DeploymentError, match=r"the vectors that would come back are not of .*OLD_MODEL"):
        steps.roll_back([store], environment)
    assert (contents(index_folder), environment.path.read_bytes()) == before
    steps.reembed([store], stock, environment)
    assert search(index_folder, stock, CHUNKS[7]) == [CHUNKS[7]]
    assert environment.get("EMBEDDINGS_NAME") == str(stock.folder)


def test_env_that_was_set_by_hand_is_not_left_behind(index_folder, tuned, tmp_path):
    store = FaissStore(index_folder)
    steps.reembed([store], tuned)
    environment = EnvironmentFile(tmp_path / ".env")
    environment.path.write_text(f"EMBEDDINGS_NAME={tuned.folder}\n")
    with pytest.raises(DeploymentError, match="the vectors that would come back are not of"):
        steps.roll_back([store], environment)
    assert store.is_on(tuned)


@pytest.mark.parametrize("model", [[], ["--model"]])
def test_env_that_names_a_server_and_has_lost_its_record_is_not_left_behind(index_folder, tuned, tmp_path, model):
    environment = tmp_path / ".env"
    environment.write_text("EMBEDDINGS_NAME=/models/stock\n")
    given = ("--indexes", index_folder, "--env", environment)
    reembed_command("--model", tuned.folder, *given, "--served-at", "http://embed:8765#tuned")
    (tmp_path / ".env.embtune.json").unlink()
    refused = reembed_command("--rollback", *given, *model, *([tuned.folder] if model else []))
    assert refused.exit_code == 2
    assert ("embed them all with the old model" if model else "give --model, too") in refused.stderr
    assert FaissStore(index_folder).is_on(tuned)


def test_rollback_without_env_goes_back_to_one_model(index_folder, stock, tuned, third):
    stores = [FaissStore(index_folder), FaissStore(write_index_folder(index_folder.parent / "other", stock))]
    steps.reembed(stores, tuned)
    steps.reembed(stores[:1], third)
    with pytest.raises(DeploymentError, match=r"would go back to vectors of different models.* give --env"):
        steps.roll_back(stores)
    assert stores[0].is_on(third)
    steps.roll_back(stores[:1])
    assert search(index_folder, tuned, CHUNKS[7]) == [CHUNKS[7]]


def test_rollback_without_env_says_what_is_left_to_do(index_folder, tuned):
    steps.reembed([FaissStore(index_folder)], tuned)
    result = CliRunner().invoke(main, ("reembed", "--rollback", "--indexes", str(index_folder)))
    assert result.exit_code == 0
    assert "set EMBEDDINGS_NAME, and EMBEDDINGS_BASE_URL if any, in DocsGPT's .env back" in result.output


@pytest.mark.parametrize("record", ["[{", "null", '{"a": 1}', '[{"model": "x"}]', "[" * 100_000])
def test_damaged_record_of_runs_is_named(index_folder, tuned, record):
    steps.reembed([FaissStore(index_folder)], tuned)
    (index_folder / ".embtune" / "runs.json").write_text(record)
    with pytest.raises(DeploymentError, match=r"runs\.json: damaged"):
        FaissStore(index_folder).can_roll_back()


def switched_to(model, index_folder, environment, stock):
    environment.path.write_text(f"EMBEDDINGS_NAME={stock.folder}\n")
    steps.reembed([FaissStore(index_folder)], model, environment)


def test_switch_says_what_it_keeps_no_longer(index_folder, stock, tuned, third, tmp_path):
    gives_way = f"{index_folder}: the vectors that are kept from before the last switch give way to those in force now"
    environment = EnvironmentFile(tmp_path / ".env")
    stored = ["--indexes", str(index_folder.parent), "--env", str(environment.path)]

    def said(model, *options):
        result = reembed_command("--model", str(model.folder), *stored, *options)
        assert result.exit_code == 0, result.output
        return result.stdout

    environment.path.write_text(f"EMBEDDINGS_NAME={stock.folder}\n")
    assert "give way" not in said(tuned, "--dry-run") + said(tuned) + said(tuned)
    assert gives_way in said(third, "--dry-run")
    assert gives_way in said(third)
    assert "give way" not in said(third, "--dry-run") + said(third)


def test_model_that_a_rollback_brings_back_is_not_embedded_again(index_folder, stock, tuned, third, tmp_path):
    environment = EnvironmentFile(tmp_path / ".env")
    switched_to(tuned, index_folder, environment, stock)
    first = contents(index_folder)
    steps.reembed([FaissStore(index_folder)], third, environment)
    steps.roll_back([FaissStore(index_folder)], environment)
    assert contents(index_folder) == first
    assert steps.reembed([FaissStore(index_folder)], tuned, environment) == []
    assert len(steps.reembed([FaissStore(index_folder)], third, environment)) == 1
    assert steps.roll_back([FaissStore(index_folder)], environment) != []
    assert contents(index_folder) == first
    with pytest.raises(DeploymentError, match="no re-embedding to take back"):
        steps.roll_back([FaissStore(index_folder)], environment)


def test_rollback_mends_an_index_that_was_damaged_since(index_folder, stock, tuned, tmp_path):
    before, environment = contents(index_folder), EnvironmentFile(tmp_path / ".env")
    switched_to(tuned, index_folder, environment, stock)
    os.truncate(index_folder / "index.faiss", 100)
    steps.roll_back([FaissStore(index_folder)], environment)
    assert contents(index_folder) == before


def test_source_without_chunks_is_rolled_back_with_the_others(index_folder, stock, tuned, tmp_path):
    empty = write_index_folder(index_folder.parent / "empty", stock, [])
    environment = EnvironmentFile(tmp_path / ".env")
    environment.path.write_text(f"EMBEDDINGS_NAME={stock.folder}\n")
    stores = [FaissStore(empty), FaissStore(index_folder)]
    steps.reembed(stores, tuned, environment)
    assert steps.roll_back(stores, environment) == stores
    assert list(index_folder.parent.rglob(".embtune")) == []


def test_replaced_index_that_was_damaged_since_is_no_way_back(index_folder, stock, tuned, tmp_path):
    environment = EnvironmentFile(tmp_path / ".env")
    switched_to(tuned, index_folder, environment, stock)
    os.truncate(index_folder / ".embtune" / "previous-index.faiss", 100)
    with pytest.raises(DeploymentError, match="no old ones to go back to"):
        steps.roll_back([FaissStore(index_folder)], environment)
    assert FaissStore(index_folder).is_on(tuned)


def test_chunks_added_since_are_not_thrown_away_by_a_rollback(index_folder, tuned, stock):
    store = FaissStore(index_folder)
    steps.reembed([store], tuned)
    write_index_folder(index_folder, tuned, [*CHUNKS, "A chunk that came later."])
    with pytest.raises(DeploymentError, match="--model OLD_MODEL"):
        steps.roll_back([store])
    steps.reembed([store], stock)
    assert search(index_folder, stock, "A chunk that came later.") == ["A chunk that came later."]


def test_chunk_of_a_worker_that_was_not_restarted_is_mended_and_not_taken_for_the_old_index(
    index_folder, stock, tuned, third
):
    store = FaissStore(index_folder)
    steps.reembed([store], tuned)
    stored = index_vectors(read_index(index_folder))
    write_index_folder(index_folder, stock, [*CHUNKS, LATE])
    rewrite_vectors(index_folder, lambda vectors: np.vstack([stored, vectors[-1:]]))
    assert [finding.problem for finding in examine(store, tuned)] == ["mixed"]
    assert steps.reembed([store], tuned) == [store]
    assert examine(store, tuned) == []
    with pytest.raises(DeploymentError, match="--model OLD_MODEL"):
        steps.roll_back([store])
    before = contents(index_folder)
    steps.reembed([store], third)
    steps.roll_back([store])
    assert contents(index_folder) == before


def test_runs_that_are_not_finished_leave_the_way_back(index_folder, tuned, third):
    before = contents(index_folder)
    store = FaissStore(index_folder)
    steps.reembed([store], tuned)
    for _ in range(3):
        store.build(third)
        assert store.is_on(tuned)
    steps.roll_back([store])
    assert contents(index_folder) == before


def test_damaged_source_is_named_before_another_is_embedded(index_folder, stock, tuned):
    broken = write_index_folder(index_folder.parent / "zz", stock)
    (broken / "index.faiss").write_bytes(b"not an index")
    before = contents(index_folder)
    with pytest.raises(DeploymentError, match=r"zz/index\.faiss: damaged"):
        steps.reembed([FaissStore(folder) for folder in find_index_folders(index_folder.parent)], tuned)
    assert contents(index_folder) == before
    assert not (index_folder / WORK).exists()


def test_tampered_work_is_caught_before_the_swap(index_folder, tuned):
    store = FaissStore(index_folder)
    store.build(tuned)
    built = index_folder / ".embtune" / "index.faiss"
    built.write_bytes(built.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(DeploymentError, match="not what was built"):
        store.prepare(tuned)


def test_journal_drops_what_a_crash_tore_off(tmp_path, tuned):
    with VectorJournal(tmp_path, tuned) as journal:
        journal.embed_missing(CHUNKS[:20])
    for path in tmp_path.iterdir():
        with path.open("ab") as file:
            file.write(b"torn")
    with VectorJournal(tmp_path, tuned) as journal:
        assert all(text in journal for text in CHUNKS[:20])
        journal.embed_missing(CHUNKS[:30])
        assert same_vectors(journal.vectors(CHUNKS[:30]), tuned.embed(CHUNKS[:30]))


def test_two_runs_at_once_are_refused(tmp_path, tuned):
    with VectorJournal(tmp_path, tuned), pytest.raises(DeploymentError, match="another re-embedding is at work"):
        VectorJournal(tmp_path, tuned)


# The stock and the tuned vectors of a killed run must be told apart, so the child re-embeds a real index for real;
# only its blocks are small, so that there are many moments between them.
CHILD = """
import sys
from docsgpt_embtune.deployment import reembed, vector_journal
from docsgpt_embtune.deployment.faiss_store import FaissStore
from docsgpt_embtune.deployment.deployed_model import load_deployed_model
from pathlib import Path
vector_journal.BLOCK = 2
model = load_deployed_model(sys.argv[2])
print("ready", flush=True)
reembed.reembed([FaissStore(Path(sys.argv[1]))], model)
"""


def start_child(folder, model, limit=None):
    set_limit = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CHILD, str(folder), str(model.folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=set_limit,
    )  # fmt: skip
    child.stdout.readline()
    return child


@pytest.mark.slow
def test_killed_at_random_moments_the_index_is_always_whole(index_folder, stock, tuned):
    draw = random.Random(0)
    for _ in range(3):
        child = start_child(index_folder, tuned)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(draw.uniform(0, 0.4))
        child.kill()
        child.communicate()
        in_force = tuned if FaissStore(index_folder).is_on(tuned) else stock
        assert same_vectors(index_vectors(read_index(index_folder)), in_force.embed(CHUNKS))
        assert search(index_folder, in_force, CHUNKS[11]) == [CHUNKS[11]]
    steps.reembed([FaissStore(index_folder)], tuned)
    assert same_vectors(index_vectors(read_index(index_folder)), tuned.embed(CHUNKS))
    FaissStore(index_folder).roll_back()
    assert same_vectors(index_vectors(read_index(index_folder)), stock.embed(CHUNKS))


@pytest.mark.slow
def test_disk_that_is_full_leaves_the_old_index_in_force(index_folder, tuned):
    before = contents(index_folder)
    child = start_child(index_folder, tuned, limit=4000)  # bytes a file may have: the journal needs 8,000
    _, errors = child.communicate()
    assert child.returncode == 1
    assert "the old vectors are in force and whole" in errors
    assert contents(index_folder) == before
    steps.reembed([FaissStore(index_folder)], tuned)
    assert search(index_folder, tuned, CHUNKS[5]) == [CHUNKS[5]]


def test_env_that_cannot_be_written_is_said_before_the_swap(index_folder, tuned, tmp_path):
    before = contents(index_folder)
    environment = EnvironmentFile(tmp_path / ("e" * 250))  # no name for a file beside it
    environment.path.write_text("EMBEDDINGS_NAME=/models/stock\n")
    with pytest.raises(DeploymentError, match=r"eee: File name too long; the old vectors are in force"):
        steps.reembed([FaissStore(index_folder)], tuned, environment)
    assert contents(index_folder) == before
    assert environment.get("EMBEDDINGS_NAME") == "/models/stock"
    (index_folder.parent / ".env").write_text("")
    steps.reembed([FaissStore(index_folder)], tuned, EnvironmentFile(index_folder.parent / ".env"))
    assert search(index_folder, tuned, CHUNKS[5]) == [CHUNKS[5]]


def test_too_little_disk_is_said_before_the_work(index_folder, tuned, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(DeploymentError, match=r"has 0 MB free, and .* MB are needed beside the old vectors"):
        steps.require_disk([FaissStore(index_folder)], tuned, index_folder)


def reembed_command(*arguments):
    return CliRunner().invoke(main, ["reembed", *map(str, arguments)])


def test_ctrl_c_says_how_to_go_on(index_folder, tuned, monkeypatch):
    def stop(*_):
        stopped = KeyboardInterrupt()
        stopped.add_note("documents: on the new model already")
        raise stopped

    given = ("--model", tuned.folder, "--indexes", index_folder)
    with monkeypatch.context() as patched:
        patched.setattr(FaissStore, "prepare", stop)
        stopped = reembed_command(*given)
    assert stopped.stderr.count("stopped") == 1
    said = (
        "stopped: no vector is lost, and the same command goes on from here\nbut documents: on the new model already\n"
    )
    assert said in stopped.stderr
    assert stopped.exit_code == 130
    assert reembed_command(*given).exit_code == 0
    assert examine(FaissStore(index_folder), tuned) == []


def test_dry_run_of_a_rollback_says_what_it_would_do_or_why_not_and_takes_nothing_back(index_folder, tuned, tmp_path):
    environment = tmp_path / ".env"
    environment.write_text("VECTOR_STORE=faiss\n")
    given = ("--indexes", index_folder, "--env", environment)
    reembed_command("--model", tuned.folder, *given)
    switched = contents(index_folder), environment.read_text()
    would = reembed_command(*given, "--rollback", "--dry-run")
    assert would.output.splitlines() == [
        f"{index_folder}: would go back",
        f"{environment}: EMBEDDINGS_NAME=(not set) instead of {tuned.folder}",
    ]
    assert (contents(index_folder), environment.read_text()) == switched
    reembed_command(*given, "--rollback")
    refused = reembed_command(*given, "--rollback", "--dry-run")
    assert (refused.exit_code, "no re-embedding to take back" in refused.stderr) == (2, True)


def test_env_that_names_a_server_is_left_alone(index_folder, tuned, tmp_path):
    before = contents(index_folder)
    environment = tmp_path / ".env"
    environment.write_text("EMBEDDINGS_BASE_URL=http://user:hunter2@127.0.0.1:8765\nEMBEDDINGS_NAME=tuned\n")
    result = reembed_command("--model", tuned.folder, "--indexes", index_folder, "--env", environment)
    assert result.exit_code == 2
    assert "hunter2" not in result.stderr
    assert "EMBEDDINGS_BASE_URL=http://127.0.0.1:8765, so that DocsGPT asks that server" in result.stderr
    assert "give --served-at URL#NAME" in result.stderr
    assert contents(index_folder) == before
    assert "EMBEDDINGS_NAME=tuned" in environment.read_text()


def test_env_is_switched_to_the_server_that_has_the_model_and_back(index_folder, tuned, tmp_path):
    before = contents(index_folder)
    environment = tmp_path / ".env"
    settings = "EMBEDDINGS_BASE_URL=http://user:hunter2@old:80\nEMBEDDINGS_NAME=stock\nAPI_KEY=x\n"
    environment.write_text(settings)
    given = ["--indexes", index_folder.parent, "--env", environment]
    without_scheme = reembed_command("--model", tuned.folder, *given, "--served-at", "embed:8765#tuned")
    assert "embed:8765#tuned: does not begin with http:// or https://; give URL#MODEL" in without_scheme.stderr
    assert (contents(index_folder), environment.read_text()) == (before, settings)

    address = "http://user:hunter3@embed:8765#tuned"
    planned = reembed_command("--model", tuned.folder, *given, "--served-at", address, "--dry-run")
    assert f"{environment}: EMBEDDINGS_BASE_URL=http://embed:8765 instead of http://old:80" in planned.output
    assert environment.read_text() == settings

    result = reembed_command("--model", tuned.folder, *given, "--served-at", address)
    assert f"BASE_URL=http://embed:8765\n{environment}: EMBEDDINGS_NAME=tuned" in result.output
    switched = "EMBEDDINGS_BASE_URL=http://user:hunter3@embed:8765\nEMBEDDINGS_NAME=tuned\nAPI_KEY=x\n"
    assert environment.read_text() == switched
    assert examine(FaissStore(index_folder), tuned) == []

    environment.write_text(switched.replace("@embed", "@elsewhere"))
    changed = reembed_command(*given, "--rollback")
    assert "(EMBEDDINGS_BASE_URL=http://old:80; to the letter in .env.embtune.json)" in changed.stderr
    environment.write_text(switched)

    write_index_folder(index_folder.parent / "since", tuned)
    refused = reembed_command("--model", tuned.folder, *given, "--rollback")
    assert "has vectors of" in refused.stderr
    shutil.rmtree(index_folder.parent / "since")
    rolled_back = reembed_command(*given, "--rollback")
    assert "sources that were uploaded since are found with --model" in rolled_back.stderr
    by_hand = reembed_command("--model", tuned.folder, *given[:2], "--served-at", address)
    assert "set in DocsGPT's .env:  EMBEDDINGS_BASE_URL=http://embed:8765 EMBEDDINGS_NAME=tuned" in by_hand.output
    reembed_command(*given[:2], "--rollback")
    for said in (planned, result, changed, rolled_back, by_hand):
        assert "hunter" not in said.output + said.stderr
    assert environment.read_text() == settings
    assert contents(index_folder) == before


def test_env_that_is_not_there_is_no_new_file(index_folder, tuned, tmp_path):
    result = reembed_command("--model", tuned.folder, "--indexes", index_folder, "--env", tmp_path / "env")
    assert result.exit_code == 2
    assert not (tmp_path / "env").exists()


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        (Reading(64, "mean"), "(windows over the whole chunk, 64 tokens): its Python needs the plugin"),
        (Reading(32), "(the chunk's beginning, 32 tokens): its Python needs the plugin (embtune install)"),
    ],
)
def test_another_reading_asks_for_the_plugin(index_folder, tuned, tmp_path, reading, said):
    assert "plugin" not in reembed_command("--model", tuned.folder, "--indexes", index_folder, "--dry-run").output
    folder = shutil.copytree(tuned.folder, tmp_path / "exported")
    write_manifest(folder, {**read_manifest(folder), "serving": {"reading": reading.to_dict()}})
    for how in (["--dry-run"], []):
        result = reembed_command("--model", folder, "--indexes", index_folder, *how)
        assert result.exit_code == 0, result.output
        assert said in result.output


def test_keywords_ask_for_the_plugin(index_folder, tuned, tmp_path):
    folder = shutil.copytree(tuned.folder, tmp_path / "with-keywords")
    keywords = replace(Keywords.of(CHUNKS, tuned.dimension), weight=0.2)
    keywords.write(folder)
    manifest = read_manifest(folder)
    manifest["dimension"] += keywords.width
    manifest["fingerprint"] = fingerprint(folder)
    write_manifest(folder, manifest)
    for how in (["--dry-run"], []):
        result = reembed_command("--model", folder, "--indexes", index_folder, *how)
        assert result.exit_code == 0, result.output
        assert "needs the plugin (embtune install)" in result.output
