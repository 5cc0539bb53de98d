"""What can be wrong with training data, each fault with what finds it and what mends it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from docsgpt_embtune.data.preparation.cut_texts import cut_texts
from docsgpt_embtune.data.preparation.languages import in_other_languages
from docsgpt_embtune.data.preparation.near_duplicates import letter_triples, near_duplicates, word_pairs
from docsgpt_embtune.data.preparation.store import Store
from docsgpt_embtune.words import AS_WRITTEN

Subject = Literal["question", "chunk", "judgment"]
Remedy = Literal["drop question", "drop chunk", "drop judgment", "drop bad mark", "mark as good", "join", "none"]
Finder = Callable[[Store, "CheckSettings"], None]

LIMIT = 200_000  # texts; what reads each of them in Python takes minutes there, and hours on ten million
NEAR_CHUNK = 0.7  # Jaccard of neighbouring words: one word in ten exchanged
NEAR_QUESTION = 0.8  # Jaccard of letter triples: a plural, a typing error
FIRST_AFTER_DUPLICATES = "good-and-bad"  # the check before which near-duplicates are looked for, exact ones joined
_SUSPECTED = "suspected"  # table that the search for bad chunks that answer leaves to the check after it
COPIED_WORDS = 5  # a question of fewer may stand in its chunk by chance
_WORDS = re.sub(r"\\u(....)", r"\\x{\1}", AS_WRITTEN.pattern)  # as DuckDB writes characters


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """What the checks need to know.

    Attributes:
        model: Base model that tells whether a bad chunk says what the good one says; None to go without.
        cross_encoder: Cross-encoder to ask instead.
    """

    model: str | None = None
    cross_encoder: str | None = None


@dataclass(frozen=True, kw_only=True)
class Check:
    """One fault.

    Attributes:
        name: In the log of changes.
        what: The fault, in words that a number follows.
        serious: Whether a model learned from such data, or a figure measured on it, is worth little.
        subject: What is counted.
        remedy: What `--fix` does.
        find: SQL that selects, or a function that puts into the table `offenders`: query_id, doc_id, other_id, text.
        slow: Whether it reads each text in Python, and is left out above the limit.
    """

    name: str
    what: str
    serious: bool
    subject: Subject
    remedy: Remedy
    find: str | Finder
    slow: bool = False


def find_offenders(store: Store, check: Check, settings: CheckSettings) -> None:
    """Fill the table `offenders` (query_id, doc_id, other_id, text)."""
    if isinstance(check.find, str):
        store.query(f"CREATE OR REPLACE TABLE offenders AS {check.find}", label=check.name)
    else:
        check.find(store, settings)


def _put_offenders(store: Store, rows: list[tuple[str, str, str, str]], table: str = "offenders") -> None:
    columns = ("query_id", "doc_id", "other_id", "text")
    store.query(f"CREATE OR REPLACE TABLE {table} (query_id VARCHAR, doc_id VARCHAR, other_id VARCHAR, text VARCHAR)")
    if rows:
        store.put(table, {name: [row[place] for row in rows] for place, name in enumerate(columns)})


def _texts(store: Store, table: str) -> dict[str, str]:
    id_name = "query_id" if table == "questions" else "doc_id"
    return dict(store.stream(f"SELECT {id_name}, text FROM {table} ORDER BY position"))


def _find_cut(table: str) -> Finder:
    def find(store: Store, _settings: CheckSettings) -> None:
        texts = _texts(store, table)
        _put_offenders(
            store, [_subject(table, text_id, "", f"…{texts[text_id][-80:]}") for text_id in cut_texts(texts)]
        )

    return find


def _find_foreign(table: str) -> Finder:
    def find(store: Store, _settings: CheckSettings) -> None:
        texts = _texts(store, table)
        foreign = in_other_languages(texts, label=f"languages of {table}")
        _put_offenders(
            store, [_subject(table, text_id, "", f"{foreign[text_id]}: {texts[text_id]}") for text_id in foreign]
        )

    return find


def _subject(table: str, text_id: str, other_id: str, text: str) -> tuple[str, str, str, str]:
    return (text_id, "", other_id, text) if table == "questions" else ("", text_id, other_id, text)


def find_near_duplicates(store: Store) -> None:
    """Make tables `near_questions` and `near_chunks` (one, two), and `near_held_out_…` (id, held_out_id).

    Of copies the first stands for all, and texts without a word are left out: both are for SQL to find.
    """
    for table, shingle, threshold in (("questions", letter_triples, NEAR_QUESTION), ("chunks", word_pairs, NEAR_CHUNK)):
        id_name = "query_id" if table == "questions" else "doc_id"
        own = store.query(
            f"SELECT min({id_name}), plain(any_value(text)) FROM {table} WHERE NOT wordless(key) "
            "GROUP BY spelling ORDER BY min(position)"
        )
        held_out = store.query(
            f"SELECT {id_name}, plain(text) FROM held_out_{table} WHERE NOT wordless(key) ORDER BY ALL"
        )
        texts = [*own, *held_out]
        pairs = near_duplicates([text for _, text in texts], shingle, threshold, label=f"near-duplicate {table}")
        among = [pair for pair in pairs if pair[1] < len(own)]
        # A copy of a held-out text is seen, not nearly: but what nearly repeats it must be found beside the copy, too.
        across = [(a, b) for a, b in pairs if a < len(own) <= b and texts[a][1] != texts[b][1]]
        for name, found in ((f"near_{table}", among), (f"near_held_out_{table}", across)):
            store.query(f"CREATE OR REPLACE TABLE {name} (one VARCHAR, two VARCHAR)")
            if found:
                store.put(
                    name, {"one": [texts[one][0] for one, _ in found], "two": [texts[two][0] for _, two in found]}
                )


def _find_bad_that_answers(store: Store, settings: CheckSettings) -> None:
    near = store.query(_NEAR_BAD)
    found = {(query_id, doc_id): text for query_id, doc_id, text in near}
    suspected: list[tuple[str, str]] = []
    judged = store.query("""
        SELECT b.query_id, b.doc_id, g.doc_id FROM judgments b JOIN judgments g USING (query_id)
        WHERE g.good AND NOT b.good AND b.doc_id <> g.doc_id ORDER BY b.position, g.position""")
    if judged and (settings.model or settings.cross_encoder):
        # Imported here: it brings torch, which the other checks do without.
        from docsgpt_embtune.data.preparation.answering import as_good_as_the_good_chunk, like_the_good_chunk

        named = "SELECT DISTINCT query_id FROM judgments WHERE NOT good"
        corpus = dict(
            store.query(
                f"SELECT DISTINCT doc_id, text FROM chunks JOIN judgments USING (doc_id) WHERE query_id IN ({named})"
            )
        )
        queries = dict(store.query(f"SELECT query_id, text FROM questions WHERE query_id IN ({named})"))
        judged = [(q, b, g) for q, b, g in judged if q in queries and b in corpus and g in corpus]
        if settings.cross_encoder:
            pairs = as_good_as_the_good_chunk(queries, corpus, judged, settings.cross_encoder)
        else:
            pairs, suspected = like_the_good_chunk(queries, corpus, judged, str(settings.model))
        found |= {(query_id, doc_id): f"{queries[query_id]} → {corpus[doc_id]}" for query_id, doc_id in pairs}
        suspected = [pair for pair in suspected if pair not in found]
    _put_offenders(store, [(query_id, doc_id, "", text) for (query_id, doc_id), text in found.items()])
    rows = [(query_id, doc_id, "", f"{queries[query_id]} → {corpus[doc_id]}") for query_id, doc_id in suspected]
    _put_offenders(store, rows, _SUSPECTED)


_NEAR = "(SELECT one, two FROM near_chunks UNION ALL SELECT two, one FROM near_chunks)"
_NEAR_BAD = f"""
    SELECT DISTINCT b.query_id, b.doc_id, q.text || ' → ' || c.text
    FROM judgments b JOIN judgments g USING (query_id) JOIN {_NEAR} n ON n.one = g.doc_id AND n.two = b.doc_id
    JOIN questions q USING (query_id) JOIN chunks c ON c.doc_id = b.doc_id
    WHERE g.good AND NOT b.good"""


def _same_text(table: str) -> str:
    id_name = "query_id" if table == "questions" else "doc_id"
    query_id, doc_id = ("copy.query_id", "''") if table == "questions" else ("''", "copy.doc_id")
    return f"""
        SELECT {query_id} AS query_id, {doc_id} AS doc_id, original.{id_name} AS other_id, copy.text
        FROM {table} AS copy JOIN (
            SELECT spelling, min(position) AS position FROM {table} GROUP BY spelling HAVING count(*) > 1
        ) AS first USING (spelling) JOIN {table} AS original ON original.position = first.position
        WHERE copy.position <> first.position AND NOT wordless(copy.key)"""


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
            SELECT j.query_id, j.doc_id, '' AS other_id, '' AS text
            FROM judgments j LEFT JOIN questions q USING (query_id) LEFT JOIN chunks c USING (doc_id)
            WHERE q.query_id IS NULL OR c.doc_id IS NULL""",
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
        find=_find_bad_that_answers,
        slow=True,
    ),
    Check(
        # No more than suspected: the nearest miss, which teaches most, looks like this, too.
        name="bad-chunk-may-answer",
        what="bad chunks that may answer, to be read by a person",
        serious=False,
        subject="judgment",
        remedy="none",
        find=f"SELECT * FROM {_SUSPECTED}",
        slow=True,
    ),
    Check(
        name="two-chunks-answer",
        what="chunks that nearly repeat a question's good one, and are not marked",
        serious=False,
        subject="judgment",
        remedy="mark as good",
        find=f"""
            SELECT g.query_id, n.two AS doc_id, min(n.one) AS other_id, any_value(q.text || ' → ' || c.text) AS text
            FROM judgments g JOIN {_NEAR} n ON n.one = g.doc_id JOIN questions q USING (query_id)
            JOIN chunks c ON c.doc_id = n.two
            LEFT JOIN judgments j ON j.query_id = g.query_id AND j.doc_id = n.two
            WHERE g.good AND j.doc_id IS NULL GROUP BY g.query_id, n.two""",
        slow=True,
    ),
    Check(
        name="copied-question",
        what="questions copied from their chunk",
        serious=False,
        subject="question",
        remedy="drop question",
        # The two words are asked for first, as to make a chunk plain takes far longer; so does to count in the scripts
        # that are written without spaces.
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
                THEN contains(plain(c.text), plain(q.text)) END
            GROUP BY query_id""",
    ),
    Check(
        name="cut-question",
        what="questions that were cut",
        serious=False,
        subject="question",
        remedy="drop question",
        find=_find_cut("questions"),
        slow=True,
    ),
    Check(
        name="cut-chunk",
        what="chunks that were cut",
        serious=False,
        subject="chunk",
        remedy="none",
        find=_find_cut("chunks"),
        slow=True,
    ),
    Check(
        name="foreign-question",
        what="questions in another language than the rest",
        serious=False,
        subject="question",
        remedy="drop question",
        find=_find_foreign("questions"),
        slow=True,
    ),
    Check(
        name="foreign-chunk",
        what="chunks in another language than the rest",
        serious=False,
        subject="chunk",
        remedy="none",
        find=_find_foreign("chunks"),
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
