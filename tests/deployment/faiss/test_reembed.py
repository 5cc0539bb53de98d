"""Re-embedding of index folders: nothing lost, and nothing else changed."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from docsgpt_embtune.deployment import faiss_folder
from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.deployment.deployed_model import load_deployed_model
from docsgpt_embtune.deployment.doctor import examine
from docsgpt_embtune.deployment.faiss_folder import (
    WORK,
    find_index_folders,
    index_vectors,
    read_index,
    read_sidecar,
)
from docsgpt_embtune.deployment.faiss_store import FaissStore
from docsgpt_embtune.errors import DeploymentError
from docsgpt_embtune.manifest import read_manifest, write_manifest
from docsgpt_embtune.model_folder import fingerprint
from docsgpt_embtune.serving.keywords import Keywords
from docsgpt_embtune.serving.reading import Reading

from ...conftest import build_tiny_folder
from ..conftest import CHUNKS, contents, make_inverted, rewrite_vectors, same_vectors, search, write_index_folder
from .runs import LATE, reembed_command


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


def test_what_an_unfinished_run_built_is_no_source(index_folder, tuned):
    FaissStore(index_folder).build(tuned)
    assert find_index_folders(index_folder.parent) == [index_folder]


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


def test_rows_in_any_order_of_the_file_keep_their_chunks(tmp_path, tuned):
    folder = write_index_folder(tmp_path / "handbook", tuned, sidecars=("json",))
    content = json.loads((folder / "index.json").read_text())
    content["index_to_docstore_id"] = dict(reversed(content["index_to_docstore_id"].items()))
    (folder / "index.json").write_text(json.dumps(content))
    assert read_sidecar(folder).row_texts == CHUNKS


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


def test_dry_run_reads_the_chunks_once(index_folder, tuned, monkeypatch):
    read, read_json = [], faiss_folder._read_json_sidecar
    monkeypatch.setattr(faiss_folder, "_read_json_sidecar", lambda path: read.append(path) or read_json(path))
    steps.plan([FaissStore(index_folder)], tuned)
    assert read == [index_folder / "index.json"]


def test_index_of_another_kind_gives_way_and_comes_back(index_folder, tuned):
    make_inverted(index_folder)
    before = contents(index_folder)
    given = ("--model", tuned.folder, "--indexes", index_folder)
    for how in (["--dry-run"], []):
        assert f"{index_folder}: the IndexIVFFlat gives way to an IndexFlatL2" in reembed_command(*given, *how).output
    assert search(index_folder, tuned, CHUNKS[7]) == [CHUNKS[7]]
    assert "gives way" not in reembed_command(*given).output
    FaissStore(index_folder).roll_back()
    assert contents(index_folder) == before


def test_chunk_of_a_worker_that_was_not_restarted_is_mended_and_not_taken_for_the_old_index(
    index_folder, stock, tuned, third
):
    store = FaissStore(index_folder)
    steps.reembed([store], tuned)
    stored = index_vectors(read_index(index_folder))
    write_index_folder(index_folder, stock, [*CHUNKS, LATE])
    rewrite_vectors(index_folder, lambda vectors: np.vstack([stored, vectors[-1:]]))
    assert [finding.problem for finding in examine(store, tuned)] == ["mixed"]
    assert not store.replaces_kept(tuned)
    assert steps.reembed([store], tuned) == [store]
    assert examine(store, tuned) == []
    with pytest.raises(DeploymentError, match="--model OLD_MODEL"):
        steps.roll_back([store])
    before = contents(index_folder)
    steps.reembed([store], third)
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
