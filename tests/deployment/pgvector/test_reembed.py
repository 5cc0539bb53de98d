"""Re-embedding in a real PostgreSQL with pgvector: nothing lost, and everything back."""

import contextlib
import json
import random
import subprocess
import sys

import pytest
from click.testing import CliRunner

from docsgpt_embtune.cli import main
from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.deployment.deployed_model import load_deployed_model
from docsgpt_embtune.deployment.doctor import examine
from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from docsgpt_embtune.deployment.pgvector_store import pgvector_stores
from docsgpt_embtune.errors import DeploymentError

from ...conftest import build_tiny_folder
from ...waiting import wait_until
from ..conftest import CHUNKS, same_vectors
from .tables import NAMES, add, dump, execute, indexes_in_force, nearest, overwrite, rows, vectors

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")


def test_chunks_and_entity_names_are_embedded_anew_and_nothing_else_changes(uri, stores, tuned):
    before = dump(uri)
    assert [plan.chunks for plan in steps.plan(stores, tuned)] == [len(CHUNKS), 3]
    steps.reembed(stores, tuned)
    after = dump(uri)
    assert [row[:2] + row[3:] for row in after[0]] == [row[:2] + row[3:] for row in before[0]]
    assert same_vectors(vectors(uri), tuned.embed(CHUNKS))
    names = {name: json.loads(vector) for _, name, vector in after[1]}
    assert same_vectors([names[name] for name in NAMES], tuned.embed(NAMES))
    assert nearest(uri, tuned, CHUNKS[7]) == CHUNKS[7]
    assert any("hnsw (embedding vector_cosine_ops)" in definition for _, definition in after[3])
    assert steps.reembed(stores, tuned) == []
    assert [examine(store, tuned) for store in stores] == [[], []]


def test_row_without_a_vector_is_no_chunk_and_none_that_was_added_since(uri, stores, tuned):
    execute(uri, "INSERT INTO documents (text, source_id) VALUES ('no vector', 'handbook')")
    before = dump(uri)
    assert steps.plan(stores, tuned)[0].chunks == len(CHUNKS)
    steps.reembed(stores, tuned)
    steps.roll_back(stores)
    assert dump(uri) == before


def test_rollback_brings_everything_back(uri, stores, tuned):
    before = dump(uri)
    steps.reembed(stores, tuned)
    steps.roll_back(stores)
    assert dump(uri) == before
    with pytest.raises(DeploymentError, match="no re-embedding to take back"):
        steps.roll_back(stores)


def test_what_was_kept_for_a_rollback_can_be_deleted(uri, stores, tuned, third):
    assert not any(store.replaces_kept(tuned) for store in stores)
    steps.reembed(stores, tuned)
    assert all(store.replaces_kept(third) for store in stores)
    assert not any(store.replaces_kept(tuned) for store in stores)
    assert [store.kept() for store in stores] == [
        "column embedding_embtune_previous",
        "column name_embedding_embtune_previous",
    ]
    in_force = vectors(uri)
    result = CliRunner().invoke(main, ["forget", "--pgvector", uri, "--yes"])
    assert result.exit_code == 0, result.output
    assert [store.kept() for store in stores] == ["", ""]
    assert all((now == then).all() for now, then in zip(vectors(uri), in_force, strict=True))
    assert all("previous" not in definition for definition in indexes_in_force(uri))
    assert steps.reembed(stores, tuned) == []
    with pytest.raises(DeploymentError, match="no re-embedding to take back"):
        steps.roll_back(stores)


def test_second_switch_that_failed_goes_back_to_the_model_that_env_names(uri, stores, stock, tuned, third, tmp_path):
    environment = EnvironmentFile(tmp_path / ".env")
    environment.path.write_text(f"EMBEDDINGS_NAME={stock.folder}\n")
    execute(uri, "DELETE FROM graph_nodes")  # an empty table is of no model
    before = dump(uri)
    steps.reembed(stores, tuned, environment)
    in_between = dump(uri)[:2]
    store = stores[0]
    store.build(third)
    store.swap(third)
    with pytest.raises(DeploymentError, match=r"would go back to vectors of different models"):
        steps.roll_back(stores)
    assert steps.roll_back(stores, environment) == [store]
    assert dump(uri)[:2] == in_between
    assert environment.get("EMBEDDINGS_NAME") == str(tuned.folder)
    with pytest.raises(DeploymentError, match="no old ones to go back to"):
        steps.roll_back(stores, environment)
    steps.reembed(stores, stock, environment)
    steps.reembed(stores, tuned, environment)
    steps.roll_back(stores, environment)
    assert [row[:2] for row in dump(uri)[0]] == [row[:2] for row in before[0]]
    assert same_vectors(vectors(uri), stock.embed(CHUNKS))
    assert environment.get("EMBEDDINGS_NAME") == str(stock.folder)


def test_vectors_that_are_not_the_models_are_caught_before_the_swap(uri, stores, stock, tuned):
    stores[0].build(tuned)
    overwrite(uri, CHUNKS, stock, "documents", "embedding_embtune_pending", "text")
    before = dump(uri)
    with pytest.raises(
        DeploymentError, match=r"embedding_embtune_pending \(drop that column .* is not the model's of its text"
    ):
        steps.reembed(stores, tuned)
    assert dump(uri)[0] == before[0]


