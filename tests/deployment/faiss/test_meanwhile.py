"""Uploads and other runs during a run: nothing of theirs is overwritten or lost."""

import pytest
from click.testing import CliRunner

from docsgpt_embtune.cli import main
from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.deployment.deployed_model import FolderModel
from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from docsgpt_embtune.deployment.faiss_folder import (
    read_index,
    read_sidecar,
)
from docsgpt_embtune.deployment.faiss_store import FaissStore
from docsgpt_embtune.deployment.file_lock import lock
from docsgpt_embtune.deployment.vector_journal import VectorJournal
from docsgpt_embtune.errors import DeploymentError

from ..conftest import CHUNKS, contents, search, write_index_folder
from .runs import LATE, switched_to


@pytest.mark.parametrize("command", ["reembed", "rollback", "forget"])
def test_switch_of_a_deployment_that_another_one_is_at_work_on_is_refused_at_once(
    index_folder, stock, tuned, third, tmp_path, command
):
    environment = EnvironmentFile(tmp_path / ".env")
    switched_to(tuned, index_folder, environment, stock)
    where = ["--indexes", str(index_folder), "--env", str(environment.path)]
    arguments = {
        "reembed": ["reembed", "--model", str(third.folder), *where],
        "rollback": ["reembed", "--rollback", *where],
        "forget": ["forget", "--yes", *where],
    }[command]
    before = contents(index_folder), contents(tmp_path)
    with environment.alone():
        refused = CliRunner().invoke(main, arguments)
        assert refused.exit_code == 2
        assert "another embtune reembed or forget is at work on this deployment" in refused.stderr
        assert CliRunner().invoke(main, [*arguments, "--dry-run"]).exit_code == (2 if command == "forget" else 0)
    assert (contents(index_folder), contents(tmp_path)) == before
    assert CliRunner().invoke(main, arguments).exit_code == 0


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


def test_upload_while_the_chunks_are_read_is_not_taken_for_them(index_folder, stock, tuned):
    class UploadsMeanwhile(FaissStore):
        def _read_consistent(self):
            read = super()._read_consistent()
            write_index_folder(index_folder, stock, [*CHUNKS[:-1], LATE])
            return read

    with pytest.raises(DeploymentError, match="changed while it was re-embedded"):
        UploadsMeanwhile(index_folder).build(tuned)


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


def test_no_other_run_writes_while_what_was_built_is_verified(index_folder, tuned):
    class TriesToGetIn(FolderModel):
        def embed(self, texts):
            with (index_folder / ".embtune" / "lock").open("ab") as file, pytest.raises(BlockingIOError):
                lock(file)
            return super().embed(texts)

    store = FaissStore(index_folder)
    store.build(tuned)
    store.prepare(TriesToGetIn(tuned.name, tuned.fingerprint, tuned.embeddings, tuned.folder))


def test_no_other_run_writes_while_an_index_is_put_in_its_place(index_folder, tuned):
    class TriesToGetIn(FaissStore):
        def _sources(self):
            with (index_folder / ".embtune" / "lock").open("ab") as file, pytest.raises(BlockingIOError):
                lock(file)
            return super()._sources()

    FaissStore(index_folder).build(tuned)
    FaissStore(index_folder).prepare(tuned)
    TriesToGetIn(index_folder).swap(tuned)
    TriesToGetIn(index_folder).roll_back()


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


def test_two_runs_at_once_are_refused(tmp_path, tuned):
    with VectorJournal(tmp_path, tuned), pytest.raises(DeploymentError, match="another re-embedding is at work"):
        VectorJournal(tmp_path, tuned)
