"""The DuckDB tables that hold the data being prepared, and the macros by which SQL compares texts."""

import pyarrow

from docsgpt_embtune.words import ONE_BY_ONE, duckdb_pattern

ID_OF = {"questions": "query_id", "chunks": "doc_id"}  # table -> column that identifies its rows
MACROS_AND_TABLES = r"""
-- In lower case and Unicode NFC: ü or é is one character, not a letter and a mark.
CREATE MACRO lowered(text) AS lower(nfc_normalize(text));
-- What copies of a text have in common: its lowered letters and digits, all else replaced by single spaces. Combining
-- marks stay, as they are the vowels of Hindi and Thai, but variation selectors go: they only choose a glyph.
CREATE MACRO plain(text) AS
    trim(regexp_replace(lowered(text), '([^\p{L}\p{M}\p{N}]|[\x{FE00}-\x{FE0F}])+', ' ', 'g'));
-- Keeps all signs except those at the end, as "C", "C++" and "C#", or "a += b" and "a -= b", are not the same.
CREATE MACRO spelled(text) AS regexp_replace(trim(regexp_replace(lowered(text), '\s+', ' ', 'g')), '[\s.?!…]+$', '');
-- Whether a key, which is the hash of a plain text, is that of an empty one.
CREATE MACRO wordless(key) AS key = hash('');
CREATE MACRO words_of(text) AS regexp_extract_all(strip_accents(plain(text)), '@WORDS@');
-- Whether any of the given words is in only one of two texts.
CREATE MACRO told_apart(words, one, other) AS
    list_sort(list_intersect(words, words_of(one))) <> list_sort(list_intersect(words, words_of(other)));
CREATE MACRO content_of(text) AS regexp_replace(
    ' ' || replace(plain(regexp_replace(text, '(?m)^\s*\(?\d{1,3}[.)]\s+', '', 'g')), ' ', '  ') || ' ',
    ' (a|an|the|of|that|which|please) ', '', 'g');
-- Whether two texts differ only in signs, in numbers at the start of lines ("3.", "(3)") and in words that change no
-- meaning. Any other word may turn it: "largest" for "smallest", "without" for "with", 40 for 10.
CREATE MACRO same_content(one, other) AS content_of(one) = content_of(other);
CREATE MACRO first_lines(number, text) AS
    plain(array_to_string(regexp_split_to_array(trim(text), '[\n\r?？؟]+')[:number], ' '));
-- A text without what may stand before the question there: "Q:", "Question 3:", "3."
CREATE MACRO unlabelled(text) AS
    regexp_replace(trim(text), '^[^\p{L}\p{N}]*\p{L}{0,12} ?\p{N}{0,4}[*_]*[:.)][*_]*\s+', '');
CREATE MACRO begins_with(question, text) AS
    plain(question) IN (first_lines(1, text), first_lines(2, text), first_lines(3, text))
    AND plain(text) <> plain(question);
-- Whether a text is a question, in its first lines, and then more, as an entry of an FAQ is.
CREATE MACRO is_entry_of(question, text) AS begins_with(question, text) OR begins_with(question, unlabelled(text));
-- Accepts only ISO 8601: a cast would read 05-01-23 as a day of the year 5, and accept "epoch" and "infinity".
CREATE MACRO moment(date) AS CASE
    WHEN regexp_full_match(date, '\s*\d{4}-\d{2}-\d{2}([Tt ]\d.*)?\s*') THEN try_cast(trim(date) AS TIMESTAMPTZ) END;
CREATE TABLE more_documents (doc_id VARCHAR, document VARCHAR);
CREATE TABLE dropped_bad_marks (query_id VARCHAR, doc_id VARCHAR);
CREATE TABLE held_out_questions (query_id VARCHAR, text VARCHAR, key UBIGINT);
CREATE TABLE held_out_chunks (doc_id VARCHAR, text VARCHAR, key UBIGINT);
""".replace("@WORDS@", duckdb_pattern(ONE_BY_ONE))
# What is read of a source, before `JOIN` makes the tables of it.
TAKEN_IN = {
    table: pyarrow.schema({"position": pyarrow.int64(), **columns})
    for table, columns in {
        "questions": dict.fromkeys(("query_id", "text", "date"), pyarrow.string()),
        "chunks": dict.fromkeys(("doc_id", "text", "document"), pyarrow.string()),
        "judgments": {"query_id": pyarrow.string(), "doc_id": pyarrow.string(), "good": pyarrow.bool_()},
    }.items()
}


def _each_once(table: str, last: str, order: str) -> str:
    """Build a table of the rows taken in, each id once, with the last of its dates or documents in this order."""
    id_name = ID_OF[table]
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


JOIN = {
    "questions": _each_once("questions", "date", "moment(date) NULLS FIRST, date"),
    "chunks": _each_once("chunks", "document", "document")
    + """;
        INSERT INTO more_documents
        SELECT DISTINCT doc_id, one.document FROM read_chunks AS one JOIN chunks USING (doc_id)
        WHERE one.document <> '' AND one.document <> chunks.document""",
    "judgments": """
        CREATE TABLE judgments AS
        SELECT query_id, doc_id, good, min(position) AS position FROM read_judgments GROUP BY query_id, doc_id, good""",
}
