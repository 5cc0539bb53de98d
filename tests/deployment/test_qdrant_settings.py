"""What is asked of a Qdrant server, which keeps settings that the embedded mode does not know."""

import json
from http.server import ThreadingHTTPServer
from importlib.metadata import version

import pytest

from docsgpt_embtune.deployment.qdrant_collections import open_qdrant

from ..loopback import JsonHandler, answering, threads_ended

pytest.importorskip("qdrant_client", reason="its client is not installed")
VERSION = version("qdrant-client")  # with which the client compares the server's
SEARCH = {"m": 64, "ef_construct": 500, "full_scan_threshold": 10, "max_indexing_threads": 2, "on_disk": True}
SEGMENTS = {"deleted_threshold": 0.4, "vacuum_min_vector_number": 1000, "default_segment_number": 3,
            "indexing_threshold": 100, "flush_interval_sec": 5}  # fmt: skip
CONFIG = {
    "params": {
        "vectors": {"size": 384, "distance": "Cosine", "on_disk": True},
        "shard_number": 2,
        "replication_factor": 3,
        "write_consistency_factor": 2,
        "on_disk_payload": True,
    },
    "hnsw_config": SEARCH,
    "optimizer_config": SEGMENTS,
    "wal_config": {"wal_capacity_mb": 8, "wal_segments_ahead": 1, "wal_retain_closed": 2},
    "quantization_config": {"scalar": {"type": "int8", "quantile": 0.99}},
}
COLLECTION = {
    "status": "green",
    "optimizer_status": "ok",
    "segments_count": 1,
    "config": CONFIG,
    "payload_schema": {"metadata.source_id": {"data_type": "keyword", "points": 5}},
}

NEW = "docsgpt_embtune_1"


class Handler(JsonHandler):
    """Has one collection, and makes others, without payload indexes; notes what it is told."""

    def do_GET(self):
        answers = {
            "/": {},
            "/collections": {"collections": []},
            "/collections/docsgpt": COLLECTION,
            f"/collections/{NEW}/exists": {"exists": bool(self.server.told)},
            f"/collections/{NEW}": COLLECTION | {"payload_schema": {}},
        }
        self.answer(answers[self.path])

    def do_PUT(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.told.append((self.path.partition("?")[0], body))
        self.answer({"operation_id": 1, "status": "completed"} if self.path.endswith("?wait=true") else True)

    def answer(self, result):
        self.reply(200, {"time": 0.0, "status": "ok", "result": result, "version": VERSION})


@pytest.fixture
def server():
    qdrant = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    qdrant.told = []
    with answering(qdrant), threads_ended():
        yield qdrant


def test_new_collection_gets_the_search_and_storage_settings_of_the_old_one(server):
    with open_qdrant(f"http://127.0.0.1:{server.server_port}") as collections:
        collections.create(NEW, like="docsgpt", width=768)
        (made, settings), indexed = server.told
        collections.create(NEW, like="docsgpt", width=768)  # as after a kill, before it got its index
        assert server.told[2:] == [indexed]
    parameters = CONFIG["params"]
    assert made == f"/collections/{NEW}"
    assert settings == {
        **parameters,
        "vectors": {**parameters["vectors"], "size": 768},
        "hnsw_config": SEARCH,
        "optimizers_config": SEGMENTS,
        "wal_config": CONFIG["wal_config"],
        "quantization_config": CONFIG["quantization_config"],
    }
    assert indexed == (
        f"/collections/{NEW}/index",
        {"field_name": "metadata.source_id", "field_schema": "keyword"},
    )
