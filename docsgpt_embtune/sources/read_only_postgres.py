"""A read-only connection to DocsGPT's PostgreSQL."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString

from docsgpt_embtune.deployment.postgres import connect
from docsgpt_embtune.deployment.stores import as_deployment_error

_NOTHING_CHANGED = "check the URI and its user's rights (nothing was changed)"
FETCHED_AT_ONCE = 1000  # rows held in memory, however large the table


class ReadOnlyDatabase:
    """Reads rows of a database in transactions that the server itself enforces to be read-only.

    Args:
        connection: A psycopg connection that is read-only and not in autocommit.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def name(self) -> str:
        """The database's name."""
        return str(self._connection.info.dbname)

    def columns(self, table: str) -> frozenset[str]:
        """Return the columns of a table, none if there is no such table."""
        query = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
        return frozenset(name for (name,) in self.rows(query, [table]))

    def rows(self, query: LiteralString, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Run a query and stream its rows.

        Raises:
            DeploymentError: If the server refuses it.
        """
        import psycopg

        with as_deployment_error("PostgreSQL", (psycopg.Error,), _NOTHING_CHANGED), self._connection.transaction():
            with self._connection.cursor(name="embtune") as cursor:
                cursor.itersize = FETCHED_AT_ONCE
                cursor.execute(query, values)
                yield from cursor


@contextmanager
def read_only_database(uri: str) -> Iterator[ReadOnlyDatabase]:
    """Open a database for reading while the context lasts.

    Args:
        uri: POSTGRES_URI or PGVECTOR_CONNECTION_STRING of the host. A password may come from PGPASSWORD or
            ~/.pgpass instead, as for every PostgreSQL client.

    Raises:
        DeploymentError: If the URI is malformed, or the database cannot be reached.
    """
    with connect(uri, autocommit=False) as connection:
        connection.read_only = True
        yield ReadOnlyDatabase(connection)
