"""A real PostgreSQL with DocsGPT's tables in it."""

import pytest

from docsgpt_embtune.deployment.pgvector_store import pgvector_stores

from ..conftest import CHUNKS


@pytest.fixture
def uri(server, stock):
    from . import tables  # not above: without psycopg it skips the module that takes it, and this one is none of tests

    tables.make(server.get_uri(), CHUNKS, stock)
    return server.get_uri()


@pytest.fixture
def stores(uri):
    with pgvector_stores(uri) as opened:
        yield opened
