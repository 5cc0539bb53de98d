"""DocsGPT's `.env` is switched with the vectors and back with them, or is left alone."""

import shutil
from pathlib import Path

import pytest

from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.deployment.doctor import examine
from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from docsgpt_embtune.deployment.faiss_store import FaissStore
from docsgpt_embtune.errors import DeploymentError

from ..conftest import CHUNKS, contents, search, write_index_folder
from .runs import reembed_command


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
