"""Rated answers of a DocsGPT deployment: from PostgreSQL (0.17 and later), or from an export of its MongoDB (earlier).

Only the question, the texts that were retrieved for it, the rating and the day are read: no user, no answer, no name
of a conversation. The rating is of the answer; in no release of DocsGPT can users rate a chunk.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from docsgpt_embtune.data.text_file import UTF8, reading
from docsgpt_embtune.embeddings import encodable
from docsgpt_embtune.errors import DatasetError, DeploymentError
from docsgpt_embtune.sources.read_only_postgres import ReadOnlyDatabase, read_only_database

MESSAGES_TABLE = "conversation_messages"
_NEEDED_COLUMNS = frozenset({"prompt", "sources", "feedback", "position", "timestamp"})


@dataclass(frozen=True)
class RatedAnswer:
    """A question whose answer somebody rated.

    Attributes:
        question: What the user typed.
        sources: Retrieved texts, best first, each cut to its first 1000 characters by DocsGPT.
        liked: Whether the user liked the answer.
        is_first_turn: Whether it began the conversation. Later questions were rephrased before the search, and DocsGPT
            does not store the rephrased text.
        asked_on: ISO date, empty if unknown.
    """

    question: str
    sources: tuple[str, ...]
    liked: bool
    is_first_turn: bool
    asked_on: str


def postgres_answers(uri: str) -> Iterator[RatedAnswer]:
    """Stream the rated answers of a database, oldest first, over a read-only connection.

    Args:
        uri: POSTGRES_URI of the host.

    Raises:
        DeploymentError: If the database cannot be reached, or is not DocsGPT's.

    Source:
        DocsGPT's application/storage/db/models.py and its migrations.
    """
    with read_only_database(uri) as database:
        columns = database.columns(MESSAGES_TABLE)
        if not columns >= _NEEDED_COLUMNS:
            raise DeploymentError(
                f"PostgreSQL database {database.name!r} has no table {MESSAGES_TABLE!r} of DocsGPT's (0.17 or later); "
                "give the URI in POSTGRES_URI, or an export of the MongoDB: --mongo-export"
            )
        yield from _postgres_answers(database, has_status="status" in columns)


def _postgres_answers(database: ReadOnlyDatabase, *, has_status: bool) -> Iterator[RatedAnswer]:
    # Rows migrated from MongoDB have LIKE, PostgreSQL's own have like. The column `status` was added by a later
    # migration than the table.
    query = (
        "SELECT prompt, sources, lower(feedback->>'text') = 'like', position, "
        "(timestamp AT TIME ZONE 'UTC')::date::text "
        "FROM conversation_messages "
        "WHERE lower(feedback->>'text') IN ('like', 'dislike') AND prompt <> ''"
    )
    finished = " AND status = 'complete'" if has_status else ""
    for prompt, sources, liked, position, asked_on in database.rows(
        f"{query}{finished} ORDER BY timestamp, conversation_id, position"
    ):
        yield RatedAnswer(prompt, _texts(sources), liked, position == 0, asked_on)


class MongoAnswers:
    """The rated answers in `mongoexport` files of the collections `conversations` and `feedback`.

    Until 0.12, ratings were in `feedback` and named their question only by its text. Such a rating gets the sources
    that a conversation in the same files has for that question, and none if there is no such conversation.

    Exports can overlap, such as one of a month and one of everything. A rated answer is identified by its record's
    `_id`, its position in the conversation and its question, and counts once; what a later export adds to a
    conversation is read. Records without an `_id` are all read.

    Args:
        paths: Files of a JSON array, or of one JSON object per line.

    Attributes:
        repeated: Rated answers left out because they were read before; final once all are read.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._read: set[bytes] = set()
        self.repeated = 0

    def __iter__(self) -> Iterator[RatedAnswer]:
        """Read the files.

        Raises:
            DatasetError: If a file cannot be read, or holds no record of either collection.
        """
        self._read.clear()
        self.repeated = 0
        asked: dict[str, RatedAnswer] = {}
        loose_thumbs: list[RatedAnswer] = []
        for path in self._paths:
            known = 0
            for record in _records(path):
                turns, thumbs = list(_turns(record)), list(_loose_thumbs(record))
                known += bool(turns or thumbs or "queries" in record)
                loose_thumbs += (thumb for thumb in thumbs if self._is_new(record, "feedback"))
                for position, (answer, is_rated) in enumerate(turns):
                    asked.setdefault(answer.question.strip(), answer)
                    if is_rated and self._is_new(record, "conversations", position, answer.question):
                        yield answer
            if not known:
                raise DatasetError(
                    f"{path}: neither conversations (with 'queries') nor feedback (with 'question' and 'feedback') in "
                    "it; export them with mongoexport --db docsgpt --collection conversations"
                )
        for thumb in loose_thumbs:
            turn = asked.get(thumb.question.strip(), thumb)
            yield RatedAnswer(thumb.question, turn.sources, thumb.liked, turn.is_first_turn, thumb.asked_on)

    def _is_new(self, record: Mapping[str, Any], *place: str | int) -> bool:
        if record.get("_id") is None:
            return True
        # Hashed, as an `_id` may be any value, of any length.
        key = hashlib.blake2b(json.dumps([record["_id"], *place], sort_keys=True).encode(), digest_size=16).digest()
        is_new = key not in self._read
        self._read.add(key)
        self.repeated += not is_new
        return is_new


