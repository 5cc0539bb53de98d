"""All faults that training data can have, each with what finds it and what repairs it."""

from docsgpt_embtune.data.preparation.fault_check import Check
from docsgpt_embtune.data.preparation.finders import (
    NEAR_PAIRS,
    SUSPECTED,
    find_bad_that_answers,
    find_cut,
    find_foreign,
    ids_known_in_another_spelling,
)
from docsgpt_embtune.data.preparation.tables import ID_OF
from docsgpt_embtune.words import AS_WRITTEN, duckdb_pattern

LIMIT = 200_000  # texts; checks that read each one in Python take minutes on so many, and hours on ten million
# Near-duplicates are looked for just before this check, when exact copies are joined.
FIRST_AFTER_DUPLICATES = "good-and-bad"
COPIED_WORDS = 5  # a shorter question may stand in its chunk by chance
_WORDS = duckdb_pattern(AS_WRITTEN)


def _same_text(table: str) -> str:
    id_name = ID_OF[table]
    query_id, doc_id = ("copy.query_id", "''") if table == "questions" else ("''", "copy.doc_id")
    return f"""
        SELECT {query_id} AS query_id, {doc_id} AS doc_id, original.{id_name} AS other_id, copy.text
        FROM {table} AS copy JOIN (
            SELECT spelling, min(position) AS position FROM {table} GROUP BY spelling HAVING count(*) > 1
        ) AS first USING (spelling) JOIN {table} AS original ON original.position = first.position
        WHERE copy.position <> first.position AND NOT wordless(copy.key)"""


def _unmarked_copies(condition: str) -> str:
    # What a person marked as bad is left as it is, even where that mark was dropped.
    return f"""
        SELECT g.query_id, n.two AS doc_id, min(n.one) AS other_id, any_value(q.text || ' → ' || c.text) AS text
        FROM judgments g JOIN {NEAR_PAIRS} n ON n.one = g.doc_id JOIN questions q USING (query_id)
        JOIN chunks c ON c.doc_id = n.two JOIN chunks a ON a.doc_id = g.doc_id
        LEFT JOIN judgments j ON j.query_id = g.query_id AND j.doc_id = n.two
        LEFT JOIN dropped_bad_marks d ON d.query_id = g.query_id AND d.doc_id = n.two
        LEFT JOIN telling t ON t.query_id = g.query_id
        WHERE g.good AND j.doc_id IS NULL AND d.doc_id IS NULL
        AND NOT told_apart(coalesce(t.words, []), a.text, c.text)
        GROUP BY g.query_id, n.two HAVING {condition}"""


