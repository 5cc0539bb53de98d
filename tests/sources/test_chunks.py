"""Chunks out of real stores: FAISS folders, PostgreSQL with pgvector, an embedded Qdrant, and documents."""

import json
import os
from http.server import ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

from docsgpt_embtune.cli import main
from docsgpt_embtune.data.dataset import load_corpus
from docsgpt_embtune.errors import DatasetError, DeploymentError
from docsgpt_embtune.sources.chunks import (
    Chunk,
    document_chunks,
    faiss_chunks,
    pgvector_chunks,
    qdrant_chunks,
    save_chunks,
)
from docsgpt_embtune.sources.documents import find_documents

from ..conftest import TEXTS
from ..deployment.conftest import write_index_folder
from ..loopback import JsonHandler, answering, threads_ended

DOCUMENTS_TABLE = """
CREATE EXTENSION IF NOT EXISTS vector;
DROP TABLE IF EXISTS documents;
CREATE TABLE documents (
    id SERIAL PRIMARY KEY, text TEXT NOT NULL, embedding vector(3), metadata JSONB, source_id TEXT NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
)
"""


def words(text):
    return len(text.split())


@pytest.fixture(scope="module")
def tiny(tiny_base_folder):
    from docsgpt_embtune.deployment.deployed_model import load_deployed_model

    return load_deployed_model(str(tiny_base_folder))


@pytest.mark.parametrize("sidecars", [("json", "pkl"), ("pkl",)], ids=["since-0.19", "before"])
def test_faiss_folders_are_read_whole(tmp_path, tiny, sidecars):
    write_index_folder(tmp_path / "indexes" / "handbook", tiny, TEXTS, sidecars=sidecars)
    found = list(faiss_chunks(tmp_path / "indexes"))
    assert [chunk.text for chunk in found] == list(TEXTS)
    assert found[0] == Chunk("chunk-0", TEXTS[0], "handbook/chunk-0.md")


def test_pgvector_is_read_and_cannot_be_written(server):
    psycopg = pytest.importorskip("psycopg")
    uri = server.get_uri()
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(DOCUMENTS_TABLE)
        for number, text in enumerate(TEXTS):
            connection.execute(
                "INSERT INTO documents (text, embedding, metadata, source_id) VALUES (%s, '[1,0,0]', %s, 'handbook')",
                [text, json.dumps({"source": f"{number % 2}.md"})],
            )
    found = list(pgvector_chunks(uri.replace("postgresql://", "postgresql+psycopg://", 1)))
    assert [chunk.text for chunk in found] == list(TEXTS)
    assert found[1] == Chunk("handbook/2", TEXTS[1], "handbook/1.md")

    from docsgpt_embtune.sources.read_only_postgres import read_only_database

    with read_only_database(uri) as database, pytest.raises(DeploymentError, match="nothing was changed"):
        list(database.rows("WITH gone AS (DELETE FROM documents RETURNING id) SELECT id FROM gone"))


def test_database_without_the_table_is_refused(server):
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS documents")
    with pytest.raises(DeploymentError, match="no table 'documents'"):
        list(pgvector_chunks(server.get_uri()))


