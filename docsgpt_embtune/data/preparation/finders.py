"""Finders of the faults for which SQL is not enough."""

from collections.abc import Iterable

from docsgpt_embtune.data.preparation.cut_texts import cut_texts
from docsgpt_embtune.data.preparation.fault_check import CheckSettings, Finder
from docsgpt_embtune.data.preparation.languages import in_other_languages
from docsgpt_embtune.data.preparation.near_duplicates import letter_triples, near_duplicates, word_pairs
from docsgpt_embtune.data.preparation.store import Store
from docsgpt_embtune.data.preparation.tables import ID_OF
from docsgpt_embtune.wording import counted

NEAR_CHUNK = 0.7  # Jaccard index of word pairs: one word in ten replaced
NEAR_QUESTION = 0.8  # Jaccard index of letter trigrams: a plural, a typo
# Words in more than this share, and this number, of a sample of chunks say nothing of what is asked for.
_USUAL_SHARE, _USUAL_CHUNKS, _COUNTED_CHUNKS = 0.02, 5, 20_000
_SPELLING = r"lower(regexp_replace({}, '\.0$', ''))"  # of an id, without case and a number's `.0`
SUSPECTED = "suspected"  # table that `find_bad_that_answers` fills for the next check
# `telling` (query_id, words) holds a question's distinctive words: those that are not usual. If only one of two chunks
# has such a word, they are no copies for that question: "A100", of products that differ only in the name.
_TELLING = f"""
    CREATE OR REPLACE TABLE telling AS
    WITH drawn AS (SELECT text FROM chunks ORDER BY hash(doc_id) LIMIT {_COUNTED_CHUNKS}),
    usual AS (
        SELECT word FROM (SELECT unnest(list_distinct(words_of(text))) AS word FROM drawn) GROUP BY word
        HAVING count(*) > greatest({_USUAL_CHUNKS}, {_USUAL_SHARE} * (SELECT count(*) FROM drawn))
    )
    SELECT query_id, list(word) AS words
    FROM (SELECT query_id, unnest(list_distinct(words_of(text))) AS word FROM questions) ANTI JOIN usual USING (word)
    GROUP BY query_id"""
# Each pair in both orders.
NEAR_PAIRS = "(SELECT one, two FROM near_chunks UNION ALL SELECT two, one FROM near_chunks)"
# With whether they say the same as a good chunk.
_NEAR_BAD = f"""
    SELECT b.query_id, b.doc_id, bool_or(same_content(a.text, c.text))
    FROM judgments b JOIN judgments g USING (query_id) JOIN {NEAR_PAIRS} n ON n.one = g.doc_id AND n.two = b.doc_id
    JOIN questions q USING (query_id) JOIN chunks c ON c.doc_id = b.doc_id JOIN chunks a ON a.doc_id = g.doc_id
    LEFT JOIN telling t USING (query_id)
    WHERE g.good AND NOT b.good AND NOT told_apart(coalesce(t.words, []), a.text, c.text)
    GROUP BY b.query_id, b.doc_id"""


def _put_offenders(store: Store, rows: list[tuple[str, str, str, str]], table: str = "offenders") -> None:
    columns = ("query_id", "doc_id", "other_id", "text")
    store.query(f"CREATE OR REPLACE TABLE {table} (query_id VARCHAR, doc_id VARCHAR, other_id VARCHAR, text VARCHAR)")
    if rows:
        store.put(table, {name: [row[place] for row in rows] for place, name in enumerate(columns)})


def _texts(store: Store, table: str) -> dict[str, str]:
    return dict(store.stream(f"SELECT {ID_OF[table]}, text FROM {table} ORDER BY position"))


def ids_known_in_another_spelling(store: Store) -> str:
    """Return a hint if most unknown ids in judgments differ from known ones only in case or a number's `.0`.

    Spreadsheets and databases change ids like this. Dropping them would lose judgments that a change of one column
    saves.
    """
    unknown = alike = 0
    for table, column in ID_OF.items():
        pointing_nowhere = f"SELECT DISTINCT {column} FROM offenders ANTI JOIN {table} USING ({column})"
        unknown += store.number(f"SELECT count(*) FROM ({pointing_nowhere})")
        alike += store.number(
            f"SELECT count(*) FROM ({pointing_nowhere}) WHERE {_SPELLING.format(column)} IN "
            f"(SELECT {_SPELLING.format(column)} FROM {table})"
        )
    if 2 * alike <= unknown:
        return ""
    return (
        f"{alike:,} of {counted(unknown, 'id')} that point nowhere would be known in another case, or without a final "
        "'.0'; spell them as the questions and chunks do, and their judgments need not be dropped"
    )


def find_cut(table: str) -> Finder:
    """Make a finder of truncated texts in a table."""

    def find(store: Store, _settings: CheckSettings) -> None:
        texts = _texts(store, table)
        cut = cut_texts(texts, dots_may_be_meant=table == "questions")
        _put_offenders(store, [_offender(table, text_id, f"…{texts[text_id][-80:]}") for text_id in cut])

    return find


