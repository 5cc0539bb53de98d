"""Repairs of faults, and the log of changes."""

import json
from typing import IO

from docsgpt_embtune.data.preparation.fault_check import Check, Remedy, Subject
from docsgpt_embtune.data.preparation.store import Store


def _joined(table: str, id_name: str, *inherited: str) -> tuple[str, ...]:
    return (
        # Written anew, as DuckDB would hold updated rows in memory.
        f"""
        CREATE OR REPLACE TABLE judgments AS
        SELECT query_id, doc_id, good, min(position) AS position FROM (
            SELECT j.* REPLACE (coalesce(other_id, j.{id_name}) AS {id_name})
            FROM judgments j LEFT JOIN offenders o ON j.{id_name} = o.{id_name}
        ) GROUP BY query_id, doc_id, good""",
        *inherited,
        f"DELETE FROM {table} USING offenders WHERE {table}.{id_name} = offenders.{id_name}",
    )


def _dropped(table: str, id_name: str) -> tuple[str, ...]:
    return (
        f"DELETE FROM judgments USING offenders WHERE judgments.{id_name} = offenders.{id_name}",
        f"DELETE FROM {table} USING offenders WHERE {table}.{id_name} = offenders.{id_name}",
    )


# The first copy of a chunk takes over the others' documents, so that questions about any of them stay together.
_DOCUMENTS = (
    "UPDATE more_documents SET doc_id = other_id FROM offenders WHERE more_documents.doc_id = offenders.doc_id",
    """
    INSERT INTO more_documents
    SELECT other_id, document FROM chunks JOIN offenders USING (doc_id) WHERE document <> ''""",
    """
    UPDATE chunks SET document = one.document
    FROM (SELECT doc_id, min(document) AS document FROM more_documents GROUP BY doc_id) AS one
    WHERE chunks.doc_id = one.doc_id AND chunks.document = ''""",
)
# The first copy of a question takes over the latest date.
_DATE = """
    UPDATE questions SET date = latest.date FROM (
        SELECT other_id, unnest(max({moment: coalesce(moment(date), '-infinity'::TIMESTAMPTZ), date: date}))
        FROM questions JOIN offenders USING (query_id) WHERE date <> '' GROUP BY other_id
    ) AS latest
    WHERE query_id = other_id AND (
        questions.date = '' OR latest.moment > coalesce(moment(questions.date), '-infinity'::TIMESTAMPTZ))"""


_SAME_PAIR = "judgments.query_id = offenders.query_id AND judgments.doc_id = offenders.doc_id"
_STATEMENTS: dict[tuple[Remedy, Subject], tuple[str, ...]] = {
    ("drop question", "question"): _dropped("questions", "query_id"),
    ("drop chunk", "chunk"): _dropped("chunks", "doc_id"),
    ("drop judgment", "judgment"): (f"DELETE FROM judgments USING offenders WHERE {_SAME_PAIR}",),
    ("drop bad mark", "judgment"): (
        "INSERT INTO dropped_bad_marks SELECT query_id, doc_id FROM offenders",
        f"DELETE FROM judgments USING offenders WHERE NOT good AND {_SAME_PAIR}",
    ),
    ("mark as good", "judgment"): (
        "INSERT INTO judgments SELECT DISTINCT query_id, doc_id, true, "
        "(SELECT max(position) + 1 FROM judgments) FROM offenders",
    ),
    ("join", "chunk"): _joined("chunks", "doc_id", *_DOCUMENTS),
    ("join", "question"): _joined("questions", "query_id", _DATE),
}


def mend(store: Store, check: Check, log: IO[str]) -> None:
    """Apply a check's remedy to the rows of `offenders`, and log each change as a line of JSON."""
    columns = ("query_id", "doc_id", "other_id", "text")
    for row in store.stream(f"SELECT {', '.join(columns)} FROM offenders ORDER BY ALL"):
        change = {"fault": check.name, "change": check.remedy, **dict(zip(columns, row, strict=True))}
        log.write(json.dumps({name: value for name, value in change.items() if value}, ensure_ascii=False) + "\n")
    for statement in _STATEMENTS[check.remedy, check.subject]:
        store.query(statement, label=f"{check.name}: {check.remedy}")
