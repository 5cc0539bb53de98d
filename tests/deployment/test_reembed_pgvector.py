"""Re-embedding in a real PostgreSQL with pgvector, in DocsGPT's table shapes."""

import contextlib
import json
import random
import re
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from docsgpt_embtune.cli import main
from docsgpt_embtune.deployment import pgvector_store, vector_journal, vector_table
from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.deployment.deployed_model import DeployedModel, load_deployed_model
from docsgpt_embtune.deployment.doctor import examine
from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from docsgpt_embtune.deployment.faiss_folder import WORK
from docsgpt_embtune.deployment.faiss_store import FaissStore
from docsgpt_embtune.deployment.pgvector_store import pgvector_stores
from docsgpt_embtune.errors import DeploymentError

from ..conftest import build_tiny_folder
from ..waiting import wait_until
from .conftest import CHUNKS, same_vectors

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")

NAMES = ("Backup", "Invoice", "Worker")

SCHEMA = """
CREATE EXTENSION IF NOT EXISTS vector;
DROP TABLE IF EXISTS documents, graph_nodes CASCADE;
CREATE TABLE documents (
    id SERIAL PRIMARY KEY, text TEXT NOT NULL, embedding vector(32), metadata JSONB, source_id TEXT NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX documents_source_id_idx ON documents (source_id);
CREATE INDEX documents_by_vector ON documents USING hnsw (embedding vector_cosine_ops);
CREATE TABLE graph_nodes (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(), source_id UUID NOT NULL, name TEXT, normalized_name TEXT,
    name_embedding vector(32), UNIQUE (source_id, normalized_name)
);
"""

INDEX_BY_CAST = "CREATE INDEX by_cast ON documents USING hnsw ((embedding::real[]::vector(32)) vector_ip_ops)"


@pytest.fixture
def uri(server, stock):
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(SCHEMA)
        add(connection, CHUNKS, stock)
        for name, vector in zip(NAMES, stock.embed(NAMES), strict=True):
            connection.execute(
                "INSERT INTO graph_nodes (source_id, name, normalized_name, name_embedding) "
                "VALUES (gen_random_uuid(), %s, lower(%s), %s::vector)",
                [name, name, json.dumps(vector.tolist())],
            )
    return server.get_uri()


@pytest.fixture
def stores(uri):
    with pgvector_stores(uri) as opened:
        yield opened


def add(connection, texts, model):
    for text, vector in zip(texts, model.embed(texts), strict=True):
        connection.execute(
            "INSERT INTO documents (text, embedding, metadata, source_id) VALUES (%s, %s, %s, 'handbook')",
            [text, json.dumps(vector.tolist()), json.dumps({"source": "a.md"})],
        )


def overwrite(uri, texts, model, table, column, text_column):
    with psycopg.connect(uri, autocommit=True) as connection:
        for text, vector in zip(texts, model.embed(texts), strict=True):
            query = f"UPDATE {table} SET {column} = %s::vector WHERE {text_column} = %s"
            connection.execute(query, [json.dumps(vector.tolist()), text])


def rows(uri, query):
    with psycopg.connect(uri) as connection:
        return connection.execute(query).fetchall()


def execute(uri, statements):
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(statements)


def dump(uri):
    return (
        rows(uri, "SELECT id, text, embedding::text, metadata, source_id, created_at FROM documents ORDER BY id"),
        rows(uri, "SELECT id, name, name_embedding::text FROM graph_nodes ORDER BY id"),
        rows(uri, "SELECT attname FROM pg_attribute WHERE attrelid = 'documents'::regclass AND NOT attisdropped"),
        rows(uri, "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'documents' ORDER BY 1"),
    )


def vectors(uri):
    found = rows(uri, "SELECT embedding::text FROM documents ORDER BY id")
    return np.array([json.loads(vector) for (vector,) in found])


def indexes_in_force(uri):
    """Return what each index over the vectors in force is of, by its name."""
    found = rows(
        uri,
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'documents' "
        "AND indexdef ~ '\\membedding\\M' AND indexdef !~ '_embtune_previous' ORDER BY indexdef",
    )
    return {name: definition.split(" USING ")[1] for name, definition in found}