def _turns(conversation: Mapping[str, Any]) -> Iterator[tuple[RatedAnswer, bool]]:
    queries = conversation.get("queries")
    for position, query in enumerate(queries if isinstance(queries, list) else []):
        if not isinstance(query, dict) or not str(query.get("prompt") or "").strip():
            continue
        day = _day(query.get("timestamp") or conversation.get("date"))
        liked = _liked(query.get("feedback"))
        turn = RatedAnswer(
            encodable(str(query["prompt"])), _texts(query.get("sources")), bool(liked), position == 0, day
        )
        yield turn, liked is not None


def _loose_thumbs(record: Mapping[str, Any]) -> Iterator[RatedAnswer]:
    liked = _liked(record.get("feedback"))
    question = record.get("question")
    if liked is not None and isinstance(question, str) and question.strip():
        yield RatedAnswer(encodable(question), (), liked, True, _day(record.get("timestamp")))


def _liked(feedback: Any) -> bool | None:
    text = feedback.get("text") if isinstance(feedback, dict) else feedback
    return {"like": True, "dislike": False}.get(str(text).lower())


def _texts(sources: Any) -> tuple[str, ...]:
    rows = sources if isinstance(sources, list) else []
    found = (source.get("text") for source in rows if isinstance(source, dict))
    return tuple(text for text in found if isinstance(text, str) and text.strip())


def _day(date: Any) -> str:
    """Return the day of a date of `mongoexport`: {"$date": ISO text or {"$numberLong": milliseconds}}."""
    if isinstance(date, dict):
        date = date.get("$date")
    if isinstance(date, dict):
        try:
            date = datetime.fromtimestamp(int(date["$numberLong"]) / 1000, UTC).isoformat()
        except (KeyError, ValueError, TypeError, OverflowError, OSError):  # the last two for a date out of range
            return ""
    return str(date or "")[:10]


def _records(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with reading(path), path.open(encoding=UTF8) as file:
            start = file.read(4096).lstrip()[:1]
            file.seek(0)
            rows = json.load(file) if start == "[" else map(json.loads, filter(str.strip, file))
            yield from (row for row in rows if isinstance(row, dict))
    except (ValueError, RecursionError) as error:  # besides broken JSON, numbers too long and nesting too deep
        raise DatasetError(f"{path}: neither a JSON array nor one JSON object a line ({error})") from error
