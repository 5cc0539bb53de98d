"""A PostgreSQL table with a vector column, and two further columns: one that is filled, one that is kept."""

import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, LiteralString

from docsgpt_embtune.deployment.stores import as_deployment_error
from docsgpt_embtune.errors import DeploymentError

# True before and after a swap, and if nothing was to be changed.
_NOTHING_LOST = "no vector is lost, and what was embedded is kept: mend that and run the same command again"
_WIDEST_INDEXED = 2000  # widest pgvector `vector` that an index takes, in every version so far
_LOCK_TIMEOUT_MS, _LOCK_TRIES = 3000, 5
# Grants on a single column (parameters: table, column), each with its grantee: a role, or 0 for PUBLIC.
_COLUMN_GRANTS: LiteralString = (
    "(SELECT (aclexplode(attacl)).*, relowner FROM pg_attribute JOIN pg_class c ON c.oid = attrelid "
    "WHERE attrelid = to_regclass(%s) AND attname = %s) AS granted"
)
_STORAGE = {"p": "PLAIN", "e": "EXTERNAL", "x": "EXTENDED", "m": "MAIN"}
_GRANTEE: LiteralString = "CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END"


class VectorTable:
    """Queries on one table, and locks on it; a query names the table's parts in braces: {table}, {column}, {text}.

    Args:
        connection: A psycopg connection in autocommit mode.
        name: The table's name.
        column: Name of the vector column.
        text_column: Name of the column with the text that is embedded.

    Attributes:
        label: The table's name in messages.
        name: The table's name.
        column: Name of the vector column.
        pending: Name of the column that is being filled.
        previous: Name of the column that is kept for a rollback.
    """

    def __init__(self, connection: Any, name: str, column: str, text_column: str) -> None:
        from psycopg import sql

        self._connection = connection
        self.label = f"PostgreSQL {connection.info.dbname}.{name}"
        self.name = name
        self.column = column
        self.pending = f"{column}_embtune_pending"
        self.previous = f"{column}_embtune_previous"
        self._names = {
            "table": sql.Identifier(name),
            "column": sql.Identifier(column),
            "text": sql.SQL("coalesce({}, '')").format(sql.Identifier(text_column)),  # an entity may have no name
            "pending": sql.Identifier(self.pending),
            "previous": sql.Identifier(self.previous),
        }

    def exists(self) -> bool:
        """Tell whether the table is there and has the column."""
        return self.type_of(self.column) is not None

    def type_of(self, column: str) -> str | None:
        """Return a column's type as PostgreSQL writes it; None if there is no such column."""
        found = self.rows(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attname = %s AND NOT attisdropped",
            [self.name, column],
        )
        return str(found[0][0]) if found else None

    def width_of(self, column: str) -> int:
        """Return the declared width of a vector column, or that of a stored vector if none is declared; 0 if empty."""
        declared = re.search(r"\((\d+)\)", self.type_of(column) or "")
        if declared:
            return int(declared[1])
        stored = self.rows("SELECT vector_dims({of}) FROM {table} WHERE {of} IS NOT NULL LIMIT 1", of=column)
        return int(stored[0][0]) if stored else 0

    def comment_on(self, column: str) -> str | None:
        """Return the comment on a column, if there is one."""
        found = self.rows(
            "SELECT col_description(attrelid, attnum) FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attname = %s AND NOT attisdropped",
            [self.name, column],
        )
        return found[0][0] if found else None

    def is_required(self, column: str) -> bool:
        """Tell whether a column must be filled (NOT NULL)."""
        return bool(
            self.rows(
                "SELECT 1 FROM pg_attribute WHERE attrelid = %s::regclass AND attname = %s AND attnotnull",
                [self.name, column],
            )
        )

    def require_owner(self) -> None:
        """Check that the user may add and rename columns, which only the table's owner may.

        Raises:
            DeploymentError: If it is another user; names both.
        """
        ((owner, user, may),) = self.rows(
            "SELECT relowner::regrole::text, current_user::text, pg_has_role(relowner, 'USAGE') FROM pg_class "
            "WHERE oid = %s::regclass",
            [self.name],
        )
        if not may:
            raise DeploymentError(
                f"{self.label}: belongs to {owner}, and {user} may not change its columns; give the URI of {owner}, "
                "or of a superuser"
            )

    def require_no_dependents(self, *columns: str) -> None:
        """Check that nothing but indexes depends on columns that are to be renamed or dropped.

        A view, trigger or constraint follows a renamed column, so it would stay with the old vectors and keep their
        column from being dropped. A default is dropped with its column.

        Raises:
            DeploymentError: If something else depends on a column; names the first such object.
        """
        for column in columns:
            if dependents := self._dependents_of(column):
                which = f" (the first of {len(dependents)})" if len(dependents) > 1 else ""
                raise DeploymentError(
                    f"{self.label}: {dependents[0]}{which} depends on the column {column!r}, which is to give way; "
                    f"drop it, run the same command again, and make it anew over {self.column!r} after that"
                )

    def _dependents_of(self, column: str) -> list[str]:
        """Describe each object except indexes that depends on a column; views and generated columns by their names.

        NOT NULL, a constraint since PostgreSQL 18, is not listed, since the swap sets it anew.
        """
        found = self.rows(
            "SELECT DISTINCT CASE "
            "WHEN r.rulename = '_RETURN' THEN pg_describe_object('pg_class'::regclass, r.ev_class, 0) "
            "WHEN g.attgenerated <> '' THEN pg_describe_object('pg_class'::regclass, g.attrelid, g.attnum) "
            "ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END AS dependent "
            "FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid "
            "LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid "
            "LEFT JOIN pg_constraint n ON d.classid = 'pg_constraint'::regclass AND n.oid = d.objid "
            "LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid "
            "LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid "
            "LEFT JOIN pg_attribute g ON g.attrelid = f.adrelid AND g.attnum = f.adnum "
            "WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = to_regclass(%s) AND a.attname = %s "
            "AND coalesce(c.relkind NOT IN ('i', 'I'), true) AND coalesce(n.contype <> 'n', true) ORDER BY dependent",
            [self.name, column],
        )
        return [dependent for (dependent,) in found]

    def require_copyable_indexes(self, width: int) -> None:
        """Check that the indexes can be copied to a column of this width, before that column is filled.

        Raises:
            DeploymentError: If an index does not take vectors of this width, or its expression states another width.
        """
        before = self.width_of(self.column)
        for name, using in self._indexes_on(self.column):
            if width > _WIDEST_INDEXED and re.match(rf"(hnsw|ivfflat) \({self.column}\b", using):
                raise DeploymentError(
                    f"{self.label}: the index {name!r} ({using}) takes vectors of at most {_WIDEST_INDEXED:,} numbers, "
                    f"and the new ones have {width:,}; drop it and run the same command again, or take a narrower model"
                )
            if width != before and f"({before})" in using:
                raise DeploymentError(
                    f"{self.label}: the index {name!r} ({using}) is for vectors of {before} numbers, and the new ones "
                    f"have {width}; drop it, run the same command again, and make it anew for these"
                )

    def require_copyable_grants(self) -> None:
        """Check that all grants on the column alone come from the table's owner: only these can be copied unchanged.

        Raises:
            DeploymentError: If a grantee passed a grant on to others; names the grant.
        """
        passed_on = self.rows(
            f"SELECT privilege_type, {_GRANTEE}, grantor::regrole::text FROM {_COLUMN_GRANTS} "
            "WHERE grantor <> relowner",
            [self.name, self.column],
        )
        if passed_on:
            privilege, grantee, grantor = passed_on[0]
            raise DeploymentError(
                f"{self.label}: {privilege} on the column {self.column!r} was granted to {grantee} by {grantor}, who "
                "does not own the table; revoke it, grant it as the owner, and run the same command again"
            )

    def copy_settings(self) -> None:
        """Copy to the pending column what ALTER COLUMN SET STORAGE and SET STATISTICS said of the vector column."""
        ((storage, statistics),) = self.rows(  # -1, or NULL since PostgreSQL 17: the database's default
            "SELECT attstorage, coalesce(attstattarget, -1) FROM pg_attribute "
            "WHERE attrelid = %s::regclass AND attname = %s",
            [self.name, self.column],
        )
        self.execute("ALTER TABLE {table} ALTER COLUMN {pending} SET STORAGE {storage}", storage=_STORAGE[storage])
        self.execute("ALTER TABLE {table} ALTER COLUMN {pending} SET STATISTICS {target}", target=str(statistics))

    def copy_grants(self) -> None:
        """Copy the grants on the vector column alone to the pending column; grants on the table cover both."""
        grants = self.rows(
            f"SELECT privilege_type, {_GRANTEE}, is_grantable FROM {_COLUMN_GRANTS}", [self.name, self.column]
        )
        for privilege, grantee, is_grantable in grants:
            self.execute(
                "GRANT {privilege} ({pending}) ON {table} TO {grantee} {option}",
                privilege=privilege,
                grantee=grantee,
                option="WITH GRANT OPTION" if is_grantable else "",
            )

    def copy_indexes(self) -> None:
        """Copy the indexes that use the vector column to the pending column, partial indexes included."""
        from psycopg import sql

        copied = [using for _, using in self._indexes_on(self.pending)]
        for name, using in self._indexes_on(self.column):
            using = _of_column(using, self.column, self.pending)
            if using not in copied:
                copied.append(using)
                copy = sql.Identifier(_name_of_copy(name)).as_string(self._connection)
                self.execute("CREATE INDEX {index} ON {table} USING {using}", index=copy, using=using)

    def _indexes_on(self, column: str) -> list[tuple[str, str]]:
        """List the indexes that use a column, also in an expression or a condition: (name, definition after USING)."""
        found = self.rows(
            "SELECT DISTINCT c.relname, pg_get_indexdef(i.indexrelid) FROM pg_depend d "
            "JOIN pg_index i ON i.indexrelid = d.objid JOIN pg_class c ON c.oid = i.indexrelid "
            "JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid "
            "WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass "
            "AND i.indrelid = %s::regclass AND a.attname = %s ORDER BY c.relname",
            [self.name, column],
        )
        return [(name, _after_using(definition)) for name, definition in found]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other re-embeddings off the table by an advisory lock; the host can go on using it.

        Raises:
            DeploymentError: If another re-embedding is at work on the table.
        """
        lock = f"docsgpt-embtune:{self.name}"
        ((free,),) = self.rows("SELECT pg_try_advisory_lock(hashtext(%s))", [lock])
        if not free:
            raise DeploymentError(f"{self.label}: another re-embedding is at work here; wait for it, or end it")
        try:
            yield
        finally:
            if not self._connection.closed:
                self.rows("SELECT pg_advisory_unlock(hashtext(%s))", [lock])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the table exclusively for one transaction.

        Each attempt gives up soon, since every search queues behind a request for this lock.

        Raises:
            DeploymentError: If other processes hold the table through all attempts; names them.
        """
        from psycopg.errors import LockNotAvailable

        with self._errors_in_one_line(), self._connection.transaction():
            self.execute("SET LOCAL lock_timeout = {milliseconds}", milliseconds=str(_LOCK_TIMEOUT_MS))
            for tries_left in reversed(range(_LOCK_TRIES)):
                try:
                    with self._connection.transaction():  # a savepoint
                        self._connection.execute(self._named("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
                    break
                except LockNotAvailable as error:
                    if not tries_left:
                        raise DeploymentError(
                            f"{self.label}: in use without end by {self._holders()}; end that and run the command again"
                        ) from error
            yield

    def _holders(self) -> str:
        found = self.rows(
            "SELECT DISTINCT pid, coalesce(nullif(application_name, ''), usename), state FROM pg_locks "
            "JOIN pg_stat_activity USING (pid) WHERE relation = %s::regclass AND granted AND pid <> pg_backend_pid()",
            [self.name],
        )
        return ", ".join(f"process {pid} ({name}, {state})" for pid, name, state in found) or "other processes"

    def rows(self, query: LiteralString, values: Sequence[Any] = (), **parts: str) -> Any:
        """Run a query and return all its rows; arguments and errors as of `execute`."""
        return self.execute(query, values, **parts).fetchall()

    def execute(self, query: LiteralString, values: Sequence[Any] = (), **parts: str) -> Any:
        """Run one statement.

        Args:
            query: SQL with {table} and the like for this table's names, %s for each value, and {name} for `parts`.
            values: Values of the %s placeholders.
            parts: Pieces of SQL by name, inserted unquoted, so never from an untrusted source.

        Returns:
            psycopg's cursor.

        Raises:
            DeploymentError: If the database refuses the statement, or the connection is lost.
        """
        with self._errors_in_one_line():
            return self._connection.execute(self._named(query, **parts), values or None)

    def _named(self, query: LiteralString, **parts: str) -> Any:
        from psycopg import sql

        raw: dict[str, Any] = {name: sql.SQL(part) for name, part in parts.items()}
        return sql.SQL(query).format(**self._names, **raw)

    def _errors_in_one_line(self) -> AbstractContextManager[None]:
        import psycopg

        return as_deployment_error(self.label, (psycopg.Error,), _NOTHING_LOST)


def _after_using(definition: str) -> str:
    """Return what follows USING in an index's definition, which may stand in a quoted name before it, too."""
    return re.sub(r'^(?:[^"]|"[^"]*")*? USING ', "", definition, count=1)


def _of_column(using: str, column: str, other: str) -> str:
    """Replace a column's name by another in an index's definition, but not within string literals."""
    parts = r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|[\w$]+"""
    return re.sub(parts, lambda part: other if part[0] == column else part[0], using)


def _name_of_copy(name: str) -> str:
    """Return a unique name for an index's copy, derived from the operator's name even if that index is a copy itself.

    PostgreSQL truncates names to 63 bytes, so the original is cut to 40 bytes to keep the unique suffix.
    """
    first = re.sub(r"(_embtune(_[0-9a-f]{8})?)+$", "", name)
    return f"{first.encode()[:40].decode(errors='ignore')}_embtune_{uuid.uuid4().hex[:8]}"