def nearest(uri, model, text):
    query = "SELECT text FROM documents WHERE source_id = 'handbook' ORDER BY embedding <=> %s::vector LIMIT 1"
    with psycopg.connect(uri) as connection:
        return connection.execute(query, [json.dumps(model.embeddings.embed_query(text))]).fetchone()[0]


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
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("DELETE FROM graph_nodes")  # an empty table is of no model
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


def test_new_width(uri, stores, tmp_path):
    wide = load_deployed_model(str(build_tiny_folder(tmp_path, seed=2, hidden_size=48)))
    before = dump(uri)
    steps.reembed(stores, wide)
    assert [store.width() for store in stores] == [48, 48]
    assert nearest(uri, wide, CHUNKS[3]) == CHUNKS[3]
    steps.roll_back(stores)
    assert dump(uri) == before


def test_every_re_embedding_copies_the_index_under_a_name_of_its_own(uri, stores, stock, tuned):
    before = indexes_in_force(uri)
    for model in [tuned, stock] * 5:
        steps.reembed(stores[:1], model)
        names = indexes_in_force(uri)
        assert list(names.values()) == list(before.values())
        assert all(re.fullmatch(r"documents_by_vector_embtune_[0-9a-f]{8}", name) for name in names)


def test_index_is_copied_with_its_condition_and_whatever_other_schemas_have(uri, stores, tuned):
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(
            "CREATE INDEX partial ON documents USING hnsw (embedding vector_l2_ops) "
            "WHERE embedding IS NOT NULL AND source_id <> 'embedding';"
            "CREATE INDEX by_source ON documents USING btree (source_id) WHERE embedding IS NULL;"
            "DROP SCHEMA IF EXISTS other CASCADE; CREATE SCHEMA other;"
            "CREATE TABLE other.documents_by_vector_embtune (x int);"
        )
        connection.execute(INDEX_BY_CAST)
    before = indexes_in_force(uri)
    store = stores[0]
    store.build(tuned)
    store.build(tuned)  # as after a crash: what was copied is not copied again
    store.swap(tuned)
    assert list(indexes_in_force(uri).values()) == list(before.values())
    assert len(before) == 4


def test_index_in_which_the_old_width_is_written_is_named_before_anything_is_embedded(uri, stores, tmp_path):
    wide = load_deployed_model(str(build_tiny_folder(tmp_path, seed=2, hidden_size=48)))
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(INDEX_BY_CAST)
        before = dump(uri)
        with pytest.raises(DeploymentError, match=r"index 'by_cast' .* vectors of 32 numbers, .* have 48; drop it"):
            steps.reembed(stores, wide)
        assert dump(uri) == before
        connection.execute("DROP INDEX by_cast")
    assert steps.reembed(stores, wide) == stores


@pytest.fixture
def roles(uri):
    """Make two roles without any rights, of which one wants quotes."""
    execute(uri, 'DROP ROLE IF EXISTS analyst, "Team B"; CREATE ROLE analyst LOGIN; CREATE ROLE "Team B"')
    yield
    execute(uri, 'DROP OWNED BY analyst, "Team B"; DROP ROLE analyst, "Team B"')


def grants(uri):
    query = (
        "SELECT privilege_type, grantee, is_grantable FROM information_schema.column_privileges "
        "WHERE table_name = 'documents' AND column_name = 'embedding' AND grantee <> 'postgres' ORDER BY 1, 2"
    )
    return rows(uri, query)


@pytest.mark.usefixtures("roles")
def test_what_is_granted_on_the_column_alone_is_granted_on_the_new_one(uri, stores, stock, tuned, third):
    execute(
        uri,
        "GRANT SELECT (id, source_id, text, embedding) ON documents TO analyst;"
        'GRANT UPDATE (embedding), INSERT (embedding) ON documents TO "Team B" WITH GRANT OPTION;'
        "GRANT REFERENCES (embedding) ON documents TO PUBLIC",
    )
    before = grants(uri)
    assert len(before) == 4
    as_analyst = uri.replace("//postgres:@", "//analyst@")
    for model in (tuned, third):
        steps.reembed(stores, model)
        assert grants(uri) == before
        assert nearest(as_analyst, model, CHUNKS[7]) == CHUNKS[7]
    steps.roll_back(stores)
    assert grants(uri) == before
    assert nearest(as_analyst, tuned, CHUNKS[7]) == CHUNKS[7]