def test_qdrant_collection_is_read_over_several_pages(tmp_path, monkeypatch):
    qdrant = pytest.importorskip("qdrant_client")
    from docsgpt_embtune.deployment import qdrant_collections

    monkeypatch.setattr(qdrant_collections, "_PAGE", 2)
    client = qdrant.QdrantClient(path=str(tmp_path / "qdrant"))
    client.create_collection(
        "docsgpt", vectors_config=qdrant.models.VectorParams(size=3, distance=qdrant.models.Distance.COSINE)
    )
    points = [
        qdrant.models.PointStruct(
            id=f"00000000-0000-0000-0000-00000000000{number}",
            vector=[1.0, 0.0, 0.0],
            payload={"page_content": text, "metadata": {"source_id": "handbook", "title": "Operations"}},
        )
        for number, text in enumerate(TEXTS)
    ]
    points[0].payload["metadata"] = "Operations, of another program"
    client.upsert("docsgpt", points)
    client.close()
    found = list(qdrant_chunks(str(tmp_path / "qdrant")))
    assert {chunk.text for chunk in found} == set(TEXTS)
    assert {chunk.document for chunk in found} == {"handbook/Operations", ""}
    with pytest.raises(DeploymentError, match=r"no collection 'other' \(it has \['docsgpt'\]\)"):
        list(qdrant_chunks(str(tmp_path / "qdrant"), collection="other"))
    with pytest.raises(DeploymentError, match="no folder of a Qdrant"):
        list(qdrant_chunks(str(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://u:hun%ter2@localhost/db",
        "postgresql://u:hun@ter2@localhost/db",
        "postgresql://u:hun/ter2@localhost/db",
        "postgresql://u:hun ter2@localhost/db",
        "mysql://u:hunter2@localhost/db",
    ],
)
def test_a_malformed_uri_is_not_shown(uri):
    pytest.importorskip("psycopg")
    with pytest.raises(DeploymentError, match=r"the URI is not valid.*written as %25") as refused:
        list(pgvector_chunks(uri))
    assert "hun" not in str(refused.value)
    assert "ter2" not in str(refused.value)


@pytest.mark.parametrize(
    "location",
    ["http://u:hunter2@localhost:1", "http://u:hun/ter2@localhost:1", "foo://u:hunter2@localhost:1", "u:hunter2@x"],
)
@pytest.mark.filterwarnings("ignore:Failed to obtain server version")
def test_a_password_in_qdrants_url_is_not_shown(location):
    pytest.importorskip("qdrant_client")
    with threads_ended(), pytest.raises(DeploymentError, match=r"^Qdrant ") as refused:
        list(qdrant_chunks(location))
    assert "hun" not in str(refused.value)
    assert "ter2" not in str(refused.value)


class _Forbidding(JsonHandler):
    """A Qdrant that lists its collections and lets nobody read them."""

    def do_GET(self):
        listed = {"result": {"collections": [{"name": "docsgpt"}]}, "status": "ok", "time": 0.0}
        self.reply(
            200, listed if self.path == "/collections" else {"title": "qdrant", "version": version("qdrant-client")}
        )

    def do_POST(self):
        self.reply(403, {"status": {"error": "forbidden"}})


def test_a_qdrant_that_may_be_listed_and_not_read_is_one_error():
    pytest.importorskip("qdrant_client")
    with answering(ThreadingHTTPServer(("127.0.0.1", 0), _Forbidding)) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        refused = pytest.raises(DeploymentError, match=rf"(?s)^Qdrant {url}: .*403.*that the key may read")
        with threads_ended(), refused:
            list(qdrant_chunks(url))


def test_documents_are_cut_by_size_and_keep_their_names(tmp_path):
    (tmp_path / "guide").mkdir()
    (tmp_path / "guide" / "backup.md").write_text("# Backup\n\n" + "It runs at night. " * 8, encoding="utf-8")
    (tmp_path / "page.html").write_text("<h1>Logs</h1><script>no()</script><p>Kept for a week.</p>", encoding="utf-8")
    (tmp_path / "scan.pdf").write_bytes(b"%PDF")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "notes.txt").write_text("hidden", encoding="utf-8")
    found = list(document_chunks(tmp_path, count_tokens=words, max_tokens=20, min_tokens=10))
    assert [chunk.doc_id for chunk in found if chunk.document == "guide/backup.md"] == [
        "guide/backup.md#0",
        "guide/backup.md#1",
        "guide/backup.md#2",
    ]
    assert [chunk.text for chunk in found if chunk.document == "page.html"] == ["Logs\nKept for a week."]
    assert all(words(chunk.text) <= 20 for chunk in found)
    assert {chunk.document for chunk in found} == {"guide/backup.md", "page.html"}


def test_a_document_that_is_not_text_is_named(tmp_path):
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"latin\.txt: not UTF-8 \(byte 2\)"):
        list(document_chunks(tmp_path, count_tokens=words))
    with pytest.raises(DatasetError, match="no document in it that can be read here"):
        list(document_chunks(tmp_path / "nowhere", count_tokens=words))


def test_saved_chunks_are_a_corpus_without_blanks(tmp_path):
    chunks = [Chunk("a", "One.", "d"), Chunk("b", "  ", "d"), Chunk("c", "One.", "e")]
    saved = save_chunks(chunks, tmp_path / "corpus.json", document_of=tmp_path / "document_of.json")
    assert (saved.chunks, saved.documents, saved.blank, saved.repeated) == (2, 2, ("b",), 1)
    assert load_corpus(tmp_path / "corpus.json") == {"a": "One.", "c": "One."}
    assert json.loads((tmp_path / "document_of.json").read_text()) == {"a": "d", "c": "e"}
    with pytest.raises(DatasetError, match="'a' stands twice"):
        save_chunks([chunks[0], chunks[0]], tmp_path / "corpus.json")


def test_command_names_what_holds_no_text(tmp_path, tiny_base_folder):
    (tmp_path / "a.txt").write_text(" \n", encoding="utf-8")
    arguments = ["--documents", str(tmp_path), "--tokenizer", str(tiny_base_folder)]
    result = CliRunner().invoke(main, ["chunks", *arguments, "--out", str(tmp_path / "corpus.json")])
    assert result.exit_code == 2
    assert f"{tmp_path}: no chunk with text in it (1 blank one)" in result.output


