"""Runs by another user than DocsGPT's: root, who may do all and leaves files behind, or one who may not write."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.deployment.deployed_model import FolderModel, load_deployed_model
from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from docsgpt_embtune.deployment.faiss_folder import find_index_folders
from docsgpt_embtune.deployment.faiss_store import FaissStore
from docsgpt_embtune.errors import DeploymentError, ModelFolderError
from docsgpt_embtune.manifest import read_manifest

from ..conftest import as_nobody, contents, write_index_folder

NOBODY = 65534


@pytest.fixture
def open_folder():
    """A folder below none of pytest's, which are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_what_root_switched_its_owner_can_roll_back_and_switch_again(open_folder, stock, tuned):
    model = load_deployed_model(str(shutil.copytree(tuned.folder, open_folder / "tuned")))
    store = FaissStore(write_index_folder(open_folder / "a", stock))
    environment = EnvironmentFile(open_folder / ".env")
    environment.path.write_text("EMBEDDINGS_NAME=all-mpnet-base-v2\n")
    environment.path.chmod(0o600)
    for path in (store.folder, *store.folder.iterdir(), environment.path):
        os.chown(path, NOBODY, NOBODY)
    before = contents(store.folder)
    steps.reembed([store], model, environment)
    with as_nobody():
        steps.roll_back([store], environment)
        assert contents(store.folder) == before
        steps.reembed([store], model, environment)


@pytest.fixture
def folder_of_nobody(open_folder, stock):
    folder = write_index_folder(open_folder / "a", stock)
    for path in (folder, *folder.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    return folder


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_what_root_is_still_embedding_is_its_owners_already(folder_of_nobody, tuned):
    owners = set()

    class LooksAtOwners(FolderModel):
        def embed_many(self, texts):
            work = folder_of_nobody / ".embtune"
            owners.update(path.stat().st_uid for path in (work, *work.iterdir()))
            return super().embed_many(texts)

    FaissStore(folder_of_nobody).build(LooksAtOwners(tuned.name, tuned.fingerprint, tuned.embeddings, tuned.folder))
    assert owners == {NOBODY}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_run_of_root_that_failed_is_finished_by_its_owner(open_folder, folder_of_nobody, tuned):
    class FailsToRecord(FaissStore):
        def _put_on_record(self, before, model):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    model = load_deployed_model(str(shutil.copytree(tuned.folder, open_folder / "tuned")))
    with pytest.raises(DeploymentError, match="Input/output error"):
        steps.reembed([FailsToRecord(folder_of_nobody)], model)
    with as_nobody():
        steps.reembed([FaissStore(folder_of_nobody)], model)
    assert FaissStore(folder_of_nobody).is_on(model)


def test_record_of_env_that_may_not_be_read_is_not_called_damaged(open_folder):
    environment = EnvironmentFile(open_folder / ".env")
    with environment.switched({"EMBEDDINGS_NAME": "/models/tuned"}):
        pass
    environment.path.with_name(".env.embtune.json").chmod(0)
    with as_nobody(), pytest.raises(DeploymentError, match=r"embtune\.json: cannot be read \(Permission denied\); run"):
        environment.before_switch()


def test_model_folder_that_is_closed_to_docsgpts_user_is_not_called_broken(open_folder, tuned):
    folder = Path(shutil.copytree(tuned.folder, open_folder / "tuned"))
    folder.chmod(0o700 if os.geteuid() == 0 else 0)
    try:
        with as_nobody(), pytest.raises(ModelFolderError, match=r"cannot be read \(Permission denied\); let the user"):
            read_manifest(folder)
    finally:
        folder.chmod(0o700)


def test_source_that_cannot_be_written_to_is_named_before_another_is_embedded(open_folder, stock, tuned):
    stores = [FaissStore(write_index_folder(open_folder / source, stock)) for source in "ab"]
    stores[0].folder.chmod(0o777)
    stores[1].folder.chmod(0o555)
    for what in (steps.plan, steps.reembed):
        with as_nobody(), pytest.raises(DeploymentError, match=r"/b cannot be written to, so that nothing is embedded"):
            what(stores, tuned)
    assert not list(stores[0].folder.glob(".*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_record_that_roots_rollback_writes_anew_is_its_owners(folder_of_nobody, tuned, third):
    store, work = FaissStore(folder_of_nobody), folder_of_nobody / ".embtune"
    for model in (tuned, third):
        steps.reembed([store], model)
    steps.roll_back([store])
    assert {path.stat().st_uid for path in (work, work / "runs.json")} == {NOBODY}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_work_that_is_not_docsgpts_users_is_named_before_another_is_embedded(open_folder, folder_of_nobody, tuned):
    (folder_of_nobody / ".embtune").mkdir()
    first = FaissStore(Path(shutil.copytree(folder_of_nobody, open_folder / "0")))
    for path in (first.folder, *first.folder.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    with (
        as_nobody(),
        pytest.raises(DeploymentError, match=r"/a/\.embtune cannot be written to, so that nothing is emb"),
    ):
        steps.reembed([first, FaissStore(folder_of_nobody)], tuned)
    assert not list((first.folder / ".embtune").iterdir())


def test_folder_that_may_not_be_read_is_not_passed_over(open_folder, stock):
    write_index_folder(open_folder / "a", stock)
    write_index_folder(open_folder / "closed" / "b", stock)
    (open_folder / "closed").chmod(0o700 if os.geteuid() == 0 else 0)
    with as_nobody(), pytest.raises(DeploymentError, match=r"/closed: cannot be read \(Permission denied\)"):
        find_index_folders(open_folder)
    (open_folder / "closed").chmod(0o700)