@pytest.mark.usefixtures("roles")
def test_grant_that_was_passed_on_is_named_before_anything_is_embedded(uri, stores, tuned):
    execute(
        uri,
        "GRANT SELECT (embedding) ON documents TO analyst WITH GRANT OPTION; SET ROLE analyst;"
        'GRANT SELECT (embedding) ON documents TO "Team B"',
    )
    before = dump(uri)
    refusal = r"""documents: SELECT on the column 'embedding' was granted to "Team B" by analyst, who does not own"""
    for step in (steps.plan, steps.reembed):
        with pytest.raises(DeploymentError, match=refusal):
            step(stores, tuned)
    assert dump(uri) == before
    execute(
        uri,
        "REVOKE SELECT (embedding) ON documents FROM analyst CASCADE;"
        'GRANT SELECT (embedding) ON documents TO analyst, "Team B"',
    )
    assert steps.reembed(stores, tuned) == stores
    assert grants(uri) == [("SELECT", "Team B", "NO"), ("SELECT", "analyst", "NO")]


class _NeverAsked:
    dimension = 2001


DEPENDENTS = {
    "view v": ("CREATE VIEW v AS SELECT id, {column} FROM {table}", "DROP VIEW v"),
    "materialized view m": ("CREATE MATERIALIZED VIEW m AS SELECT {column} FROM {table}", "DROP MATERIALIZED VIEW m"),
    "rule r on table {table}": (
        "CREATE RULE r AS ON UPDATE TO {table} WHERE old.{column} IS NULL DO INSTEAD NOTHING",
        "DROP RULE r ON {table}",
    ),
    "trigger t on table {table}": (
        "CREATE TRIGGER t BEFORE UPDATE OF {column} ON {table} FOR EACH ROW "
        "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "DROP TRIGGER t ON {table}",
    ),
    "column g of table {table}": (
        "ALTER TABLE {table} ADD COLUMN g int GENERATED ALWAYS AS (vector_dims({column})) STORED",
        "ALTER TABLE {table} DROP COLUMN g",
    ),
    "constraint c on table {table}": (
        "ALTER TABLE {table} ADD CONSTRAINT c CHECK (vector_dims({column}) < 99)",
        "ALTER TABLE {table} DROP CONSTRAINT c",
    ),
    "constraint u on table {table}": (
        "ALTER TABLE {table} ADD CONSTRAINT u UNIQUE (id, {column})",
        "ALTER TABLE {table} DROP CONSTRAINT u",
    ),
    "default value for column {column} of table {table}": (
        "ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT array_fill(1, array[32])::vector",
        "ALTER TABLE {table} ALTER COLUMN {column} DROP DEFAULT",
    ),
    "policy p on table {table}": (
        "CREATE POLICY p ON {table} USING ({column} IS NOT NULL)",
        "DROP POLICY p ON {table}",
    ),
    "statistics object s": ("CREATE STATISTICS s ON id, {column} FROM {table}", "DROP STATISTICS s"),
    "function f()": (
        "CREATE FUNCTION f() RETURNS bigint BEGIN ATOMIC SELECT count({column}) FROM {table}; END",
        "DROP FUNCTION f()",
    ),
    "publication of table {table} in publication b": (
        "CREATE PUBLICATION b FOR TABLE {table} (id, {column})",
        "DROP PUBLICATION b",
    ),
}


class _Dependent:
    """An object that depends on a column, and how it is made and dropped."""

    def __init__(self, uri, description, table="documents", column="embedding"):
        self._uri = uri
        make, drop = DEPENDENTS[description]
        names = {"table": table, "column": column}
        self._make, self._drop = make.format(**names), drop.format(**names)
        said = re.escape(description.format(**names))
        self.refusal = rf"\.{table}: {said} depends on the column '{column}', which is to give way; drop it, run the "

    def make(self):
        execute(self._uri, self._make)

    def drop(self):
        execute(self._uri, self._drop)


@pytest.fixture
def dependent(uri, request):
    return _Dependent(uri, request.param)


@pytest.fixture
def view(uri):
    return _Dependent(uri, "view v")