def test_command_names_the_first_document_without_text(tmp_path, tiny_base_folder):
    documents = tmp_path / "documents"
    documents.mkdir()
    for name, text in (("a.md", "Logs are rotated."), ("b.md", ""), ("c.md", "\n")):
        (documents / name).write_text(text)
    arguments = ["--documents", str(documents), "--tokenizer", str(tiny_base_folder)]
    result = CliRunner().invoke(main, ["chunks", *arguments, "--out", str(tmp_path / "corpus.json")])
    assert "1 chunk of 1 document; " in result.output
    assert "left out as blank: 2 (the first: 'b.md')" in result.output
    assert "chunks only come near those that DocsGPT searches; read its store for these: --indexes" in result.output


def test_documents_behind_links_are_read_once(tmp_path):
    documents, outside = tmp_path / "documents", tmp_path / "outside"
    for folder in (documents / "guide", outside / "deep"):
        folder.mkdir(parents=True)
    (documents / "guide" / "a.md").write_text("A.")
    (outside / "deep" / "b.md").write_text("B.")
    (tmp_path / "not-below.md").write_text("C.")
    for link, target in {
        "linked": outside,
        "again": outside / "deep",
        "a-guide": documents / "guide",
        "guide/loop": documents,
        "up": tmp_path,
        ".hidden": outside,
        "broken": tmp_path / "nowhere",
    }.items():
        (documents / link).symlink_to(target, target_is_directory=True)
    found = find_documents(documents)
    assert {path.resolve() for path in found} == {documents / "guide" / "a.md", outside / "deep" / "b.md"}
    assert [path.relative_to(documents).as_posix() for path in found] == ["again/b.md", "guide/a.md"]


def test_a_documents_name_that_is_not_utf8_is_written_with_question_marks(tmp_path):
    documents = tmp_path / "documents"
    documents.mkdir()
    Path(os.fsdecode(bytes(documents) + b"/gr\xf6sse.md")).write_text("One.")
    save_chunks(document_chunks(documents, count_tokens=words), tmp_path / "corpus.json")
    assert load_corpus(tmp_path / "corpus.json") == {"gr?sse.md#0": "One."}


@pytest.mark.parametrize("spelling", ["uri", "keywords"])
def test_command_names_an_empty_database_without_its_password(tmp_path, server, spelling):
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(DOCUMENTS_TABLE)
        place = connection.info.get_parameters() | {"password": "hunter2"}
    given = psycopg.conninfo.make_conninfo(**place)
    if spelling == "uri":
        given = f"postgresql://{place['user']}:hunter2@/{place['dbname']}?host={place['host']}"
    result = CliRunner().invoke(main, ["chunks", "--pgvector", given, "--out", str(tmp_path / "corpus.json")])
    shown = f" postgresql:///{place['dbname']}" if spelling == "uri" else ""
    assert f"PostgreSQL{shown}: no chunk with text in it (0 blank ones)" in result.output
    assert "hunter2" not in result.output


def test_command_says_that_repeated_chunks_are_kept(tmp_path, tiny_base_folder):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("Logs are rotated every night.", encoding="utf-8")
    arguments = ["--documents", str(tmp_path), "--tokenizer", str(tiny_base_folder)]
    result = CliRunner().invoke(main, ["chunks", *arguments, "--out", str(tmp_path / "corpus.json")])
    assert "2 chunks of 2 documents; kept with the text of an earlier one: 1; left out as blank: 0" in result.output


def test_command_counts_with_a_models_tokenizer(tmp_path, tiny_base_folder):
    (tmp_path / "a.txt").write_text("Logs are rotated every night.\n\nPasswords are reset.", encoding="utf-8")
    arguments = ["--documents", str(tmp_path), "--tokenizer", str(tiny_base_folder), "--max-tokens", "8"]
    result = CliRunner().invoke(
        main, ["chunks", *arguments, "--min-tokens", "1", "--out", str(tmp_path / "corpus.json")]
    )
    assert result.exit_code == 0, result.output
    assert "2 chunks of 1 document;" in result.output
    refused = CliRunner().invoke(main, ["chunks", "--out", str(tmp_path / "corpus.json")])
    assert refused.exit_code == 2
    assert "one of --indexes, --pgvector, --qdrant, --milvus or --documents" in refused.output


def test_command_says_what_it_did_not_read(tmp_path, tiny_base_folder):
    documents = tmp_path / "documents"
    (documents / "old").mkdir(parents=True)
    (documents / "a.txt").write_text("Logs are rotated every night.")
    for name in ("a.pdf", "old/B.PDF", "c.docx", "LICENSE", ".hidden.pdf"):
        (documents / name).touch()
    arguments = ["--documents", str(documents), "--tokenizer", str(tiny_base_folder), "--min-tokens", "1"]
    result = CliRunner().invoke(main, ["chunks", *arguments, "--out", str(tmp_path / "corpus.json")])
    assert result.exit_code == 0, result.output
    assert f"4 files of {documents} not read here: 2 .pdf, 1 " in result.output
    assert "1 .docx" in result.output
    assert "1 without a suffix" in result.output
