import json

import pytest

from docsgpt_embtune.errors import DatasetError, DeploymentError
from docsgpt_embtune.sources.conversations import MongoAnswers, RatedAnswer, postgres_answers

from ..conftest import TEXTS
from .conftest import Turn, add_conversation, stored_sources


def test_rated_answers_come_out_of_postgresql_oldest_first(conversations_uri):
    add_conversation(
        conversations_uri,
        [
            Turn("How long are logs kept?", TEXTS[:2], "like", day="2026-03-02"),
            Turn("and the backup?", TEXTS[3:4], "DISLIKE", day="2026-03-02"),
            Turn("nobody rated this", TEXTS[:1]),
            Turn("the stream broke off", TEXTS[:1], "like", status="failed"),
            Turn("", TEXTS[:1], "like"),
        ],
    )
    add_conversation(conversations_uri, [Turn("Came over from MongoDB", (), "LIKE", day="2025-01-01")])
    assert list(postgres_answers(conversations_uri)) == [
        RatedAnswer("Came over from MongoDB", (), True, True, "2025-01-01"),
        RatedAnswer("How long are logs kept?", TEXTS[:2], True, True, "2026-03-02"),
        RatedAnswer("and the backup?", TEXTS[3:4], False, False, "2026-03-02"),
    ]


def test_the_day_of_a_question_is_utcs_whatever_the_session_has(conversations_uri, monkeypatch):
    add_conversation(conversations_uri, [Turn("How long are logs kept?", TEXTS[:1], "like", day="2026-03-02")])
    monkeypatch.setenv("PGTZ", "Pacific/Kiritimati")  # where it is the next day already
    assert [answer.asked_on for answer in postgres_answers(conversations_uri)] == ["2026-03-02"]


def test_tables_before_the_status_column_are_read(conversations_uri):
    psycopg = pytest.importorskip("psycopg")
    add_conversation(conversations_uri, [Turn("How long are logs kept?", TEXTS[:1], "like")])
    with psycopg.connect(conversations_uri, autocommit=True) as connection:
        connection.execute("ALTER TABLE conversation_messages DROP COLUMN status")
    assert len(list(postgres_answers(conversations_uri))) == 1


def test_a_database_of_something_else_is_refused(conversations_uri):
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(conversations_uri, autocommit=True) as connection:
        connection.execute("DROP TABLE conversation_messages")
    with pytest.raises(DeploymentError, match="no table 'conversation_messages'"):
        list(postgres_answers(conversations_uri))
    with pytest.raises(DeploymentError, match=r"PostgreSQL: connection failed.*see that it runs"):
        list(postgres_answers("postgresql://nobody:secret@127.0.0.1:1/none"))


def conversation(*queries):
    return {"_id": {"$oid": "65a"}, "user": "user-4711", "date": {"$date": "2024-02-01T00:00:00Z"}, "queries": queries}


def query(prompt, feedback=None, **extra):
    return {"prompt": prompt, "response": "An answer.", "sources": stored_sources(TEXTS[:1]), **extra} | (
        {"feedback": feedback} if feedback else {}
    )


def test_mongodb_conversations_since_0_13(tmp_path):
    asked_at = {"$date": {"$numberLong": "1717200000000"}}
    path = tmp_path / "conversations.json"
    path.write_text(
        json.dumps([conversation(query("How long are logs kept?", "LIKE", timestamp=asked_at), query("unrated"))])
    )
    found = [RatedAnswer("How long are logs kept?", TEXTS[:1], True, True, "2024-06-01")]
    assert list(MongoAnswers([path])) == found
    path.write_text(json.dumps([conversation(query("How long are logs kept?", "LIKE"))]))  # before it had a time
    assert list(MongoAnswers([path])) == [RatedAnswer("How long are logs kept?", TEXTS[:1], True, True, "2024-02-01")]


def test_mongodb_array_is_told_by_its_first_letter(tmp_path):
    path = tmp_path / "conversations.json"
    found = [RatedAnswer("How long are logs kept?", TEXTS[:1], True, True, "2024-02-01")]
    path.write_text(f"\n  {json.dumps([conversation(query('How long are logs kept?', 'LIKE'))])}")
    assert list(MongoAnswers([path])) == found