@pytest.mark.parametrize("dependent", DEPENDENTS, indirect=True)
def test_what_depends_on_the_vectors_is_named_before_anything_is_embedded_taken_back_or_deleted(
    uri, stores, tuned, dependent, monkeypatch
):
    store = stores[0]
    dependent.make()
    before = dump(uri)
    with monkeypatch.context() as patch:
        patch.setattr(type(tuned), "embed_many", lambda *_: pytest.fail("embedded"))
        for step in (steps.plan, steps.reembed):
            with pytest.raises(DeploymentError, match=dependent.refusal):
                step([store], tuned)
    assert dump(uri) == before
    dependent.drop()
    steps.reembed([store], tuned)
    dependent.make()
    with pytest.raises(DeploymentError, match=dependent.refusal):
        steps.roll_back([store])
    assert store.is_on(tuned)
    store.forget()  # which has nothing to do with the new column
    assert store.kept() == ""
    dependent.drop()


def test_table_that_cannot_be_switched_is_named_before_another_one_is_embedded(uri, stores, tuned):
    execute(uri, "CREATE VIEW v AS SELECT name_embedding FROM graph_nodes; CREATE VIEW w AS SELECT * FROM graph_nodes")
    before = dump(uri)
    with pytest.raises(DeploymentError, match=r"view v \(the first of 2\) depends on the column 'name_embedding'"):
        steps.reembed(stores, tuned)
    assert dump(uri) == before


def test_view_is_named_before_an_index_folder_beside_the_database_is_embedded_or_its_old_vectors_are_deleted(
    uri, stores, tuned, view, index_folder
):
    stores = [FaissStore(index_folder), *stores]
    view.make()
    with pytest.raises(DeploymentError, match=view.refusal):
        steps.reembed(stores, tuned)
    assert not (index_folder / WORK).exists()
    view.drop()
    steps.reembed(stores, tuned)
    view = _Dependent(uri, "view v", "documents", "embedding_embtune_previous")
    view.make()
    with pytest.raises(DeploymentError, match="view v depends on the column 'embedding_embtune_previous'"):
        steps.forget(stores)
    assert all(store.kept() for store in stores)


def test_view_that_is_made_before_the_swap_forbids_it_and_nothing_is_embedded_twice(uri, stores, stock, tuned, view):
    store = stores[0]
    store.build(tuned)
    view.make()
    with pytest.raises(DeploymentError, match=view.refusal):
        store.swap(tuned)
    assert same_vectors(vectors(uri), stock.embed(CHUNKS))
    view.drop()
    assert store.remaining(tuned) == []
    store.swap(tuned)


def test_rollback_that_a_view_forbids_leaves_env_as_it_is(uri, stores, tuned, view, tmp_path):
    environment = EnvironmentFile(tmp_path / ".env")
    environment.path.write_text("EMBEDDINGS_NAME=old\n")
    before = dump(uri)
    steps.reembed(stores, tuned, environment)
    view.make()
    with pytest.raises(DeploymentError, match=view.refusal):
        steps.roll_back(stores, environment)
    assert environment.get("EMBEDDINGS_NAME") == str(tuned.folder)
    view.drop()
    steps.roll_back(stores, environment)
    assert environment.get("EMBEDDINGS_NAME") == "old"
    assert dump(uri) == before


def test_view_of_the_old_vectors_is_named_before_they_are_deleted_and_goes_back_with_them(uri, stores, tuned, third):
    steps.reembed(stores, tuned)
    view = _Dependent(uri, "view v", "graph_nodes", "name_embedding_embtune_previous")
    view.refusal += "same command again, and make it anew over 'name_embedding' after that"
    view.make()
    for step in (lambda: steps.forget(stores), lambda: steps.reembed(stores, third)):
        with pytest.raises(DeploymentError, match=view.refusal):
            step()
    assert all(store.kept() for store in stores)
    steps.roll_back(stores)
    assert not any(store.kept() for store in stores)


@pytest.mark.parametrize("index", ["hnsw (embedding vector_cosine_ops)", "ivfflat (embedding)"])
def test_index_that_takes_no_vectors_as_wide_is_named_before_anything_is_embedded(uri, stores, index):
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(f"DROP INDEX documents_by_vector; CREATE INDEX by_vector ON documents USING {index}")
    before = dump(uri)
    with pytest.raises(DeploymentError, match=r"index 'by_vector' .* at most 2,000 numbers, .* 2,001; drop it"):
        steps.reembed(stores[:1], DeployedModel("wide", "f" * 64, _NeverAsked()))
    assert dump(uri) == before


