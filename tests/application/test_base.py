"""The seam: DocsGPT's resolution of embeddings, and the registry that is reachable from outside."""

import json
import logging
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from application.core.settings import settings
from application.vectorstore import base
from application.vectorstore.document_class import Document
from application.vectorstore.faiss import FaissStore
from docsgpt_embtune import plugin
from docsgpt_embtune.embeddings import StockEmbeddings, TunedEmbeddings

from ..loopback import answering


@pytest.fixture(autouse=True)
def fresh_singleton(monkeypatch):
    monkeypatch.setattr(base.EmbeddingsSingleton, "_instances", {})
    for name in ("EMBEDDINGS_BASE_URL", "EMBEDDINGS_KEY", "EMBEDDINGS_MAX_INPUT_TOKENS"):
        monkeypatch.setattr(settings, name, None)


def test_tuned_path_as_embeddings_name_gives_tuned_embeddings(tiny_tuned_folder, monkeypatch):
    monkeypatch.setattr(settings, "EMBEDDINGS_NAME", str(tiny_tuned_folder))
    embeddings = base.get_embeddings()
    assert type(embeddings) is TunedEmbeddings
    assert embeddings.dimension == 32
    assert base.get_embeddings() is embeddings


def test_articles_call_works(tiny_tuned_folder):
    embeddings = base.embeddings_factory[plugin.NAME](model_name=str(tiny_tuned_folder), model_kwargs={"device": "cpu"})
    assert len(embeddings.embed_query("How long are logs kept?")) == 32


def test_plain_folder_falls_through_to_the_wrapper(tiny_base_folder):
    from application.vectorstore.embeddings_local import EmbeddingsWrapper

    embeddings = base.EmbeddingsSingleton.get_instance(str(tiny_base_folder))
    assert type(embeddings) is EmbeddingsWrapper
    assert embeddings.embed_query("logs") == StockEmbeddings(tiny_base_folder).embed_query("logs")


def test_many_threads_that_ask_first_make_one_model(monkeypatch):
    made = []

    def slow_factory():
        made.append(threading.get_ident())
        time.sleep(0.05)  # long enough that every thread asks before it is done
        return object()

    monkeypatch.setitem(base.embeddings_factory, "slow", slow_factory)
    together = threading.Barrier(96)
    found = []

    def ask():
        together.wait()
        found.append(base.get_embeddings("slow"))

    threads = [threading.Thread(target=ask) for _ in range(96)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(found) == 96
    assert len(set(map(id, found))) == 1


def test_exact_name_goes_before_a_claim_and_earlier_claims_before_later():
    registry = base.EmbeddingsRegistry(exact=lambda: "exact")
    registry.claim(lambda name: name.startswith("e"), lambda name: f"claimed {name}")
    registry.claim(lambda name: True, lambda name, *args: (name, args))
    assert registry.find("exact")() == "exact"
    assert registry.find("else")() == "claimed else"
    assert registry.find("other")(1) == ("other", (1,))
    assert base.EmbeddingsRegistry().find("other") is None


def test_registering_twice_is_registering_once():
    registry = base.EmbeddingsRegistry()
    plugin.register(registry)
    plugin.register(registry)
    assert list(registry) == [plugin.NAME]
    assert len(registry._claims) == 1


def test_pinned_names_drop_arguments(monkeypatch):
    monkeypatch.setattr(base, "_get_embeddings_wrapper", lambda: lambda *args, **kwargs: (args, kwargs))
    made = base.EmbeddingsSingleton.get_instance("huggingface_hkunlp/instructor-large", "a-key", model="x")
    assert made == (("hkunlp/instructor-large",), {})


def test_default_model_comes_from_its_folder_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "_get_embeddings_wrapper", lambda: lambda name: name)
    folder = tmp_path / "all-mpnet-base-v2"
    monkeypatch.setattr(base, "MPNET_FOLDERS", (str(tmp_path / "absent"), str(folder)))
    assert base.get_embeddings(base.MPNET_NAME) == "sentence-transformers/all-mpnet-base-v2"
    folder.mkdir()
    assert base.get_embeddings(base.MPNET_NAME) == str(folder)