def find_foreign(table: str) -> Finder:
    """Make a finder of texts in a table that are in another language than most."""

    def find(store: Store, _settings: CheckSettings) -> None:
        texts = _texts(store, table)
        foreign = in_other_languages(texts, label=f"languages of {table}")
        _put_offenders(
            store, [_offender(table, text_id, f"{language}: {texts[text_id]}") for text_id, language in foreign.items()]
        )

    return find


def _offender(table: str, text_id: str, text: str) -> tuple[str, str, str, str]:
    return (text_id, "", "", text) if table == "questions" else ("", text_id, "", text)


def find_near_duplicates(store: Store) -> None:
    """Create the tables `near_questions`, `near_chunks`, `near_held_out_questions`, `near_held_out_chunks`, `telling`.

    The first four have the columns (one, two); in the held-out ones, `two` is the held-out id. Of exact copies only the
    first is compared, and texts without a word are left out: SQL finds both.
    """
    store.query(_TELLING)
    for table, shingle, threshold in (("questions", letter_triples, NEAR_QUESTION), ("chunks", word_pairs, NEAR_CHUNK)):
        id_name = ID_OF[table]
        own = store.query(
            f"SELECT min({id_name}), plain(any_value(text)) FROM {table} WHERE NOT wordless(key) "
            "GROUP BY spelling ORDER BY min(position)"
        )
        held_out = store.query(
            f"SELECT {id_name}, plain(text) FROM held_out_{table} WHERE NOT wordless(key) ORDER BY ALL"
        )
        texts = [*held_out, *own]  # held-out first: each own text finds those that it repeats, however many do
        pairs = near_duplicates([text for _, text in texts], shingle, threshold, label=f"near-duplicate {table}")
        among = [pair for pair in pairs if pair[0] >= len(held_out)]
        # Only pairs of exact copies are dropped, which SQL finds: near-repeats are found even beside an exact copy.
        across = [(b, a) for a, b in pairs if a < len(held_out) <= b and texts[a][1] != texts[b][1]]
        for name, found in ((f"near_{table}", among), (f"near_held_out_{table}", across)):
            store.query(f"CREATE OR REPLACE TABLE {name} (one VARCHAR, two VARCHAR)")
            if found:
                store.put(
                    name, {"one": [texts[one][0] for one, _ in found], "two": [texts[two][0] for _, two in found]}
                )


def find_bad_that_answers(store: Store, settings: CheckSettings) -> None:
    """Find bad chunks that repeat a good one or answer by a cross-encoder.

    Those that nearly repeat a good one, or are like one by the base model, are only suspected: a word may turn the
    meaning. They go to the table `suspected`.
    """
    near = store.query(_NEAR_BAD)
    answering = [(query_id, doc_id) for query_id, doc_id, same in near if same]
    suspected = [(query_id, doc_id) for query_id, doc_id, _ in near]
    judged = store.query("""
        SELECT b.query_id, b.doc_id, g.doc_id FROM judgments b JOIN judgments g USING (query_id)
        WHERE g.good AND NOT b.good AND b.doc_id <> g.doc_id AND query_id IN (SELECT query_id FROM questions)
            AND b.doc_id IN (SELECT doc_id FROM chunks) AND g.doc_id IN (SELECT doc_id FROM chunks)
        ORDER BY b.position, g.position""")
    if judged and (settings.model or settings.cross_encoder):
        # Imported here, as it loads torch, which no other check needs.
        from docsgpt_embtune.data.preparation.answering import as_good_as_the_good_chunk, like_the_good_chunk

        named = "SELECT DISTINCT query_id FROM judgments WHERE NOT good"
        corpus = dict(
            store.query(
                f"SELECT DISTINCT doc_id, text FROM chunks JOIN judgments USING (doc_id) WHERE query_id IN ({named})"
            )
        )
        queries = dict(store.query(f"SELECT query_id, text FROM questions WHERE query_id IN ({named})"))
        if settings.cross_encoder:
            answering += as_good_as_the_good_chunk(queries, corpus, judged, settings.cross_encoder)
        else:
            apart = store.query("""
                SELECT b.query_id, b.doc_id, g.doc_id FROM judgments b JOIN judgments g USING (query_id)
                JOIN telling t USING (query_id) JOIN chunks c ON c.doc_id = b.doc_id
                JOIN chunks a ON a.doc_id = g.doc_id
                WHERE g.good AND NOT b.good AND told_apart(t.words, a.text, c.text)""")
            suspected += like_the_good_chunk(queries, corpus, judged, set(apart), str(settings.model))
    found = set(answering)
    _put_bad(store, answering, "offenders")
    _put_bad(store, [pair for pair in suspected if pair not in found], SUSPECTED)


def _put_bad(store: Store, pairs: Iterable[tuple[str, str]], table: str) -> None:
    """Put (query_id, doc_id) of bad chunks into a table of offenders, with the texts of question and chunk."""
    _put_offenders(store, [(*pair, "", "") for pair in dict.fromkeys(pairs)], table)
    store.query(f"""
        UPDATE {table} SET text = q.text || ' → ' || c.text FROM questions q, chunks c
        WHERE q.query_id = {table}.query_id AND c.doc_id = {table}.doc_id""")