def test_table_that_another_transaction_holds_is_left_to_it_and_named(uri, stores, tuned, monkeypatch):
    monkeypatch.setattr(vector_table, "_LOCK_TIMEOUT_MS", 50)
    with psycopg.connect(uri, application_name="nightly dump") as holder:
        holder.execute("SELECT count(*) FROM documents")
        with pytest.raises(DeploymentError, match=r"in use without end by process \d+ \(nightly dump, idle in trans"):
            steps.reembed(stores, tuned)
        holder.rollback()
    assert steps.reembed(stores, tuned)


def test_column_that_must_be_filled_stays_so_and_the_kept_one_need_not_be(uri, stores, tuned):
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("ALTER TABLE documents ALTER COLUMN embedding SET NOT NULL")
        steps.reembed(stores, tuned)
        add(connection, ["A chunk that came later."], tuned)
        with pytest.raises(psycopg.errors.NotNullViolation):
            connection.execute("INSERT INTO documents (text, source_id) VALUES ('no vector', 'handbook')")
        connection.execute("DELETE FROM documents WHERE text = 'A chunk that came later.'")
        steps.roll_back(stores)
        with pytest.raises(psycopg.errors.NotNullViolation):
            connection.execute("INSERT INTO documents (text, source_id) VALUES ('no vector', 'handbook')")


def test_width_of_a_column_that_declares_none_is_that_of_its_vectors(uri, stores):
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("DROP INDEX documents_by_vector; ALTER TABLE documents ALTER COLUMN embedding TYPE vector")
    assert [store.width() for store in stores] == [32, 32]
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("DELETE FROM documents")
    assert stores[0].width() == 0


def test_rows_that_come_in_before_the_swap_are_embedded_too(uri, stores, stock, tuned):
    store = stores[0]
    store.build(tuned)
    with psycopg.connect(uri, autocommit=True) as connection:
        add(connection, ["A chunk that came in between."], stock)
    store.swap(tuned)
    assert same_vectors(vectors(uri), tuned.embed([*CHUNKS, "A chunk that came in between."]))


def test_rows_added_since_are_not_thrown_away_by_a_rollback(uri, stores, tuned):
    store = stores[0]
    steps.reembed([store], tuned)
    with psycopg.connect(uri, autocommit=True) as connection:
        add(connection, ["A chunk that came later."], tuned)
    with pytest.raises(DeploymentError, match="1 rows were added since"):
        steps.roll_back([store])
    assert len(vectors(uri)) == len(CHUNKS) + 1


def test_rows_of_a_worker_that_was_not_restarted_are_mended(uri, stores, stock, tuned):
    store = stores[0]
    steps.reembed([store], tuned)
    with psycopg.connect(uri, autocommit=True) as connection:
        add(connection, ["A chunk that came later."], tuned)
    assert store.is_on(tuned)
    with psycopg.connect(uri, autocommit=True) as connection:
        add(connection, ["A chunk of the old worker.", "And another."], stock)
    assert [finding.problem for finding in examine(store, tuned, 2 * len(CHUNKS))] == ["mixed"]
    assert steps.plan([store], tuned)[0].remaining == 3
    assert steps.reembed([store], tuned) == [store]
    assert examine(store, tuned, 2 * len(CHUNKS)) == []
    assert steps.reembed([store], tuned) == []
    with pytest.raises(DeploymentError, match="3 rows were added since"):
        steps.roll_back([store])


def test_entities_that_such_a_worker_updates_are_mended(uri, stores, stock, tuned):
    store = stores[1]
    steps.reembed(stores, tuned)
    overwrite(uri, NAMES[:2], stock, "graph_nodes", "name_embedding", "name")
    assert [finding.problem for finding in examine(store, tuned)] == ["mixed"]
    assert steps.plan(stores, tuned)[1].remaining == 3
    assert steps.reembed(stores, tuned) == [store]
    assert examine(store, tuned) == []
    assert steps.reembed(stores, tuned) == []
    steps.roll_back(stores)
    assert examine(store, stock) == []


