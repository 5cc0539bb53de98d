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
from docsgpt_embtune.errors import DatasetError
from docsgpt_embtune.progress import Bar
from docsgpt_embtune.wording import counted
from docsgpt_embtune.words import ONE_BY_ONE, duckdb_pattern

MEMORY = "2GB"  # DuckDB's limit; beyond it, data spill to disk next to its file
_BLOCK = 20_000  # rows passed on at a time

# `lowered` is a text in lower case and Unicode NFC: ü or é is one character, not a letter and a mark.
# `plain` is what copies of a text have in common: its lowered letters and digits, all else replaced by single spaces.
# Combining marks stay, as they are the vowels of Hindi and Thai, but variation selectors go: they only choose a glyph.
# `wordless` tells whether a key, which is the hash of the plain text, is that of an empty one.
# `told_apart` tells whether any of the given words is in only one of two texts.
# `same_content` tells whether two texts differ only in signs, in numbers at the start of lines ("3.", "(3)") and in
# words that change no meaning. Any other word may turn it: "largest" for "smallest", "without" for "with", 40 for 10.
# `is_entry_of` tells whether a text is a question, in its first lines, and then more, as an entry of an FAQ is.
# `unlabelled` is a text without what may stand before the question there: "Q:", "Question 3:", "3."
# `spelled` keeps all signs except those at the end, as "C", "C++" and "C#", or "a += b" and "a -= b", are not the same.
# `moment` accepts only ISO 8601: a cast would read 05-01-23 as a day of the year 5, and accept "epoch" and "infinity".
_TABLES = r"""
CREATE MACRO lowered(text) AS lower(nfc_normalize(text));
CREATE MACRO plain(text) AS
    trim(regexp_replace(lowered(text), '([^\p{L}\p{M}\p{N}]|[\x{FE00}-\x{FE0F}])+', ' ', 'g'));
CREATE MACRO spelled(text) AS regexp_replace(trim(regexp_replace(lowered(text), '\s+', ' ', 'g')), '[\s.?!…]+$', '');
CREATE MACRO wordless(key) AS key = hash('');
CREATE MACRO words_of(text) AS regexp_extract_all(strip_accents(plain(text)), '@WORDS@');
CREATE MACRO told_apart(words, one, other) AS
    list_sort(list_intersect(words, words_of(one))) <> list_sort(list_intersect(words, words_of(other)));
CREATE MACRO content_of(text) AS regexp_replace(
    ' ' || replace(plain(regexp_replace(text, '(?m)^\s*\(?\d{1,3}[.)]\s+', '', 'g')), ' ', '  ') || ' ',
    ' (a|an|the|of|that|which|please) ', '', 'g');
CREATE MACRO same_content(one, other) AS content_of(one) = content_of(other);
CREATE MACRO first_lines(number, text) AS
    plain(array_to_string(regexp_split_to_array(trim(text), '[\n\r?？؟]+')[:number], ' '));
CREATE MACRO unlabelled(text) AS
    regexp_replace(trim(text), '^[^\p{L}\p{N}]*\p{L}{0,12} ?\p{N}{0,4}[*_]*[:.)][*_]*\s+', '');
CREATE MACRO begins_with(question, text) AS
    plain(question) IN (first_lines(1, text), first_lines(2, text), first_lines(3, text))
    AND plain(text) <> plain(question);
CREATE MACRO is_entry_of(question, text) AS begins_with(question, text) OR begins_with(question, unlabelled(text));
CREATE MACRO moment(date) AS CASE
    WHEN regexp_full_match(date, '\s*\d{4}-\d{2}-\d{2}([Tt ]\d.*)?\s*') THEN try_cast(trim(date) AS TIMESTAMPTZ) END;
CREATE TABLE more_documents (doc_id VARCHAR, document VARCHAR);
CREATE TABLE dropped_bad_marks (query_id VARCHAR, doc_id VARCHAR);
CREATE TABLE held_out_questions (file VARCHAR, query_id VARCHAR, text VARCHAR, key UBIGINT);
CREATE TABLE held_out_chunks (file VARCHAR, doc_id VARCHAR, text VARCHAR, key UBIGINT);
""".replace("@WORDS@", duckdb_pattern(ONE_BY_ONE))
_TAKEN_IN = {
    table: pyarrow.schema({"position": pyarrow.int64(), **columns})
    for table, columns in {
        "questions": dict.fromkeys(("query_id", "text", "date"), pyarrow.string()),
        "chunks": dict.fromkeys(("doc_id", "text", "document"), pyarrow.string()),
        "judgments": {"query_id": pyarrow.string(), "doc_id": pyarrow.string(), "good": pyarrow.bool_()},
    }.items()
}


def _each_once(table: str, id_name: str, last: str, order: str) -> str:
    # Only values of fixed size are aggregated, as DuckDB keeps aggregates in memory; the keys of groups spill to disk.
    return f"""
        CREATE TABLE {table} AS
        WITH ranked AS (
            SELECT {last}, row_number() OVER (ORDER BY {order}) AS rank FROM (SELECT DISTINCT {last} FROM read_{table})
        ), repeated AS (
            SELECT {id_name}, min(position) AS first, max(rank) AS rank, min(hash(text)) <> max(hash(text)) AS differs
            FROM read_{table} JOIN ranked USING ({last}) GROUP BY {id_name} HAVING count(*) > 1
        )
        SELECT {id_name}, position, text, hash(plain(text)) AS key, hash(spelled(text)) AS spelling,
               coalesce(latest.{last}, one.{last}) AS {last},
               coalesce(differs, false) AS differs
        FROM read_{table} AS one LEFT JOIN repeated USING ({id_name}) LEFT JOIN ranked AS latest USING (rank)
        WHERE position = coalesce(first, position)"""


