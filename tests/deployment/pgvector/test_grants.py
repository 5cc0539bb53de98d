"""What is granted on the column of the vectors is granted on the new one, and what takes the table's owner."""

import pytest

from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.deployment.faiss_store import FaissStore
from docsgpt_embtune.deployment.pgvector_store import pgvector_stores
from docsgpt_embtune.errors import DeploymentError

from ..conftest import CHUNKS
from .tables import dump, execute, nearest, rows


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


@pytest.mark.usefixtures("roles")
def test_user_who_does_not_own_the_tables_is_told_so_before_an_index_folder_is_embedded(
    uri, stock, tuned, index_folder
):
    execute(uri, "GRANT ALL ON ALL TABLES IN SCHEMA public TO analyst")
    with pgvector_stores(uri.replace("//postgres:@", "//analyst@")) as tables:
        for step in (steps.plan, steps.reembed):
            with pytest.raises(DeploymentError, match=r"documents: belongs to postgres, and analyst may not change"):
                step([FaissStore(index_folder), *tables], tuned)
    assert not (index_folder / ".embtune").exists()
    execute(uri, "GRANT postgres TO analyst")
    with pgvector_stores(uri.replace("//postgres:@", "//analyst@")) as tables:
        assert steps.reembed(tables, tuned) == tables