def test_mongodb_feedback_before_0_13_is_joined_by_the_question(tmp_path):
    conversations, feedback = tmp_path / "conversations.jsonl", tmp_path / "feedback.jsonl"
    conversations.write_text(json.dumps(conversation(query("first"), query("How long are logs kept?"))) + "\n")
    thumbs = [
        {"question": "How long are logs kept?", "answer": "A week.", "feedback": "DISLIKE", "timestamp": "2024-02-02"},
        {"question": "asked elsewhere", "answer": "…", "feedback": "LIKE"},
        {"question": "first", "answer": "A week.", "feedback": "LIKE"},
    ]
    feedback.write_text("".join(json.dumps(thumb) + "\n\n" for thumb in thumbs))
    assert list(MongoAnswers([conversations, feedback])) == [
        RatedAnswer("How long are logs kept?", TEXTS[:1], False, False, "2024-02-02"),
        RatedAnswer("asked elsewhere", (), True, True, ""),
        RatedAnswer("first", TEXTS[:1], True, True, ""),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"queries": [', "neither a JSON array nor one JSON object a line"),
        ("[" * 100_000, "neither a JSON array nor one JSON object a line"),
        ('{"name": "another collection"}', "neither conversations .* nor feedback"),
        ("[]", "neither conversations .* nor feedback"),
    ],
    ids=["cut", "deep", "other-collection", "empty"],
)
def test_exports_that_cannot_be_used_are_named(tmp_path, content, message):
    path = tmp_path / "export.json"
    path.write_text(content)
    with pytest.raises(DatasetError, match=message):
        list(MongoAnswers([path]))


def test_rows_that_are_not_what_they_should_be_are_taken_for_what_they_hold(tmp_path):
    odd = {"sources": 5, "timestamp": {"$date": {"$numberLong": "soon"}}}
    path = tmp_path / "conversations.json"
    path.write_text(json.dumps([7, conversation("odd", None, query("How long?", "LIKE", **odd), query("", "LIKE"))]))
    assert list(MongoAnswers([path])) == [RatedAnswer("How long?", (), True, False, "")]


def test_exports_that_overlap_count_a_thumb_once(tmp_path):
    april, everything, thumbs = (tmp_path / name for name in ("april.json", "all.json", "feedback.json"))
    asked_again = query("How long are logs kept?", "LIKE")
    april.write_text(json.dumps([conversation(asked_again, query("And backups?"))]))
    everything.write_text(json.dumps([conversation(asked_again, query("And backups?", "DISLIKE"), asked_again)]))
    # A thumb's `_id` is another collection's, though it be the same.
    thumbs.write_text(json.dumps([{**conversation(), "question": "asked elsewhere", "feedback": "LIKE"}]))
    answers = MongoAnswers([april, everything, april, thumbs, thumbs])
    found = [(answer.question, answer.liked) for answer in answers]
    assert found == [
        ("How long are logs kept?", True),
        ("And backups?", False),
        ("How long are logs kept?", True),
        ("asked elsewhere", True),
    ]
    assert answers.repeated == 3
    assert len(list(answers)) == len(found)


def test_records_without_an_id_are_all_taken(tmp_path):
    path = tmp_path / "conversations.json"
    record = {"queries": [query("How long are logs kept?", "LIKE")]}
    path.write_text(json.dumps([record, record, {**record, "_id": None}]))
    answers = MongoAnswers([path, path])
    assert (len(list(answers)), answers.repeated) == (6, 0)


@pytest.mark.parametrize("milliseconds", ["soon", "99999999999999999999", "9" * 400, "-99999999999999999", None])
def test_dates_that_are_none_are_left_empty(tmp_path, milliseconds):
    path = tmp_path / "conversations.json"
    asked_at = {"$date": {"$numberLong": milliseconds}}
    path.write_text(json.dumps([conversation(query("How long?", "LIKE", timestamp=asked_at))]))
    assert [answer.asked_on for answer in MongoAnswers([path])] == [""]