@pytest.fixture
def embeddings_server():
    """A real server of the protocol, which answers with the lengths of the texts, out of order."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.server.requests.append((self.path, self.headers.get("Authorization"), request))
            texts = [request["input"]] if isinstance(request["input"], str) else request["input"]
            rows = [{"index": i, "embedding": [float(len(text)), 1.0]} for i, text in enumerate(texts)]
            answer = {"error": "no"} if "refuse" in texts else {"data": rows[::-1]}
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.requests = []
    with answering(server):
        yield server


def test_remote_embeddings_override_every_name(embeddings_server, tiny_tuned_folder, monkeypatch):
    url = f"http://127.0.0.1:{embeddings_server.server_port}/"
    monkeypatch.setattr(settings, "EMBEDDINGS_BASE_URL", url)
    monkeypatch.setattr(settings, "EMBEDDINGS_KEY", "sk-1")
    embeddings = base.get_embeddings(str(tiny_tuned_folder))
    assert type(embeddings) is base.RemoteEmbeddings
    assert embeddings is base.EmbeddingsSingleton.get_instance(str(tiny_tuned_folder))
    assert embeddings.dimension == 768
    assert embeddings.embed_query("four") == [4.0, 1.0]
    assert embeddings(["a", "bcd"]) == [[1.0, 1.0], [3.0, 1.0]]
    path, key, request = embeddings_server.requests[-1]
    assert (path, key, request["model"]) == ("/v1/embeddings", "Bearer sk-1", str(tiny_tuned_folder))
    assert embeddings.embed_documents([]) == []
    with pytest.raises(ValueError, match="error: no"):
        embeddings.embed_query("refuse")


def test_remote_texts_are_clipped_to_the_token_limit(embeddings_server, monkeypatch):
    class Words:  # tiktoken's table is not on every machine
        encode_ordinary = staticmethod(str.split)
        decode = staticmethod(" ".join)

    monkeypatch.setattr(base, "get_encoding", Words)
    monkeypatch.setattr(settings, "EMBEDDINGS_MAX_INPUT_TOKENS", 2)
    embeddings = base.RemoteEmbeddings(f"http://127.0.0.1:{embeddings_server.server_port}", "m")
    embeddings.embed_documents(["one two three", "one two"])
    assert embeddings_server.requests[-1][2]["input"] == ["one two", "one two"]


def test_store_finds_the_chunk_that_says_the_same(tiny_tuned_folder, monkeypatch):
    monkeypatch.setattr(settings, "EMBEDDINGS_NAME", str(tiny_tuned_folder))
    store = FaissStore(docs_init=[Document("Logs are rotated.", {"source": "a"}), Document("A backup.", {})])
    store.add_texts(["An invoice."], [{"source": "b"}], ids=["c3"])
    assert store.search("An invoice.", k=1)[0].metadata == {"source": "b"}
    hits = store.search_with_scores("Logs are rotated.", k=9)
    assert len(hits) == 3
    assert hits[0][0] == "Logs are rotated."
    assert hits[0][1] == pytest.approx(0, abs=1e-5)
    assert [chunk["doc_id"] for chunk in store.get_chunks()][-1] == "c3"


def test_store_without_deletion_still_counts_what_it_deleted():
    class Store(base.BaseVectorStore):
        chunks: tuple = (
            {"doc_id": "1", "metadata": {"source": "a"}},
            {"doc_id": "2", "metadata": None},
            {"doc_id": "3", "metadata": {"source": "a"}},
        )

        def search(self, *args, **kwargs):
            return None

        def add_texts(self, *args, **kwargs):
            return []

        def get_chunks(self, *args, **kwargs):
            return self.chunks

        def delete_chunk(self, chunk_id, *args, **kwargs):
            return chunk_id == "3"

    assert Store().delete_chunks_by_source_path("a") == 1
    assert Store().search_with_scores("q") == []


def test_broken_plugin_does_not_stop_the_host(caplog, monkeypatch):
    def broken(registry):
        raise RuntimeError("half-installed")

    monkeypatch.setattr(plugin, "register", broken)
    with caplog.at_level(logging.ERROR):
        base._register_plugin()
    assert "half-installed" in caplog.text


def test_host_starts_without_the_plugin():
    code = (
        "import sys; sys.modules['docsgpt_embtune'] = None\n"
        "from application.vectorstore.base import embeddings_factory\n"
        "assert 'docsgpt_embtune' not in embeddings_factory"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