@pytest.mark.parametrize("blocks", [0, 1, 15, len(CHUNKS) // 2 - 1])
def test_mending_that_was_interrupted_goes_on(uri, stores, stock, tuned, monkeypatch, blocks):
    monkeypatch.setattr(pgvector_store, "LATECOMERS_CHECKED", 5)
    monkeypatch.setattr(vector_journal, "BLOCK", 2)
    store = stores[0]
    steps.reembed([store], tuned)
    overwrite(uri, CHUNKS, stock, "documents", "embedding", "text")
    left = iter(range(blocks))
    embed = type(tuned).embed_many
    monkeypatch.setattr(type(tuned), "embed_many", lambda model, texts: [next(left), embed(model, texts)][1])
    with pytest.raises(StopIteration):
        store.build(tuned)
    monkeypatch.setattr(type(tuned), "embed_many", embed)
    assert steps.reembed([store], tuned) == [store]
    assert same_vectors(vectors(uri), tuned.embed(CHUNKS))


def test_entity_without_a_name_does_not_stop_the_others(uri, stores, stock, tuned):
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("UPDATE graph_nodes SET name = NULL WHERE name = 'Worker'")
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
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("DELETE FROM documents; DELETE FROM graph_nodes")
    assert [[finding.problem for finding in examine(store, tuned)] for store in stores] == [["empty"], []]


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql+asyncpg://docsgpt:s3cret@127.0.0.1:1/docsgpt",
        "postgres+psycopg://docsgpt:s3cret@127.0.0.1:1/docsgpt",
        "postgresql://docsgpt:s3cret%zz@127.0.0.1:1/docsgpt",
        "postgresql://docsgpt:s3cret@[127.0.0.1/docsgpt",
        "postgresql://docsgpt:a@s3cret@127.0.0.1:1/docsgpt",
        "postgresql://docsgpt:s3cret/b@127.0.0.1:1/docsgpt",
        "postgresql://docsgpt:s3cret?b@127.0.0.1:1/docsgpt",
    ],
)
def test_password_is_in_no_error(uri):
    with pytest.raises(DeploymentError, match=r"could not be opened|URI is not valid") as raised, pgvector_stores(uri):
        pass
    assert "s3cret" not in str(raised.value)
    assert "old vectors" not in str(raised.value)


def test_doctor_names_stock_vectors(stores, tuned):
    assert [examine(store, tuned)[0].problem for store in stores] == ["vectors", "vectors"]


def test_two_runs_at_once_are_refused(uri, stores, tuned):
    with (
        stores[0]._table.alone(),
        pgvector_stores(uri) as others,
        pytest.raises(DeploymentError, match="another re-embedding is at work"),
    ):
        others[0].build(tuned)


ASKED = {
    "texts": lambda store, model: store.texts(),
    "sample": lambda store, model: store.sample(1),
    "is_on": lambda store, model: store.is_on(model),
    "remaining": lambda store, model: store.remaining(model),
    "bytes_needed": lambda store, model: store.bytes_needed(model),
    "build": lambda store, model: store.build(model),
    "swap": lambda store, model: store.swap(model),
    "can_roll_back": lambda store, model: store.can_roll_back(),
    "roll_back": lambda store, model: store.roll_back(),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_connection_that_is_lost_ends_in_one_line(uri, tuned, ask):
    with pgvector_stores(f"{uri}&application_name=lost") as opened:
        rows(uri, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lost'")
        with pytest.raises(DeploymentError, match=r"postgres\.documents: .*; no vector is lost, .* run the same"):
            ask(opened[0], tuned)


def test_rows_that_may_not_be_read_are_named(uri, tuned):
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN")
    with pgvector_stores(uri.replace("//postgres:@", "//reader@")) as opened:
        for finding in (examine(store, tuned)[0] for store in opened):
            assert finding.problem == "unreadable"
            assert "permission denied for table" in finding.message
        with pytest.raises(DeploymentError, match="permission denied for table documents"):
            steps.plan(opened, tuned)


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


def test_database_without_the_tables_and_server_that_is_not_there(uri):
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("DROP TABLE documents, graph_nodes")
    with pytest.raises(DeploymentError, match="has no table 'documents'"), pgvector_stores(uri):
        pass
    unreachable = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    with pytest.raises(DeploymentError, match="PostgreSQL: "), pgvector_stores(unreachable):
        pass


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
