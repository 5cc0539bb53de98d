"""DocsGPT's tables in PostgreSQL: filled, changed and looked at."""

import json

import numpy as np
import pytest

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")

NAMES = ("Backup", "Invoice", "Worker")

SCHEMA = """
CREATE EXTENSION IF NOT EXISTS vector;
DROP TABLE IF EXISTS documents, graph_nodes CASCADE;
CREATE TABLE documents (
    id SERIAL PRIMARY KEY, text TEXT NOT NULL, embedding vector(32), metadata JSONB, source_id TEXT NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX documents_source_id_idx ON documents (source_id);
CREATE INDEX documents_by_vector ON documents USING hnsw (embedding vector_cosine_ops);
CREATE TABLE graph_nodes (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(), source_id UUID NOT NULL, name TEXT, normalized_name TEXT,
    name_embedding vector(32), UNIQUE (source_id, normalized_name)
);
"""


def make(uri, chunks, model):
    """Make the tables anew, with these chunks and with entities of these `NAMES`."""
    execute(uri, SCHEMA)
    add(uri, chunks, model)
    with psycopg.connect(uri, autocommit=True) as connection:
        for name, vector in zip(NAMES, model.embed(NAMES), strict=True):
            connection.execute(
                "INSERT INTO graph_nodes (source_id, name, normalized_name, name_embedding) "
                "VALUES (gen_random_uuid(), %s, lower(%s), %s::vector)",
                [name, name, json.dumps(vector.tolist())],
            )


def add(uri, texts, model):
    with psycopg.connect(uri, autocommit=True) as connection:
        for text, vector in zip(texts, model.embed(texts), strict=True):
            connection.execute(
                "INSERT INTO documents (text, embedding, metadata, source_id) VALUES (%s, %s, %s, 'handbook')",
                [text, json.dumps(vector.tolist()), json.dumps({"source": "a.md"})],
            )


def overwrite(uri, texts, model, table, column, text_column):
    with psycopg.connect(uri, autocommit=True) as connection:
        for text, vector in zip(texts, model.embed(texts), strict=True):
            query = f"UPDATE {table} SET {column} = %s::vector WHERE {text_column} = %s"
            connection.execute(query, [json.dumps(vector.tolist()), text])


def rows(uri, query):
    with psycopg.connect(uri) as connection:
        return connection.execute(query).fetchall()


def execute(uri, statements):
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(statements)


def dump(uri):
    return (
        rows(uri, "SELECT id, text, embedding::text, metadata, source_id, created_at FROM documents ORDER BY id"),
        rows(uri, "SELECT id, name, name_embedding::text FROM graph_nodes ORDER BY id"),
        rows(uri, "SELECT attname FROM pg_attribute WHERE attrelid = 'documents'::regclass AND NOT attisdropped"),
        rows(uri, "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'documents' ORDER BY 1"),
    )


def vectors(uri):
    found = rows(uri, "SELECT embedding::text FROM documents ORDER BY id")
    return np.array([json.loads(vector) for (vector,) in found])


def indexes_in_force(uri):
    """Return what each index over the vectors in force is of, by its name."""
    found = rows(
        uri,
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'documents' "
        "AND indexdef ~ '\\membedding\\M' AND indexdef !~ '_embtune_previous' ORDER BY indexdef",
    )
    return {name: definition.split(" USING ")[1] for name, definition in found}


def nearest(uri, model, text):
    query = "SELECT text FROM documents WHERE source_id = 'handbook' ORDER BY embedding <=> %s::vector LIMIT 1"
    with psycopg.connect(uri) as connection:
        return connection.execute(query, [json.dumps(model.embeddings.embed_query(text))]).fetchone()[0]
