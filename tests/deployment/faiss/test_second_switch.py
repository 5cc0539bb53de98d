"""A second switch after the first: what is kept of each, and how far back the way goes."""

import shutil

import pytest

from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.deployment.deployed_model import load_deployed_model
from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from docsgpt_embtune.deployment.faiss_store import FaissStore
from docsgpt_embtune.errors import DeploymentError

from ..conftest import CHUNKS, contents, search, write_index_folder
from .runs import LATE, BreaksAtSwap, reembed_command, switched_to


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


def test_copy_that_an_unfinished_switch_left_does_not_take_the_place_of_the_way_back(index_folder, tuned, third):
    before, store = contents(index_folder), FaissStore(index_folder)
    steps.reembed([store], tuned)
    store.build(third)
    store.prepare(third)  # and was stopped
    store.build(tuned)
    store.prepare(tuned)
    store.swap(tuned)
    steps.roll_back([store])
    assert contents(index_folder) == before
