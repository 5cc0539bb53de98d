"""Re-embed DocsGPT's tables in PostgreSQL: a second vector column is filled, then the two change names.

A column and not a second table: ids, sequences, foreign keys, grants and the text index stay what they are, a new
width is no different from the old one, rows that come in meanwhile show as NULL, and both swap and rollback are two
renames in one transaction. The database is the journal: a block is committed when it is embedded. Rows that a worker
which was not restarted writes with the old model after the swap have no previous vector: by that they are found, and
embedded again where they are.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, LiteralString

import numpy as np

from docsgpt_embtune.deployment import vector_journal
from docsgpt_embtune.deployment.serving import SAME_VECTOR, ServingModel, cosines, require_vectors_of
from docsgpt_embtune.deployment.stores import (
    LATECOMER_ROUNDS,
    LATECOMERS_CHECKED,
    NOT_OPENED,
    VERIFIED_CHUNKS,
    ChunkStore,
    StoredSample,
    as_deployment_error,
)
from docsgpt_embtune.errors import DeploymentError
from docsgpt_embtune.progress import Bar

# table, vector column, text column: chunks, and GraphRAG's entities, which are found by the vectors of their names
_TABLES = (("documents", "embedding", "text"), ("graph_nodes", "name_embedding", "name"))
_COMMENT = "embtune:"  # on a column that was built here, before the model's fingerprint
_LOCK_TIMEOUT_MS, _LOCK_TRIES = 3000, 5


@contextmanager
def pgvector_stores(uri: str) -> Iterator[list[ChunkStore]]:
    """Open every table of a DocsGPT database that holds vectors, as long as the context lasts.

    Args:
        uri: PGVECTOR_CONNECTION_STRING, or POSTGRES_URI, of the host.

    Raises:
        DeploymentError: If the database cannot be reached, or has no such table.
    """
    try:
        import psycopg
    except ImportError as error:
        raise DeploymentError("PostgreSQL needs psycopg; run: pip install 'psycopg[binary]'") from error
    uri = libpq_uri(uri)
    with as_deployment_error("PostgreSQL", (psycopg.Error,), NOT_OPENED):
        connection = psycopg.connect(uri, autocommit=True)
    with connection:
        stores = [PgvectorStore(connection, *names) for names in _TABLES]
        found: list[ChunkStore] = [store for store in stores if store.exists()]
        if not found:
            raise DeploymentError(
                f"PostgreSQL database {connection.info.dbname!r} has no table {_TABLES[0][0]!r} with vectors; "
                "give the URI in PGVECTOR_CONNECTION_STRING, or POSTGRES_URI if that is not set"
            )
        yield found


def libpq_uri(uri: str) -> str:
    """Turn SQLAlchemy's spelling of a URI, as in POSTGRES_URI, into PostgreSQL's.

    Raises:
        DeploymentError: If it is none; what PostgreSQL says of it is not repeated, since that holds the password.
    """
    uri = re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", uri)
    if not _is_valid(uri):
        raise DeploymentError(
            "PostgreSQL: the URI is not valid (it is not shown, for its password); it is to be "
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with % @ : / ? # [ ] in a password written as %25 %40 %3A "
            "%2F %3F %23 %5B %5D"
        )
    return uri


def _is_valid(uri: str) -> bool:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        parts = conninfo_to_dict(uri)
    except ProgrammingError:
        return False
    # Of a password with @ or / in it, a part is taken for the host or the port, which an error would print.
    return "@" not in str(parts.get("host", "")) and bool(re.fullmatch(r"[\d,]*", str(parts.get("port", ""))))


class PgvectorStore:
    """One table with a vector column.

    Args:
        connection: A psycopg connection in autocommit.
        table: Name of the table.
        column: Its vector column.
        text_column: The text that the vectors are of.
    """

    def __init__(self, connection: Any, table: str, column: str, text_column: str) -> None:
        from psycopg import sql

        self._connection = connection
        self._table = table
        self._column = column
        self._pending = f"{column}_embtune_pending"
        self._previous = f"{column}_embtune_previous"
        self._names = {
            "table": sql.Identifier(table),
            "column": sql.Identifier(column),
            "text": sql.Identifier(text_column),
            "pending": sql.Identifier(self._pending),
            "previous": sql.Identifier(self._previous),
        }

    @property
    def label(self) -> str:
        """What to call it in messages."""
        return f"PostgreSQL {self._connection.info.dbname}.{self._table}"

    def exists(self) -> bool:
        """Tell whether the table is there and has the column."""
        return self._type_of(self._column) is not None

    def texts(self) -> list[str]:
        """Return the text of every row that has a vector."""
        return [text for (text,) in self._rows("SELECT {text} FROM {table} WHERE {column} IS NOT NULL")]

    def width(self) -> int:
        """Return the declared width of the vector column, or that of a vector in it where none is declared."""
        return self._width(self._column)

    def _width(self, column: str) -> int:
        declared = re.search(r"\((\d+)\)", self._type_of(column) or "")
        if declared:
            return int(declared[1])
        stored = self._rows("SELECT vector_dims({of}) FROM {table} WHERE {of} IS NOT NULL LIMIT 1", of=column)
        return int(stored[0][0]) if stored else 0

    def sample(self, size: int) -> StoredSample:
        """Return rows in the order of a hash of their ids."""
        return self._sample(self._column, size)

    def _sample(self, column: str, size: int) -> StoredSample:
        found = self._rows(
            "SELECT id::text, {text}, {of}::text FROM {table} WHERE {of} IS NOT NULL ORDER BY md5(id::text) LIMIT %s",
            [size],
            of=column,
        )
        vectors = np.array([json.loads(vector) for _, _, vector in found], dtype=np.float32)
        return StoredSample(
            [doc_id for doc_id, _, _ in found],
            [text for _, text, _ in found],
            vectors.reshape(len(found), self._width(column)),
        )

    def is_on(self, model: ServingModel) -> bool:
        """Tell whether the column in force was written with this model, as its comment says, and no row by another."""
        return self._is_swapped_to(model) and not self._has_foreign_latecomers(model)

    def remaining(self, model: ServingModel) -> list[str]:
        """Return the texts of the rows whose new vector is not there."""
        if self._is_swapped_to(model):
            return sorted({text for _, text, _ in self._latecomers()})
        if self._comment_on(self._pending) != _comment(model):
            return sorted(set(self.texts()))
        query = "SELECT DISTINCT {text} FROM {table} WHERE {pending} IS NULL AND {column} IS NOT NULL"
        return [text for (text,) in self._rows(query)]

    def bytes_needed(self, model: ServingModel) -> int:
        """Count the new vectors and a second version of each row, which PostgreSQL keeps until it vacuums."""
        ((table_bytes, rows),) = self._rows("SELECT pg_relation_size('{table}'), count(*) FROM {table}")
        return int(table_bytes) + 4 * model.dimension * int(rows)

    def build(self, model: ServingModel) -> None:
        """Fill the second column, longest texts first, one committed block after another."""
        with _as_deployment_error(self.label), self._alone():
            if self._is_swapped_to(model):
                self._embed([row_id for row_id, _, _ in self._latecomers()], self._column, model)
                return
            self._prepare_column(model)
            self._fill(model)
            self._copy_indexes()

    def settings(self, model: ServingModel) -> Mapping[str, str]:
        """Return none: the swap itself puts the new vectors in force."""
        return {}

    def prepare(self, model: ServingModel) -> None:
        """Verify the second column."""
        with _as_deployment_error(self.label):
            if not self._is_swapped_to(model):
                self._verify(model)

    def swap(self, model: ServingModel) -> None:
        """Rename both columns in one transaction that no row can slip past."""
        if self._is_swapped_to(model):
            return
        with _as_deployment_error(self.label), self._alone():
            for _ in range(LATECOMER_ROUNDS):
                if self._rename_if_complete():
                    return
                self._fill(model)
        raise DeploymentError(
            f"{self.label}: rows keep coming in while it is swapped; stop DocsGPT's worker and run the command again"
        )

    def can_roll_back(self) -> bool:
        """Tell whether the old column is there, and whole."""
        with _as_deployment_error(self.label):
            if self._type_of(self._previous) is None:
                return False
            self._require_old_vectors()
        return True

    def sample_before(self, size: int) -> StoredSample | None:
        """Return rows with what is in the old column."""
        with _as_deployment_error(self.label):
            return None if self._type_of(self._previous) is None else self._sample(self._previous, size)

    def fingerprint_before(self) -> str | None:
        """Return what the old column's comment says."""
        with _as_deployment_error(self.label):
            comment = self._comment_on(self._previous) or ""
        return comment.removeprefix(_COMMENT) if comment.startswith(_COMMENT) else None

    def roll_back(self) -> None:
        """Rename the columns back; the old values were never touched."""
        with _as_deployment_error(self.label), self._alone(), self._locked():
            self._require_old_vectors()
            required = self._is_required(self._column)
            self._execute("ALTER TABLE {table} DROP COLUMN {column}")
            self._execute("ALTER TABLE {table} RENAME COLUMN {previous} TO {column}")
            if required:
                self._execute("ALTER TABLE {table} ALTER COLUMN {column} SET NOT NULL")

    def _require_old_vectors(self) -> None:
        later = "SELECT count(*) FROM {table} WHERE {previous} IS NULL AND {column} IS NOT NULL"
        ((added,),) = self._rows(later)
        if added:
            raise DeploymentError(
                f"{self.label}: {added} rows were added since it was re-embedded, and have no old vector; "
                "embed them all with the old model instead: embtune reembed --model OLD_MODEL"
            )

    def _is_swapped_to(self, model: ServingModel) -> bool:
        return self._comment_on(self._column) == _comment(model)

    def _has_foreign_latecomers(self, model: ServingModel) -> bool:
        late = self._latecomers(LATECOMERS_CHECKED)
        if not late:
            return False
        stored = np.array([json.loads(vector) for _, _, vector in late], dtype=np.float32)
        own = cosines(stored, model.embed([text for _, text, _ in late])) >= model.same_vector  # a NaN is not
        return not own.all()

    def _latecomers(self, size: int | None = None) -> list[tuple[str, str, str]]:
        """Read id, text and vector of the rows that the swap did not make: all, or the first ones and a sample."""
        if self._type_of(self._previous) is None:
            return []
        found: list[tuple[str, str, str]] = self._rows(
            "SELECT id, text, vector FROM (SELECT id::text, {text} AS text, {column}::text AS vector, "
            "row_number() OVER (ORDER BY id) AS came, row_number() OVER (ORDER BY md5(id::text)) AS drawn "
            "FROM {table} WHERE {previous} IS NULL AND {column} IS NOT NULL) late "
            "WHERE least(came, drawn) <= coalesce(%s, came) ORDER BY length(text) DESC, id",
            [size],
        )
        return found

    def _prepare_column(self, model: ServingModel) -> None:
        if self._comment_on(self._pending) == _comment(model):
            return
        width, comment = str(model.dimension), _comment(model)
        with self._locked():
            self._execute("ALTER TABLE {table} DROP COLUMN IF EXISTS {pending}")
            self._execute("ALTER TABLE {table} ADD COLUMN {pending} vector({width})", width=width)
            self._execute("COMMENT ON COLUMN {table}.{pending} IS '{comment}'", comment=comment)

    def _fill(self, model: ServingModel) -> None:
        missing = self._rows(
            "SELECT id FROM {table} WHERE {pending} IS NULL AND {column} IS NOT NULL ORDER BY length({text}) DESC, id"
        )
        self._embed([str(row_id) for (row_id,) in missing], self._pending, model)

    def _embed(self, all_ids: Sequence[str], target: str, model: ServingModel) -> None:
        id_type = self._type_of("id") or "text"
        with Bar(total=len(all_ids), desc=f"embedding {self._table}", unit="chunk") as progress:
            for start in range(0, len(all_ids), vector_journal.BLOCK):
                ids = all_ids[start : start + vector_journal.BLOCK]
                # Their order is kept: texts of like length are in one batch.
                block = self._rows(
                    "SELECT t.id::text, t.{text} FROM {table} t "
                    "JOIN unnest(%s::{id_type}[]) WITH ORDINALITY AS o(id, n) ON t.id = o.id ORDER BY o.n",
                    [ids],
                    id_type=id_type,
                )
                vectors = model.embed_many([text for _, text in block])
                self._execute(
                    "UPDATE {table} t SET {target} = n.v::vector "
                    "FROM unnest(%s::{id_type}[], %s::text[]) AS n(id, v) WHERE t.id = n.id",
                    [[row_id for row_id, _ in block], [json.dumps(vector.tolist()) for vector in vectors]],
                    id_type=id_type,
                    target=target,
                )
                progress.update(len(block))

    def _copy_indexes(self) -> None:
        """Give the second column the vector indexes that an operator made on the first."""
        for name, definition in self._vector_indexes():
            copy = f"{name}_embtune"[-63:]
            if not self._rows("SELECT 1 FROM pg_class WHERE relname = %s", [copy]):
                _, using = definition.split(" USING ", 1)
                using = using.replace(self._column, self._pending, 1)
                self._execute('CREATE INDEX "{index}" ON {table} USING {using}', index=copy, using=using)

    def _vector_indexes(self) -> Any:
        return self._rows(
            "SELECT c.relname, pg_get_indexdef(i.indexrelid) FROM pg_index i "
            "JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_attribute a ON a.attrelid = i.indrelid "
            "AND a.attnum = ANY(i.indkey) WHERE i.indrelid = %s::regclass AND a.attname = %s",
            [self._table, self._column],
        )

    def _verify(self, model: ServingModel) -> None:
        if self._comment_on(self._pending) != _comment(model):
            raise DeploymentError(f"{self.label}: nothing was built for {model.folder}; run the same command again")
        found = self._rows(
            "SELECT id::text, {text}, {pending}::text FROM {table} WHERE {pending} IS NOT NULL "
            "ORDER BY md5(id::text) LIMIT %s",
            [VERIFIED_CHUNKS],
        )
        if not found:
            return
        stored = np.array([json.loads(vector) for _, _, vector in found], dtype=np.float32)
        again = model.embed([text for _, text, _ in found])
        where = f"{self.label}.{self._pending} (drop that column and run again)"
        require_vectors_of([row_id for row_id, _, _ in found], stored, again, where)
        nearest = "SELECT {text} FROM {table} WHERE {pending} IS NOT NULL ORDER BY {pending} <=> %s::vector LIMIT 1"
        ((text,),) = self._rows(nearest, [json.dumps(again[0].tolist())])
        if text != found[0][1] and not cosines(model.embed([text]), again[:1]).min() >= SAME_VECTOR:
            raise DeploymentError(f"{self.label}: a search for row {found[0][0]} finds another row")

    def _rename_if_complete(self) -> bool:
        with self._locked():
            ((late,),) = self._rows("SELECT count(*) FROM {table} WHERE {pending} IS NULL AND {column} IS NOT NULL")
            if late:
                return False
            if self._is_required(self._column):  # the host fills the new one, and cannot fill the one that is kept
                self._execute("ALTER TABLE {table} ALTER COLUMN {pending} SET NOT NULL")
                self._execute("ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL")
            self._execute("ALTER TABLE {table} DROP COLUMN IF EXISTS {previous}")
            self._execute("ALTER TABLE {table} RENAME COLUMN {column} TO {previous}")
            self._execute("ALTER TABLE {table} RENAME COLUMN {pending} TO {column}")
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the table in one transaction, and give up soon: every search waits behind what waits for that.

        Raises:
            DeploymentError: If others have it all the time; names them.
        """
        from psycopg.errors import LockNotAvailable

        with self._connection.transaction():
            self._execute("SET LOCAL lock_timeout = {milliseconds}", milliseconds=str(_LOCK_TIMEOUT_MS))
            for tries_left in reversed(range(_LOCK_TRIES)):
                try:
                    with self._connection.transaction():  # a savepoint
                        self._execute("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
                    break
                except LockNotAvailable as error:
                    if not tries_left:
                        raise DeploymentError(
                            f"{self.label}: in use without end by {self._holders()}; end that and run the command again"
                        ) from error
            yield

    def _holders(self) -> str:
        found = self._rows(
            "SELECT DISTINCT pid, coalesce(nullif(application_name, ''), usename), state FROM pg_locks "
            "JOIN pg_stat_activity USING (pid) WHERE relation = %s::regclass AND granted AND pid <> pg_backend_pid()",
            [self._table],
        )
        return ", ".join(f"process {pid} ({name}, {state})" for pid, name, state in found) or "other processes"

    def _is_required(self, column: str) -> bool:
        return bool(
            self._rows(
                "SELECT 1 FROM pg_attribute WHERE attrelid = %s::regclass AND attname = %s AND attnotnull",
                [self._table, column],
            )
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        lock = f"docsgpt-embtune:{self._table}"
        ((free,),) = self._rows("SELECT pg_try_advisory_lock(hashtext(%s))", [lock])
        if not free:
            raise DeploymentError(f"{self.label}: another re-embedding is at work here; wait for it, or end it")
        try:
            yield
        finally:
            if not self._connection.closed:
                self._rows("SELECT pg_advisory_unlock(hashtext(%s))", [lock])

    def _type_of(self, column: str) -> str | None:
        found = self._rows(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attname = %s AND NOT attisdropped",
            [self._table, column],
        )
        return str(found[0][0]) if found else None

    def _comment_on(self, column: str) -> str | None:
        found = self._rows(
            "SELECT col_description(attrelid, attnum) FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attname = %s AND NOT attisdropped",
            [self._table, column],
        )
        return found[0][0] if found else None

    def _rows(self, query: LiteralString, values: Sequence[Any] = (), **parts: str) -> Any:
        return self._execute(query, values, **parts).fetchall()

    def _execute(self, query: LiteralString, values: Sequence[Any] = (), **parts: str) -> Any:
        from psycopg import sql

        raw: dict[str, Any] = {name: sql.SQL(part) for name, part in parts.items()}
        return self._connection.execute(sql.SQL(query).format(**self._names, **raw), values or None)


def _comment(model: ServingModel) -> str:
    return f"{_COMMENT}{model.fingerprint}"


def _as_deployment_error(label: str) -> AbstractContextManager[None]:
    import psycopg

    return as_deployment_error(label, (psycopg.Error,))