def test_new_width(uri, stores, tmp_path):
    wide = load_deployed_model(str(build_tiny_folder(tmp_path, seed=2, hidden_size=48)))
    before = dump(uri)
    steps.reembed(stores, wide)
    assert [store.width() for store in stores] == [48, 48]
    assert nearest(uri, wide, CHUNKS[3]) == CHUNKS[3]
    steps.roll_back(stores)
    assert dump(uri) == before


def test_column_that_must_be_filled_stays_so_and_the_kept_one_need_not_be(uri, stores, tuned):
    row_without_vector = "INSERT INTO documents (text, source_id) VALUES ('no vector', 'handbook')"
    execute(uri, "ALTER TABLE documents ALTER COLUMN embedding SET NOT NULL")
    steps.reembed(stores, tuned)
    add(uri, ["A chunk that came later."], tuned)
    with pytest.raises(psycopg.errors.NotNullViolation):
        execute(uri, row_without_vector)
    execute(uri, "DELETE FROM documents WHERE text = 'A chunk that came later.'")
    steps.roll_back(stores)
    with pytest.raises(psycopg.errors.NotNullViolation):
        execute(uri, row_without_vector)


def test_storage_and_statistics_of_the_column_stay_as_they_were_set(uri, stores, tuned):
    for what in ("STORAGE PLAIN", "STATISTICS 0"):
        execute(uri, f"ALTER TABLE documents ALTER COLUMN embedding SET {what}")
    steps.reembed(stores, tuned)
    settings = "SELECT attstorage, attstattarget FROM pg_attribute "
    column = "WHERE attrelid = 'documents'::regclass AND attname = 'embedding'"
    assert rows(uri, settings + column) == [("p", 0)]


def test_width_of_a_column_that_declares_none_is_that_of_its_vectors(uri, stores):
    execute(uri, "DROP INDEX documents_by_vector; ALTER TABLE documents ALTER COLUMN embedding TYPE vector")
    assert [store.width() for store in stores] == [32, 32]
    execute(uri, "DELETE FROM documents")
    assert stores[0].width() == 0


def test_entity_without_a_name_does_not_stop_the_others(uri, stores, stock, tuned):
    execute(uri, "UPDATE graph_nodes SET name = NULL WHERE name = 'Worker'")
    before = dump(uri)
    assert steps.plan(stores, tuned)[1].remaining == 3
    steps.reembed(stores, tuned)
    assert [examine(store, tuned) for store in stores] == [[], []]
    overwrite(uri, NAMES[:2], stock, "graph_nodes", "name_embedding", "name")
    assert steps.reembed(stores, tuned) == stores[1:]
    assert [examine(store, tuned) for store in stores] == [[], []]
    steps.roll_back(stores)
    assert dump(uri) == before


def test_empty_table_is_said_to_be_empty_unless_docsgpt_makes_it_so(uri, stores, tuned):
    execute(uri, "DELETE FROM documents; DELETE FROM graph_nodes")
    assert [[finding.problem for finding in examine(store, tuned)] for store in stores] == [["empty"], []]


def test_doctor_names_stock_vectors(stores, tuned):
    assert [examine(store, tuned)[0].problem for store in stores] == ["vectors", "vectors"]


def test_two_runs_at_once_are_refused(uri, stores, tuned):
    with (
        stores[0]._table.alone(),
        pgvector_stores(uri) as others,
        pytest.raises(DeploymentError, match="another re-embedding is at work"),
    ):
        others[0].build(tuned)


def test_what_another_run_built_meanwhile_is_not_swapped_in(uri, stores, stock, tuned, third):
    store = stores[0]
    store.build(tuned)
    store.prepare(tuned)
    with pgvector_stores(uri) as others:
        others[0].build(third)
        with pytest.raises(DeploymentError, match=r"another model was built there; run the same command again"):
            store.swap(tuned)
        assert same_vectors(vectors(uri), stock.embed(CHUNKS))
        others[0].swap(third)
    with pytest.raises(DeploymentError, match=r"nothing is built for"):
        store.swap(tuned)
    assert same_vectors(vectors(uri), third.embed(CHUNKS))


CHILD = """
import sys
from docsgpt_embtune.deployment import pgvector_store, reembed, vector_journal
from docsgpt_embtune.deployment.deployed_model import DeployedModel, load_deployed_model
vector_journal.BLOCK = 2
model = load_deployed_model(sys.argv[2])
with pgvector_store.pgvector_stores(sys.argv[1]) as stores:
    print("ready", flush=True)
    reembed.reembed(stores, model)
"""


@pytest.mark.slow
def test_killed_at_random_moments_the_table_is_always_whole(uri, stores, stock, tuned):
    draw = random.Random(0)
    before = dump(uri)
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", CHILD, uri, str(tuned.folder)], stdout=subprocess.PIPE, text=True
        )
        child.stdout.readline()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(draw.uniform(0, 0.4))
        child.kill()
        child.communicate()
        in_force = tuned if stores[0].is_on(tuned) else stock
        assert same_vectors(vectors(uri), in_force.embed(CHUNKS))
    wait_until(lambda: not rows(uri, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"))  # of the client, now gone
    steps.reembed(stores, tuned)
    assert same_vectors(vectors(uri), tuned.embed(CHUNKS))
    steps.roll_back(stores)
    assert dump(uri) == before
