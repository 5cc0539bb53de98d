"""Databases that cannot be opened, read or waited for end in one line, without a password."""

import pytest

from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.deployment import vector_table
from docsgpt_embtune.deployment.doctor import examine
from docsgpt_embtune.deployment.pgvector_store import pgvector_stores
from docsgpt_embtune.errors import DeploymentError

from .tables import execute, rows

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")


def test_table_that_another_transaction_holds_is_left_to_it_and_named(uri, stores, tuned, monkeypatch):
    monkeypatch.setattr(vector_table, "_LOCK_TIMEOUT_MS", 50)
    with psycopg.connect(uri, application_name="nightly dump") as holder:
        holder.execute("SELECT count(*) FROM documents")
        with pytest.raises(DeploymentError, match=r"in use without end by process \d+ \(nightly dump, idle in trans"):
            steps.reembed(stores, tuned)
        holder.rollback()
    assert steps.reembed(stores, tuned)


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
    execute(uri, "DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN")
    with pgvector_stores(uri.replace("//postgres:@", "//reader@")) as opened:
        for finding in (examine(store, tuned)[0] for store in opened):
            assert finding.problem == "unreadable"
            assert "permission denied for table" in finding.message
        with pytest.raises(DeploymentError, match="permission denied for table documents"):
            steps.plan(opened, tuned)


def test_database_without_the_tables_and_server_that_is_not_there(uri):
    execute(uri, "DROP TABLE documents, graph_nodes")
    with pytest.raises(DeploymentError, match="has no table 'documents'"), pgvector_stores(uri):
        pass
    unreachable = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    with pytest.raises(DeploymentError, match="PostgreSQL: "), pgvector_stores(unreachable):
        pass
