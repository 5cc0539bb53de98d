"""Re-embed DocsGPT's tables in PostgreSQL: fill a second vector column, then swap the names of the two.

A second column has advantages over a second table. Ids, sequences, foreign keys, grants and the text index stay as they
are, a new width is no special case, rows that come in meanwhile show as NULL, and swap and rollback are two renames
each, in one transaction. Indexes over the column, and grants on it alone, are copied. Anything else that depends on it
has to be dropped and made anew by an operator.

The database is the journal: each block is committed as soon as it is embedded.

If a worker is not restarted, it keeps embedding with the old model after the swap. The rows that it adds are recognised
by having no previous vector, and are embedded again in place. The entities that it updates do have one: if a sample
contains such an entity, all rows are embedded again.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from docsgpt_embtune.deployment import vector_journal
from docsgpt_embtune.deployment.deployed_model import DeployedModel, require_vectors_of
from docsgpt_embtune.deployment.postgres import connect
from docsgpt_embtune.deployment.stores import (
    LATECOMER_ROUNDS,
    LATECOMERS_CHECKED,
    VERIFIED_CHUNKS,
    ChunkStore,
    StoredSample,
)
from docsgpt_embtune.deployment.vector_table import VectorTable
from docsgpt_embtune.errors import DeploymentError
from docsgpt_embtune.progress import Bar
from docsgpt_embtune.vectors import SAME_VECTOR, cosines

# (table, vector column, text column): chunks, and GraphRAG's entities, which are searched by their names' vectors
_TABLES = (("documents", "embedding", "text"), ("graph_nodes", "name_embedding", "name"))
_COMMENT = "embtune:"  # precedes the model's fingerprint in the comment on a column that was built here


@contextmanager
def pgvector_stores(uri: str) -> Iterator[list[ChunkStore]]:
    """Open every table of a DocsGPT database that holds vectors, for the duration of the context.

    Args:
        uri: The host's PGVECTOR_CONNECTION_STRING or POSTGRES_URI.

    Raises:
        DeploymentError: If the database cannot be reached, or has no such table.
    """
    with connect(uri, autocommit=True) as connection:
        tables = [table for names in _TABLES if (table := VectorTable(connection, *names)).exists()]
        found: list[ChunkStore] = [PgvectorStore(table) for table in tables]
        if not found:
            raise DeploymentError(
                f"PostgreSQL database {connection.info.dbname!r} has no table {_TABLES[0][0]!r} with vectors; "
                "give the URI in PGVECTOR_CONNECTION_STRING, or POSTGRES_URI if that is not set"
            )
        yield found


class PgvectorStore:
    """One table with a vector column.

    Args:
        table: The table.
    """

    def __init__(self, table: VectorTable) -> None:
        self._table = table

    @property
    def label(self) -> str:
        """The table's name in messages."""
        return self._table.label

    def texts(self) -> list[str]:
        """Return the text of every row that has a vector."""
        return [text for (text,) in self._table.rows("SELECT {text} FROM {table} WHERE {column} IS NOT NULL")]

    def width(self) -> int:
        """Return the declared width of the vector column, or that of a stored vector if none is declared."""
        return self._table.width_of(self._table.column)

    def sample(self, size: int) -> StoredSample:
        """Return the first rows in the order of a hash of their ids."""
        return self._sample(self._table.column, size)

    def _sample(self, column: str, size: int, *, among: str = "true", order: str = "md5(id::text)") -> StoredSample:
        found = self._table.rows(
            "SELECT id::text, {text}, {of}::text FROM {table} WHERE {of} IS NOT NULL AND {among} "
            "ORDER BY {order} LIMIT %s",
            [size],
            of=column,
            among=among,
            order=order,
        )
        vectors = np.array([json.loads(vector) for _, _, vector in found], dtype=np.float32)
        return StoredSample(
            [doc_id for doc_id, _, _ in found],
            [text for _, text, _ in found],
            vectors.reshape(len(found), self._table.width_of(column)),
        )

    def is_on(self, model: DeployedModel) -> bool:
        """Tell whether the column in force is this model's by its comment, and no row that is checked is another's."""
        return self._is_swapped_to(model) and all(self._looked_at(model).values())

    def require_switchable(self, model: DeployedModel) -> None:
        """Check that the table is the user's, and that nothing depends on the column but indexes and grants to copy."""
        if not self._is_swapped_to(model):
            self._table.require_owner()
            self._table.require_no_dependents(self._table.column, self._table.previous)
            self._table.require_copyable_grants()
            self._table.require_copyable_indexes(model.dimension)

    def remaining(self, model: DeployedModel) -> list[str]:
        """Return the distinct texts of the rows that have no vector of this model yet."""
        if self._is_swapped_to(model):
            return sorted({text for _, text in self._to_mend(model)})
        if self._table.comment_on(self._table.pending) != _comment(model):
            return sorted(set(self.texts()))
        query = "SELECT DISTINCT {text} FROM {table} WHERE {pending} IS NULL AND {column} IS NOT NULL"
        return [text for (text,) in self._table.rows(query)]

    def bytes_needed(self, model: DeployedModel) -> int:
        """Count the new vectors, and the second version of each row that PostgreSQL keeps until a vacuum."""
        ((table_bytes, rows),) = self._table.rows("SELECT pg_relation_size('{table}'), count(*) FROM {table}")
        return int(table_bytes) + 4 * model.dimension * int(rows)

    def build(self, model: DeployedModel) -> None:
        """Fill the second column, longest texts first, one committed block after another."""
        with self._table.alone():
            if self._is_swapped_to(model):
                self._embed([row_id for row_id, _ in self._to_mend(model)], self._table.column, model)
                return
            self._prepare_column(model)
            self._fill(model)
            self._table.copy_indexes()

    def settings(self, model: DeployedModel) -> Mapping[str, str]:
        """Return no settings: the swap itself puts the new vectors in force."""
        return {}

    def prepare(self, model: DeployedModel) -> None:
        """Verify the second column."""
        if not self._is_swapped_to(model):
            self._verify(model)

    def swap(self, model: DeployedModel) -> None:
        """Rename both columns in one transaction, with the table locked so that no row is missed."""
        if self._is_swapped_to(model):
            return
        with self._table.alone():
            for _ in range(LATECOMER_ROUNDS):
                if self._rename_if_complete(model):
                    return
                self._fill(model)
        raise DeploymentError(
            f"{self.label}: rows keep coming in while it is swapped; stop DocsGPT's worker and run the command again"
        )

    def can_roll_back(self) -> bool:
        """Tell whether the old column exists, is complete, and the new one can be dropped."""
        if not self._keeps_old_vectors():
            return False
        self._require_reversible()
        return True

    def sample_before(self, size: int) -> StoredSample | None:
        """Return rows with their vectors in the old column."""
        return self._sample(self._table.previous, size) if self._keeps_old_vectors() else None

    def fingerprint_before(self) -> str | None:
        """Return the fingerprint in the old column's comment."""
        comment = self._table.comment_on(self._table.previous) or ""
        return comment.removeprefix(_COMMENT) if comment.startswith(_COMMENT) else None

    def roll_back(self) -> None:
        """Rename the columns back; the old values were never touched."""
        with self._table.alone(), self._table.locked():
            self._require_reversible()
            required = self._table.is_required(self._table.column)
            self._table.execute("ALTER TABLE {table} DROP COLUMN {column}")
            self._table.execute("ALTER TABLE {table} RENAME COLUMN {previous} TO {column}")
            if required:
                self._table.execute("ALTER TABLE {table} ALTER COLUMN {column} SET NOT NULL")

    def kept(self) -> str:
        """Name the old column."""
        return f"column {self._table.previous}" if self._keeps_old_vectors() else ""

    def unfinished(self) -> str:
        """Name nothing: what such a run leaves is found by the next one, and goes with it."""
        return ""

    def replaces_kept(self, model: DeployedModel) -> bool:
        """Tell whether the swap would drop the old column for the one in force."""
        return self._keeps_old_vectors() and not self._is_swapped_to(model)

    def require_forgettable(self) -> None:
        """Check that nothing but indexes depends on the old column."""
        self._table.require_no_dependents(self._table.previous)

    def forget(self) -> None:
        """Drop the old column, and the indexes over it."""
        with self._table.alone(), self._table.locked():
            self._table.execute("ALTER TABLE {table} DROP COLUMN IF EXISTS {previous}")

    def _keeps_old_vectors(self) -> bool:
        return self._table.type_of(self._table.previous) is not None

    def _require_reversible(self) -> None:
        self._table.require_no_dependents(self._table.column)
        later = "SELECT count(*) FROM {table} WHERE {previous} IS NULL AND {column} IS NOT NULL"
        ((added,),) = self._table.rows(later)
        if added:
            raise DeploymentError(
                f"{self.label}: {added} rows were added since it was re-embedded, and have no old vector; "
                "embed them all with the old model instead: embtune reembed --model OLD_MODEL"
            )

    def _is_swapped_to(self, model: DeployedModel) -> bool:
        return self._table.comment_on(self._table.column) == _comment(model)

    def _looked_at(self, model: DeployedModel) -> dict[str, bool]:
        """Tell for the rows that the doctor samples, and for the first since the swap, whether each is the model's."""
        drawn = self.sample(LATECOMERS_CHECKED)
        first = self._sample(self._table.column, LATECOMERS_CHECKED, among=self._came_since(), order="id")
        return {
            row_id: bool(is_own)
            for rows in (drawn, first)
            for row_id, is_own in zip(rows.doc_ids, model.made(rows.texts, rows.vectors), strict=True)
        }

    def _to_mend(self, model: DeployedModel) -> list[tuple[str, str]]:
        """Return id and text of the rows added since the swap; of all rows, if an older one is not the model's.

        Rows that are checked come last: after an interruption they are still the other model's, so that the next run
        finds that work is left.
        """
        looked_at, rows = self._looked_at(model), self._texts_of(self._came_since())
        if any(row_id not in rows for row_id, is_own in looked_at.items() if not is_own):
            rows = self._texts_of("true")
        return sorted(rows.items(), key=lambda row: (row[0] in looked_at, -len(row[1]), row[0]))

    def _texts_of(self, among: str) -> dict[str, str]:
        query = "SELECT id::text, {text} FROM {table} WHERE {column} IS NOT NULL AND {among}"
        return dict(self._table.rows(query, among=among))

    def _came_since(self) -> str:
        """Return the SQL condition that selects rows added since the swap."""
        return f"{self._table.previous} IS NULL" if self._keeps_old_vectors() else "false"

    def _prepare_column(self, model: DeployedModel) -> None:
        if self._table.comment_on(self._table.pending) == _comment(model):
            return
        width, comment = str(model.dimension), _comment(model)
        with self._table.locked():
            self._table.execute("ALTER TABLE {table} DROP COLUMN IF EXISTS {pending}")
            self._table.execute("ALTER TABLE {table} ADD COLUMN {pending} vector({width})", width=width)
            self._table.copy_settings()
            self._table.execute("COMMENT ON COLUMN {table}.{pending} IS '{comment}'", comment=comment)

    def _fill(self, model: DeployedModel) -> None:
        missing = self._table.rows(
            "SELECT id FROM {table} WHERE {pending} IS NULL AND {column} IS NOT NULL ORDER BY length({text}) DESC, id"
        )
        self._embed([str(row_id) for (row_id,) in missing], self._table.pending, model)

    def _embed(self, all_ids: Sequence[str], target: str, model: DeployedModel) -> None:
        id_type = self._table.type_of("id") or "text"
        with Bar(total=len(all_ids), desc=f"embedding {self._table.name}", unit="chunk") as progress:
            for start in range(0, len(all_ids), vector_journal.BLOCK):
                ids = all_ids[start : start + vector_journal.BLOCK]
                # The order is kept, so that texts of similar length share a batch.
                block = self._table.rows(
                    "SELECT t.id::text, {text} FROM {table} t "
                    "JOIN unnest(%s::{id_type}[]) WITH ORDINALITY AS o(id, n) ON t.id = o.id ORDER BY o.n",
                    [ids],
                    id_type=id_type,
                )
                vectors = model.embed_many([text for _, text in block])
                self._table.execute(
                    "UPDATE {table} t SET {target} = n.v::vector "
                    "FROM unnest(%s::{id_type}[], %s::text[]) AS n(id, v) WHERE t.id = n.id",
                    [[row_id for row_id, _ in block], [json.dumps(vector.tolist()) for vector in vectors]],
                    id_type=id_type,
                    target=target,
                )
                progress.update(len(block))

    def _require_built_for(self, model: DeployedModel) -> None:
        if self._table.comment_on(self._table.pending) != _comment(model):
            raise DeploymentError(
                f"{self.label}: nothing is built for {model.name}, or no more, since another model was built there; "
                "run the same command again"
            )

    def _verify(self, model: DeployedModel) -> None:
        self._require_built_for(model)
        found = self._table.rows(
            "SELECT id::text, {text}, {pending}::text FROM {table} WHERE {pending} IS NOT NULL "
            "ORDER BY md5(id::text) LIMIT %s",
            [VERIFIED_CHUNKS],
        )
        if not found:
            return
        stored = np.array([json.loads(vector) for _, _, vector in found], dtype=np.float32)
        again = model.embed([text for _, text, _ in found])
        where = f"{self.label}.{self._table.pending} (drop that column and run again)"
        require_vectors_of([row_id for row_id, _, _ in found], stored, again, where)
        nearest = "SELECT {text} FROM {table} WHERE {pending} IS NOT NULL ORDER BY {pending} <=> %s::vector LIMIT 1"
        ((text,),) = self._table.rows(nearest, [json.dumps(again[0].tolist())])
        if text != found[0][1] and not cosines(model.embed([text]), again[:1]).min() >= SAME_VECTOR:
            raise DeploymentError(f"{self.label}: a search for row {found[0][0]} finds another row")

    def _rename_if_complete(self, model: DeployedModel) -> bool:
        with self._table.locked():
            # Since `prepare`, another process may have built a column, or an operator added a view or a grant.
            self._require_built_for(model)
            self._table.require_no_dependents(self._table.column, self._table.previous)
            self._table.require_copyable_grants()
            not_filled = "SELECT count(*) FROM {table} WHERE {pending} IS NULL AND {column} IS NOT NULL"
            ((late,),) = self._table.rows(not_filled)
            if late:
                return False
            # After the swap the host fills only the new column, so the kept one must accept NULL.
            if self._table.is_required(self._table.column):
                self._table.execute("ALTER TABLE {table} ALTER COLUMN {pending} SET NOT NULL")
                self._table.execute("ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL")
            self._table.copy_grants()
            self._table.execute("ALTER TABLE {table} DROP COLUMN IF EXISTS {previous}")
            self._table.execute("ALTER TABLE {table} RENAME COLUMN {column} TO {previous}")
            self._table.execute("ALTER TABLE {table} RENAME COLUMN {pending} TO {column}")
        return True


def _comment(model: DeployedModel) -> str:
    return f"{_COMMENT}{model.fingerprint}"