_JOIN = {
    "questions": _each_once("questions", "query_id", "date", "moment(date) NULLS FIRST, date"),
    "chunks": _each_once("chunks", "doc_id", "document", "document")
    + """;
        INSERT INTO more_documents
        SELECT DISTINCT doc_id, one.document FROM read_chunks AS one JOIN chunks USING (doc_id)
        WHERE one.document <> '' AND one.document <> chunks.document""",
    "judgments": """
        CREATE TABLE judgments AS
        SELECT query_id, doc_id, good, min(position) AS position FROM read_judgments GROUP BY query_id, doc_id, good""",
}


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
        for statement in filter(str.strip, _TABLES.split(";\n")):
            self.connection.execute(statement)
        # Parquet, as DuckDB would first log what is added to a table, and then write it again.
        self._arriving = {table: _writer(self._file(table), schema) for table, schema in _TAKEN_IN.items()}
        self._position = 0

    def query(self, sql: str, parameters: Sequence[Any] = (), *, label: str = "working") -> list[tuple[Any, ...]]:
        """Run SQL and return all rows, with a progress bar of this label if it takes long."""
        return with_a_bar(self.connection, label, lambda: self.connection.execute(sql, list(parameters)).fetchall())

    def number(self, sql: str) -> int:
        """Run SQL and return its one number, 0 for NULL."""
        return int(self.query(sql)[0][0] or 0)

    def stream(self, sql: str, *, label: str = "sorting", block: int = _BLOCK) -> Iterator[tuple[Any, ...]]:
        """Run SQL, with a progress bar if it takes long, and iterate over its rows with only a block in memory."""
        cursor = self.connection.cursor()
        _count_progress(cursor)
        with_a_bar(cursor, label, lambda: cursor.execute(sql))
        return chain.from_iterable(iter(lambda: cursor.fetchmany(block), []))

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
        # Different texts under one id are left for `join` to find, which sees all blocks.
        questions = dict.fromkeys((row.query_id, row.query, row.date) for row in block)
        chunks = dict.fromkeys(
            (chunk.doc_id, chunk.text, row.document if good else "")
            for row in block
            for marked, good in ((row.good, True), (row.bad, False))
            for chunk in marked
        )
        for table, id_name, last, texts in (
            ("questions", "query_id", "date", questions),
            ("chunks", "doc_id", "document", chunks),
        ):
            if texts:
                ids, text, values = map(list, zip(*texts, strict=True))
                places = list(range(position, position + len(texts)))
                self._take_in(table, {"position": places, id_name: ids, "text": text, last: values})
        self._put_judgments(
            [
                (row.query_id, chunk.doc_id, good)
                for row in block
                for marked, good in ((row.good, True), (row.bad, False))
                for chunk in marked
            ]
        )
        self._position += len(block) + len(chunks)

    def _take_in(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        self._arriving[table].write_table(pyarrow.table(dict(columns), schema=_TAKEN_IN[table]))

    def _file(self, table: str) -> Path:
        return self.folder / f"{table}.parquet"

    def join(self) -> None:
        """Build the tables from what was added, with each question, chunk and judgment once.

        Raises:
            DatasetError: If an id stands for two texts, or there is no question.
        """
        for table, sql in _JOIN.items():
            self._arriving[table].close()
            file = self._file(table)
            quoted = str(file).replace("'", "''")
            self.query(f"CREATE VIEW read_{table} AS FROM read_parquet('{quoted}')")
            self.query(sql, label=f"joining {table}")
            self.query(f"DROP VIEW read_{table}")
            file.unlink()
            if table == "judgments":
                break
            differing = self.query(f"SELECT min({_ID[table]}), count(*) FROM {table} WHERE differs")[0]
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

    def add_held_out(self, content: DatasetContent, file: Path) -> None:
        """Add a held-out file, whose questions must stay unseen.

        Raises:
            DatasetError: If its judgments name unknown ids, as its answers could then not be looked for.
        """
        refuse_unknown_ids(file, content)
        good = dict.fromkeys(d for ids in content.relevant_docs.values() for d in ids)
        for kind, id_name, texts in (
            ("questions", "query_id", content.queries),
            ("chunks", "doc_id", {doc_id: content.corpus[doc_id] for doc_id in good}),
        ):
            names = [str(file)] * len(texts)
            columns: dict[str, Sequence[Any]] = {
                "file": names,
                id_name: list(texts),
                "text": list(texts.values()),
                "key": [0] * len(texts),
            }
            if texts:
                self.put(f"held_out_{kind}", columns)
        for kind in ("questions", "chunks"):
            self.connection.execute(f"UPDATE held_out_{kind} SET key = hash(plain(text))")


def _count_progress(connection: duckdb.DuckDBPyConnection) -> None:
    # Lets `with_a_bar` ask for the progress; each cursor has its own settings.
    connection.execute("SET enable_progress_bar = true")
    connection.execute("SET enable_progress_bar_print = false")


def _writer(file: Path, schema: pyarrow.Schema) -> pyarrow.parquet.ParquetWriter:
    return pyarrow.parquet.ParquetWriter(file, schema, compression="zstd", use_dictionary=False)


_ID = {"questions": "query_id", "chunks": "doc_id"}


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
