"""The way back, to the byte, and for all sources or for none."""

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from docsgpt_embtune.cli import main
from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.deployment.deployed_model import load_deployed_model
from docsgpt_embtune.deployment.doctor import examine
from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from docsgpt_embtune.deployment.faiss_folder import (
    read_index,
)
from docsgpt_embtune.deployment.faiss_store import FaissStore
from docsgpt_embtune.errors import DeploymentError

from ..conftest import CHUNKS, as_nobody, contents, rewrite_vectors, search, write_index_folder
from .runs import LATE, reembed_command, switched_to


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


def test_rollback_by_half_is_refused(index_folder, stock, tuned, tmp_path):
    other = write_index_folder(index_folder.parent / "other", stock)
    stores = [FaissStore(index_folder), FaissStore(other)]
    environment = EnvironmentFile(tmp_path / ".env")
    environment.path.write_text("EMBEDDINGS_NAME=/models/stock\n")
    steps.reembed(stores, tuned, environment)
    shutil.rmtree(other / ".embtune")
    rewrite_vectors(
        other, lambda vectors: np.vstack([vectors[:9], np.roll(vectors[9:], 1, axis=1)])
    )  # a few are enough
    before = contents(index_folder), environment.path.read_bytes()
    with pytest.raises(DeploymentError, match=r"other: has vectors of .* nothing is rolled back"):
        steps.roll_back(stores, environment)
    assert (contents(index_folder), environment.path.read_bytes()) == before
    steps.roll_back(stores[:1], environment)
    assert environment.get("EMBEDDINGS_NAME") == "/models/stock"


@pytest.mark.parametrize(("others", "is_way_back"), [(5, True), (len(CHUNKS) - 5, False)])
def test_old_vectors_may_be_another_models_in_part_but_not_for_the_most(
    index_folder, stock, tuned, tmp_path, others, is_way_back
):
    rewrite_vectors(index_folder, lambda old: np.vstack([np.roll(old[:others], 1, axis=1), old[others:]]))
    before, environment = contents(index_folder), EnvironmentFile(tmp_path / ".env")
    switched_to(tuned, index_folder, environment, stock)
    if is_way_back:
        steps.roll_back([FaissStore(index_folder)], environment)
        assert contents(index_folder) == before
    else:
        with pytest.raises(DeploymentError, match="the vectors that would come back are not of"):
            steps.roll_back([FaissStore(index_folder)], environment)


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


def test_rollback_without_env_goes_back_to_one_model(index_folder, stock, tuned, third):
    stores = [FaissStore(index_folder), FaissStore(write_index_folder(index_folder.parent / "other", stock))]
    steps.reembed(stores, tuned)
    steps.reembed(stores[:1], third)
    with pytest.raises(DeploymentError, match=r"would go back to vectors of different models.* give --env"):
        steps.roll_back(stores)
    assert stores[0].is_on(third)
    steps.roll_back(stores[:1])
    assert search(index_folder, tuned, CHUNKS[7]) == [CHUNKS[7]]


def test_each_source_is_told_whether_it_was_switched_and_rolled_back(index_folder, stock, tuned):
    given = ("--indexes", index_folder.parent)
    reembed_command("--model", tuned.folder, *given)
    other = write_index_folder(index_folder.parent / "other", stock)
    said = reembed_command("--model", tuned.folder, *given).output
    assert f"{index_folder}: was on the model already\n{other}: on the model now\n" in said
    FaissStore(index_folder).roll_back()
    said = reembed_command("--rollback", *given).output
    assert f"{index_folder}: nothing to take back; if it was uploaded since, embed it with the old model\n" in said
    assert f"{other}: rolled back\n" in said


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


def test_runs_that_are_not_finished_leave_the_way_back(index_folder, tuned, third):
    before = contents(index_folder)
    store = FaissStore(index_folder)
    steps.reembed([store], tuned)
    for _ in range(3):
        store.build(third)
        assert store.is_on(tuned)
    assert len(json.loads((index_folder / ".embtune" / "runs.json").read_bytes())) == 2  # and does not grow
    steps.roll_back([store])
    assert contents(index_folder) == before


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