CHECKS = (
    Check(
        name="empty-question",
        what="questions without a word",
        serious=True,
        subject="question",
        remedy="drop question",
        find="SELECT query_id, '' AS doc_id, '' AS other_id, text FROM questions WHERE wordless(key)",
    ),
    Check(
        name="empty-chunk",
        what="chunks without a word",
        serious=True,
        subject="chunk",
        remedy="drop chunk",
        find="SELECT '' AS query_id, doc_id, '' AS other_id, text FROM chunks WHERE wordless(key)",
    ),
    Check(
        name="unknown-id",
        what="judgments of a question or chunk that is not there",
        serious=True,
        subject="judgment",
        remedy="drop judgment",
        find="""
            SELECT j.query_id, j.doc_id, '' AS other_id, coalesce(q.text, '') AS text
            FROM judgments j LEFT JOIN questions q USING (query_id) LEFT JOIN chunks c USING (doc_id)
            WHERE q.query_id IS NULL OR c.doc_id IS NULL""",
        hint=ids_known_in_another_spelling,
    ),
    Check(
        name="duplicate-chunk",
        what="chunks that are there under another id, too",
        serious=False,
        subject="chunk",
        remedy="join",
        find=_same_text("chunks"),
    ),
    Check(
        name="duplicate-question",
        what="questions that are there under another id, too",
        serious=False,
        subject="question",
        remedy="join",
        find=_same_text("questions"),
    ),
    Check(
        name="good-and-bad",
        what="chunks that are both good and bad for a question",
        serious=True,
        subject="judgment",
        remedy="drop bad mark",
        find="""
            WITH both_marks AS (
                SELECT q.spelling AS question, c.key AS chunk
                FROM judgments JOIN questions q USING (query_id) JOIN chunks c USING (doc_id)
                GROUP BY q.spelling, c.key HAVING bool_or(good) AND bool_or(NOT good)
            )
            SELECT query_id, doc_id, '' AS other_id, q.text || ' → ' || c.text AS text
            FROM both_marks JOIN questions q ON q.spelling = question JOIN chunks c ON c.key = chunk
            JOIN judgments USING (query_id, doc_id) WHERE NOT good""",
    ),
    Check(
        name="bad-chunk-answers",
        what="bad chunks that answer after all",
        serious=True,
        subject="judgment",
        remedy="drop bad mark",
        find=find_bad_that_answers,
        slow=True,
    ),
    Check(
        # Only a suspicion: the hardest negatives, which teach most, look like this, too.
        name="bad-chunk-may-answer",
        what="bad chunks that may answer, to be read by a person",
        serious=False,
        subject="judgment",
        remedy="none",
        find=f"SELECT * FROM {SUSPECTED}",
        slow=True,
    ),
    Check(
        name="two-chunks-answer",
        what="chunks that repeat a question's good one, and are not marked",
        serious=False,
        subject="judgment",
        remedy="mark as good",
        find=_unmarked_copies("bool_or(same_content(a.text, c.text))"),
        slow=True,
    ),
    Check(
        # Only a suspicion: where the question has other words than the chunks, its opposite looks like this, too.
        name="two-chunks-may-answer",
        what="chunks that nearly repeat a question's good one and may answer, to be read by a person",
        serious=False,
        subject="judgment",
        remedy="none",
        find=_unmarked_copies("NOT bool_or(same_content(a.text, c.text))"),
        slow=True,
    ),
    Check(
        name="copied-question",
        what="questions copied from their chunk",
        serious=False,
        subject="question",
        remedy="drop question",
        # In an FAQ each chunk begins with its question, which was not copied from an answer.
        # The cheap tests come first. Looking for the first and the last word is far quicker than applying `plain` to a
        # chunk, and splitting at spaces is far quicker than the pattern that also counts in scripts without spaces.
        find=f"""
            WITH asked AS (
                SELECT query_id, text, string_split(plain(text), ' ') AS words FROM questions
                WHERE CASE WHEN len(string_split(plain(text), ' ')) >= {COPIED_WORDS} THEN true
                ELSE len(regexp_extract_all(plain(text), '{_WORDS}')) >= {COPIED_WORDS} END
            )
            SELECT query_id, min(doc_id) AS doc_id, '' AS other_id, any_value(q.text) AS text
            FROM judgments JOIN asked q USING (query_id) JOIN chunks c USING (doc_id)
            WHERE good AND CASE
                WHEN contains(lowered(c.text), words[1]) AND contains(lowered(c.text), words[-1])
                THEN contains(plain(c.text), plain(q.text)) AND NOT is_entry_of(q.text, c.text) END
            GROUP BY query_id""",
    ),
    Check(
        name="cut-question",
        what="questions that were cut",
        serious=False,
        subject="question",
        remedy="drop question",
        find=find_cut("questions"),
        slow=True,
    ),
    Check(
        name="cut-chunk",
        what="chunks that were cut",
        serious=False,
        subject="chunk",
        remedy="none",
        find=find_cut("chunks"),
        slow=True,
    ),
    Check(
        name="foreign-question",
        what="questions in another language than the rest",
        serious=False,
        subject="question",
        remedy="none",  # people ask in their own language, whatever the documents are in
        find=find_foreign("questions"),
        slow=True,
    ),
    Check(
        name="foreign-chunk",
        what="chunks in another language than the rest",
        serious=False,
        subject="chunk",
        remedy="none",
        find=find_foreign("chunks"),
        slow=True,
    ),
    Check(
        name="seen-question",
        what="questions that a held-out file asks, too",
        serious=True,
        subject="question",
        remedy="drop question",
        find="""
            SELECT q.query_id, '' AS doc_id, min(h.query_id) AS other_id, any_value(q.text) AS text
            FROM questions q JOIN held_out_questions h USING (key) GROUP BY q.query_id""",
    ),
    Check(
        name="seen-answer",
        what="questions whose good chunk answers a held-out question, too",
        serious=True,
        subject="question",
        remedy="drop question",
        find="""
            SELECT j.query_id, unnest(min({doc_id: j.doc_id, other_id: h.doc_id, text: c.text}))
            FROM judgments j JOIN chunks c USING (doc_id) JOIN held_out_chunks h USING (key)
            WHERE j.good GROUP BY j.query_id""",
    ),
    Check(
        name="nearly-seen-question",
        what="questions that nearly repeat a held-out one",
        serious=True,
        subject="question",
        remedy="drop question",
        find="""
            SELECT q.query_id, '' AS doc_id, min(n.two) AS other_id, any_value(q.text) AS text
            FROM questions q JOIN near_held_out_questions n ON n.one = q.query_id GROUP BY q.query_id""",
        slow=True,
    ),
    Check(
        name="nearly-seen-answer",
        what="questions whose good chunk nearly repeats one that answers a held-out question",
        serious=True,
        subject="question",
        remedy="drop question",
        find="""
            SELECT j.query_id, unnest(min({doc_id: j.doc_id, other_id: n.two, text: c.text}))
            FROM judgments j JOIN chunks c USING (doc_id) JOIN near_held_out_chunks n ON n.one = j.doc_id
            WHERE j.good GROUP BY j.query_id""",
        slow=True,
    ),
    Check(
        name="no-good-chunk",
        what="questions without a good chunk",
        serious=True,
        subject="question",
        remedy="drop question",
        find="""
            SELECT query_id, '' AS doc_id, '' AS other_id, text
            FROM questions ANTI JOIN (SELECT DISTINCT query_id FROM judgments WHERE good) USING (query_id)""",
    ),
)
