"""Full disks, kills and Ctrl-C: the index is whole at every moment, and what is half done is told."""

import contextlib
import os
import random
import re
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest

from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.deployment.doctor import examine
from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from docsgpt_embtune.deployment.faiss_folder import (
    index_vectors,
    read_index,
)
from docsgpt_embtune.deployment.faiss_store import FaissStore
from docsgpt_embtune.deployment.vector_journal import VectorJournal
from docsgpt_embtune.errors import DeploymentError

from ..conftest import CHUNKS, contents, same_vectors, search, write_index_folder
from .runs import LATE, reembed_command


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


class FailsToSwap(FaissStore):
    """A source that is uploaded to between its last check and its swap."""

    def swap(self, model):
        write_index_folder(self.folder, model, [*CHUNKS, LATE])
        super().swap(model)


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


def test_swap_that_is_stopped_half_way_has_not_lost_the_way_back(index_folder, tuned, monkeypatch):
    before, store, replace = contents(index_folder), FaissStore(index_folder), os.replace

    def replace_and_stop(*paths):
        replace(*paths)
        raise KeyboardInterrupt

    store.build(tuned)
    store.prepare(tuned)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace_and_stop)
        with pytest.raises(KeyboardInterrupt):
            store.swap(tuned)
    assert store.can_roll_back() == (contents(index_folder) != before)
    steps.reembed([store], tuned)
    steps.roll_back([store])
    assert contents(index_folder) == before


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


def test_vectors_that_are_not_the_models_are_caught_before_the_swap_and_the_remedy_mends_it(index_folder, tuned):
    work, before = index_folder / ".embtune", contents(index_folder)
    with VectorJournal(work, tuned) as journal:
        journal.embed_missing(CHUNKS)
    (path,) = work.glob("*.vectors")
    path.write_bytes(np.fromfile(path, dtype=np.float32).reshape(-1, 32)[::-1].tobytes())  # each is another text's
    with pytest.raises(
        DeploymentError, match=r"index\.faiss \(delete the \.keys files .* is not the model's of its text"
    ):
        steps.reembed([FaissStore(index_folder)], tuned)
    assert contents(index_folder) == before
    for keys in work.glob("*.keys"):
        keys.unlink()
    steps.reembed([FaissStore(index_folder)], tuned)
    assert search(index_folder, tuned, CHUNKS[5]) == [CHUNKS[5]]


def test_journal_drops_what_a_crash_tore_off(tmp_path, tuned):
    with VectorJournal(tmp_path, tuned) as journal:
        journal.embed_missing(CHUNKS[:20])
    for path in tmp_path.iterdir():
        with path.open("ab") as file:
            file.write(b"torn" * (1 if path.suffix == ".keys" else tuned.dimension + 1))  # a vector more than keys
    with VectorJournal(tmp_path, tuned) as journal:
        assert all(text in journal for text in CHUNKS[:20])
        journal.embed_missing(CHUNKS[:30])
        assert same_vectors(journal.vectors(CHUNKS[:30]), tuned.embed(CHUNKS[:30]))


def test_half_a_character_in_a_chunk_does_not_stop_the_others(tmp_path, tuned):
    texts = ["half a character: \ud83d", CHUNKS[0]]
    with VectorJournal(tmp_path, tuned) as journal:
        journal.embed_missing(texts)
        assert same_vectors(journal.vectors(texts), tuned.embed(texts))


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


def test_too_little_disk_is_said_before_the_work(index_folder, tuned, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(DeploymentError, match=r"has 0 MB free, and .* MB are needed beside the old vectors"):
        steps.require_disk([FaissStore(index_folder)], tuned, index_folder)


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
