"""The data being prepared, in a DuckDB file, so that memory stays bounded even with ten million rows."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import duckdb
import numpy.typing as npt
import pyarrow
import pyarrow.parquet

from docsgpt_embtune.data.dataset import refuse_unknown_ids
from docsgpt_embtune.data.formats.content import DatasetContent, Row
from docsgpt_embtune.data.formats.format import RowFormat
from docsgpt_embtune.data.formats.options import ReadOptions
from docsgpt_embtune.data.formats.registry import find_format
from docsgpt_embtune.data.formats.source import Source
from docsgpt_embtune.data.formats.texts import text_object
from docsgpt_embtune.data.preparation.statements import with_a_bar
from docsgpt_embtune.data.preparation.tables import ID_OF, JOIN, MACROS_AND_TABLES, TAKEN_IN
from docsgpt_embtune.errors import DatasetError
from docsgpt_embtune.progress import Bar
from docsgpt_embtune.wording import counted

MEMORY = "2GB"  # DuckDB's limit; beyond it, data spill to disk next to its file
_BLOCK = 20_000  # rows passed on at a time


class Store:
    """Questions, chunks and judgments as DuckDB tables.

    - `questions` (query_id, position, text, key, spelling, date)
    - `chunks` (doc_id, position, text, key, spelling, document)
    - `judgments` (query_id, doc_id, good, position)
    - `more_documents` (doc_id, document): the further documents of chunks that several documents hold
    - `dropped_bad_marks` (query_id, doc_id): what was marked as bad and is so no longer
    - `held_out_questions` and `held_out_chunks`: questions and good chunks of the files that must stay unseen

    `position` is the order in the source. `key` is equal for texts that differ only in case, spacing and punctuation,
    `spelling` for texts that differ only in case, spacing and the punctuation at their end.

    Args:
        folder: Folder for the database file, with room for a few times the data.
        source: The source file, for messages.
    """

    def __init__(self, folder: Path, source: Path) -> None:
        self.folder = folder
        self.source = source
        self.notes: list[str] = []
        self.connection = duckdb.connect(
            str(folder / "data.duckdb"),
            config={"memory_limit": MEMORY, "temp_directory": str(folder), "preserve_insertion_order": False},
        )
        _count_progress(self.connection)
        self.connection.execute("SET GLOBAL TimeZone = 'UTC'")  # for dates without an offset, on every machine
        self.connection.execute(MACROS_AND_TABLES)
        # Parquet, as DuckDB would first log what is added to a table, and then write it again.
        self._arriving = {table: _writer(self._file(table), schema) for table, schema in TAKEN_IN.items()}
        self._position = 0

    def query(self, sql: str, parameters: Sequence[Any] = (), *, label: str = "working") -> list[tuple[Any, ...]]:
        """Run SQL and return all rows, with a progress bar of this label if it takes long."""
        return with_a_bar(self.connection, label, lambda: self.connection.execute(sql, list(parameters)).fetchall())

    def number(self, sql: str) -> int:
        """Run SQL and return its one number, 0 for NULL."""
        return int(self.query(sql)[0][0] or 0)

    def stream(self, sql: str, *, label: str = "sorting") -> Iterator[tuple[Any, ...]]:
        """Run SQL, with a progress bar if it takes long, and iterate over its rows with only a block in memory."""
        cursor = self.connection.cursor()
        _count_progress(cursor)
        with_a_bar(cursor, label, lambda: cursor.execute(sql))
        return chain.from_iterable(iter(lambda: cursor.fetchmany(_BLOCK), []))

    def put(
        self, table: str, columns: Mapping[str, Sequence[Any] | npt.NDArray[Any]], *, replace: bool = False
    ) -> None:
        """Append columns to a table, or create the table from them."""
        arriving = pyarrow.table(dict(columns))
        self.connection.register("arriving", arriving)
        start = f"CREATE OR REPLACE TABLE {table} AS" if replace else f"INSERT INTO {table}"
        self.connection.execute(f"{start} SELECT * FROM arriving")
        self.connection.unregister("arriving")

    def add_rows(self, rows: Iterable[Row]) -> None:
        """Add rows, a block at a time."""
        with Bar(rows, desc="reading", unit=" rows", unit_scale=True) as arriving:
            stream = iter(arriving)
            while block := list(islice(stream, _BLOCK)):
                self._add_block(block)

    def add_content(self, content: DatasetContent) -> None:
        """Add the content of a file, including unknown ids and chunks that nobody judged."""
        queries, corpus = content.queries, content.corpus
        self._take_in(
            "questions",
            {
                "position": list(range(len(queries))),
                "query_id": list(queries),
                "text": list(queries.values()),
                "date": [content.dates.get(query_id, "") for query_id in queries],
            },
        )
        self._take_in(
            "chunks",
            {
                "position": list(range(len(corpus))),
                "doc_id": list(corpus),
                "text": list(corpus.values()),
                "document": [content.documents.get(doc_id, "") for doc_id in corpus],
            },
        )
        if content.more_documents:
            more = [(doc_id, each) for doc_id, others in content.more_documents.items() for each in others]
            doc_ids, documents = map(list, zip(*more, strict=True))
            self.put("more_documents", {"doc_id": doc_ids, "document": documents})
        marks = ((content.relevant_docs, True), (content.irrelevant_docs, False))
        judged = [(q, d, good) for marked, good in marks for q, ids in marked.items() for d in ids]
        self._put_judgments(judged)

    def _put_judgments(self, judged: Sequence[tuple[str, str, bool]]) -> None:
        start, self._position = self._position, self._position + len(judged)
        if judged:
            query_ids, doc_ids, good = map(list, zip(*judged, strict=True))
            position = list(range(start, self._position))
            self._take_in("judgments", {"position": position, "query_id": query_ids, "doc_id": doc_ids, "good": good})

    def _add_block(self, block: Sequence[Row]) -> None:
        position = self._position
        judged = [
            (row, chunk, good)
            for row in block
            for marked, good in ((row.good, True), (row.bad, False))
            for chunk in marked
        ]
        # Different texts under one id are left for `join` to find, which sees all blocks.
        questions = dict.fromkeys((row.query_id, row.query, row.date) for row in block)
        chunks = dict.fromkeys((chunk.doc_id, chunk.text, row.document if good else "") for row, chunk, good in judged)
        for table, last, texts in (("questions", "date", questions), ("chunks", "document", chunks)):
            if texts:
                ids, text, values = map(list, zip(*texts, strict=True))
                places = list(range(position, position + len(texts)))
                self._take_in(table, {"position": places, ID_OF[table]: ids, "text": text, last: values})
        self._put_judgments([(row.query_id, chunk.doc_id, good) for row, chunk, good in judged])
        self._position += len(block) + len(chunks)

    def _take_in(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        self._arriving[table].write_table(pyarrow.table(dict(columns), schema=TAKEN_IN[table]))

    def _file(self, table: str) -> Path:
        return self.folder / f"{table}.parquet"

    def join(self) -> None:
        """Build the tables from what was added, with each question, chunk and judgment once.

        Raises:
            DatasetError: If an id stands for two texts, or there is no question.
        """
        for table, sql in JOIN.items():
            self._arriving[table].close()
            file = self._file(table)
            quoted = str(file).replace("'", "''")
            self.query(f"CREATE VIEW read_{table} AS FROM read_parquet('{quoted}')")
            self.query(sql, label=f"joining {table}")
            self.query(f"DROP VIEW read_{table}")
            file.unlink()
            if table == "judgments":
                break
            differing = self.query(f"SELECT min({ID_OF[table]}), count(*) FROM {table} WHERE differs")[0]
            if differing[1]:
                raise DatasetError(
                    f"{self.source}: one {table[:-1]} id stands for two texts: '{differing[0]}' "
                    f"(first of {differing[1]}, of {self.number(f'SELECT count(*) FROM {table}')})"
                )
            self.connection.execute(f"ALTER TABLE {table} DROP COLUMN differs")
        if not self.number("SELECT count(*) FROM questions"):
            raise DatasetError(f"{self.source}: holds no question")

    def add_documents(self, path: Path) -> None:
        """Set the document that each chunk was cut from, from JSON {doc_id: document}.

        Raises:
            DatasetError: If the file is something else, or names no chunk of the source.
        """
        documents = text_object(path, "documents", Source(path).object)
        self.put("documents", {"doc_id": list(documents), "document": list(documents.values())}, replace=True)
        named = self.number("SELECT count(*) FROM chunks SEMI JOIN documents USING (doc_id)")
        chunks = self.number("SELECT count(*) FROM chunks")
        if not named:
            own = self.query("SELECT doc_id FROM chunks ORDER BY position LIMIT 1")
            raise DatasetError(
                f"{path}: none of its {len(documents)} ids ('{next(iter(documents))}' …) is a chunk of {self.source} "
                f"({', '.join(repr(doc_id) for (doc_id,) in own)} …); give --corpus, whose ids the chunks then have, "
                "or, in a table, a column for the document"
            )
        if named < chunks:
            self.notes.append(f"{path} names the documents of {named:,} of {counted(chunks, 'chunk')}")
        self.query("UPDATE chunks SET document = d.document FROM documents d WHERE chunks.doc_id = d.doc_id")
        self.query("DELETE FROM more_documents USING documents d WHERE more_documents.doc_id = d.doc_id")

    def add_held_out(self, content: DatasetContent) -> None:
        """Add the content of a held-out file, whose questions must stay unseen.

        Raises:
            DatasetError: If its judgments name unknown ids, as its answers could then not be looked for.
        """
        refuse_unknown_ids(Path(content.sources[0]), content)
        good = dict.fromkeys(d for ids in content.relevant_docs.values() for d in ids)
        answers = {doc_id: content.corpus[doc_id] for doc_id in good}
        for table, texts in (("held_out_questions", content.queries), ("held_out_chunks", answers)):
            if texts:
                self.put("held_out", {"id": list(texts), "text": list(texts.values())}, replace=True)
                self.query(f"INSERT INTO {table} SELECT id, text, hash(plain(text)) FROM held_out")


def _count_progress(connection: duckdb.DuckDBPyConnection) -> None:
    # Lets `with_a_bar` ask for the progress; each cursor has its own settings.
    connection.execute("SET enable_progress_bar = true")
    connection.execute("SET enable_progress_bar_print = false")


def _writer(file: Path, schema: pyarrow.Schema) -> pyarrow.parquet.ParquetWriter:
    return pyarrow.parquet.ParquetWriter(file, schema, compression="zstd", use_dictionary=False)


@contextmanager
def opened(path: Path, options: ReadOptions, *, name: str | None = None, near: Path | None = None) -> Iterator[Store]:
    """Read a source of any format into a temporary store, deleted when the block ends; row formats are streamed.

    Args:
        path: The source.
        options: How to read a file that could mean several things.
        name: Its format, if the content does not tell it.
        near: Folder to put the store in; the system's folder for temporary files if not given.

    Raises:
        DatasetError: If the source cannot be read, or there is too little memory or disk.
    """
    source = Source(path)
    found = find_format(source, name)
    found.refuse_useless(options, path)
    place = (near or Path(tempfile.gettempdir())).absolute()
    if "?" in str(place):
        raise DatasetError(f"{place}: DuckDB cannot work below a folder with a ? in its name; give another --out")
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".embtune-prepare-", dir=place) as folder:
        store = Store(Path(folder), path)
        try:
            # A separate corpus gives the chunks their ids, so it has to be read whole before rows are mapped to it.
            if isinstance(found, RowFormat) and options.corpus is None:
                store.add_rows(found.rows(source, options))
            else:
                store.add_content(found.read(source, replace(options, keep_unknown=True)))
            store.join()
            yield store
        except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
            what = str(error).splitlines()[0]
            raise DatasetError(
                f"{Path(folder).parent}: too little disk or memory ({what}); {MEMORY} of memory and twice the source's "
                "size on disk are needed: make room, or give --out on a larger disk"
            ) from error
        finally:
            store.connection.close()
