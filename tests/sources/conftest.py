"""A deployment's conversations, in the shapes that DocsGPT gives them."""

import json
from dataclasses import dataclass

import pytest

# The columns, defaults and constraints of DocsGPT's migrations, without what has no part in this.
CONVERSATION_TABLES = """
DROP TABLE IF EXISTS conversation_messages, conversations, users;
CREATE TABLE users (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), user_id TEXT NOT NULL UNIQUE);
CREATE TABLE conversations (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(), user_id TEXT NOT NULL REFERENCES users (user_id), agent_id UUID,
    name TEXT, api_key TEXT, visibility TEXT NOT NULL DEFAULT 'listed', date TIMESTAMPTZ NOT NULL DEFAULT now(),
    legacy_mongo_id TEXT
);
CREATE TABLE conversation_messages (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    conversation_id UUID NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    position INTEGER NOT NULL, prompt TEXT, response TEXT, thought TEXT,
    sources JSONB NOT NULL DEFAULT '[]', tool_calls JSONB NOT NULL DEFAULT '[]',
    attachments UUID[] NOT NULL DEFAULT '{}', model_id TEXT, message_metadata JSONB NOT NULL DEFAULT '{}',
    feedback JSONB, timestamp TIMESTAMPTZ NOT NULL DEFAULT now(), user_id TEXT NOT NULL REFERENCES users (user_id),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(), status TEXT NOT NULL DEFAULT 'complete', request_id TEXT,
    UNIQUE (conversation_id, position)
);
"""


@dataclass(frozen=True)
class Turn:
    """One question of a conversation, as the host keeps it."""

    prompt: str
    sources: tuple[str, ...] = ()
    feedback: str | None = None
    status: str = "complete"
    day: str = "2026-03-01"


@pytest.fixture
def conversations_uri(server):
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(CONVERSATION_TABLES)
    return server.get_uri()


def add_conversation(uri, turns, user="user-4711"):
    import psycopg

    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("INSERT INTO users (user_id) VALUES (%s) ON CONFLICT DO NOTHING", [user])
        (conversation,) = connection.execute(
            "INSERT INTO conversations (user_id, name) VALUES (%s, 'a name') RETURNING id", [user]
        ).fetchone()
        for position, turn in enumerate(turns):
            feedback = turn.feedback and json.dumps({"text": turn.feedback, "timestamp": f"{turn.day}T10:00:00+00:00"})
            connection.execute(
                "INSERT INTO conversation_messages (conversation_id, user_id, position, prompt, response, sources, "
                "feedback, status, timestamp) VALUES (%s, %s, %s, %s, 'An answer.', %s, %s, %s, %s)",
                [
                    *(conversation, user, position, turn.prompt, json.dumps(stored_sources(turn.sources))),
                    *(feedback, turn.status, f"{turn.day} 10:00+00"),
                ],
            )


def stored_sources(texts):
    return [{"text": text[:1000], "title": "Guide", "source": "guide.md", "filename": "guide.md"} for text in texts]
