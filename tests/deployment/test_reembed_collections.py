"""Re-embedding in a real Qdrant and a real Milvus, both embedded, in DocsGPT's collection shapes.

EMBTUNE_TEST_MILVUS=http://… runs the tests on a Milvus server, too, where they delete the collection `docsgpt` and
any that this package made. None is started here, as no two servers of the PyPI package `milvus` can run on one machine.
"""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import uuid
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from docsgpt_embtune.cli import main
from docsgpt_embtune.deployment import collection_store
from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.deployment.collection_store import CollectionStore
from docsgpt_embtune.deployment.deployed_model import load_deployed_model
from docsgpt_embtune.deployment.doctor import examine
from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from docsgpt_embtune.deployment.milvus_collections import NO_KEEPALIVE, build_parameters, open_milvus
from docsgpt_embtune.deployment.qdrant_collections import open_qdrant
from docsgpt_embtune.errors import DeploymentError
from scripts.kill_reembed import make_milvus, make_qdrant

from ..conftest import build_tiny_folder
from .conftest import CHUNKS, same_vectors

SETTINGS = b"API_KEY=x\nEMBEDDINGS_NAME=/models/stock\nVECTOR_STORE=some"
LATE = "A chunk that came in between."


class Qdrant:
    """What DocsGPT's QdrantStore does with its client."""

    name = "qdrant"
    library = "qdrant_client"
    open = staticmethod(open_qdrant)
    make = staticmethod(make_qdrant)

    def __init__(self, location):
        self.location = location

    @contextlib.contextmanager
    def client(self):
        from qdrant_client import QdrantClient

        client = QdrantClient(path=self.location)
        yield client
        client.close()

    def add(self, model, texts, name="docsgpt"):
        from qdrant_client import models

        with self.client() as client:
            points = [
                models.PointStruct(id=str(uuid.uuid4()), vector=vector.tolist(), payload=payload(text))
                for text, vector in zip(texts, model.embed(texts), strict=True)
            ]
            client.upsert(name, points=points)

    def add_payload(self, payload, width):
        from qdrant_client import models

        with self.client() as client:
            client.upsert("docsgpt", points=[models.PointStruct(id=7, vector=[1.0] * width, payload=payload)])

    def dump(self, name="docsgpt"):
        with self.client() as client:
            records, _ = client.scroll(name, limit=1000, with_vectors=True)
        return {record.id: (record.payload, record.vector) for record in records}

    def names(self):
        with self.client() as client:
            return sorted(collection.name for collection in client.get_collections().collections)

    def nearest(self, name, vector):
        with self.client() as client:
            return client.query_points(name, query=vector, limit=1).points[0].payload["page_content"]

    def add_alias(self, client, name, alias):
        from qdrant_client import models

        added = models.CreateAlias(collection_name=name, alias_name=alias)
        client.update_collection_aliases([models.CreateAliasOperation(create_alias=added)])


class Milvus:
    """What DocsGPT's MilvusStore does with its client."""

    name = "milvus"
    library = "pymilvus"
    open = staticmethod(open_milvus)
    make = staticmethod(make_milvus)

    def __init__(self, location):
        self.location = location

    @contextlib.contextmanager
    def client(self):
        from pymilvus import MilvusClient

        client = MilvusClient(uri=self.location, grpc_options=NO_KEEPALIVE)
        for name in client.list_collections():
            if client.list_indexes(name):  # a killed run may leave one without
                client.load_collection(name)
        yield client
        client.close()

    def add(self, model, texts, name="docsgpt"):
        with self.client() as client:
            rows = [
                {
                    "id": str(uuid.uuid4()),
                    "vector": vector.tolist(),
                    "text": text,
                    "source_id": "handbook",
                    "metadata": payload(text)["metadata"],
                    "added_by_hand": 7,
                }
                for text, vector in zip(texts, model.embed(texts), strict=True)
            ]
            client.insert(name, rows)

    def dump(self, name="docsgpt"):
        with self.client() as client:
            rows = client.query(name, filter="", output_fields=["*"], limit=1000, consistency_level="Strong")
        return {row["id"]: ({k: v for k, v in row.items() if k != "vector"}, row["vector"]) for row in rows}

    def names(self):
        with self.client() as client:
            return sorted(client.list_collections())

    def nearest(self, name, vector):
        with self.client() as client:
            found = client.search(name, [vector], limit=1, output_fields=["text"], consistency_level="Strong")
            return found[0][0]["entity"]["text"]

    def add_alias(self, client, name, alias):
        client.create_alias(name, alias)


def payload(text):
    return {"page_content": text, "metadata": {"source": "a.md", "token_count": len(text), "source_id": "handbook"}}


MILVUS_SERVER = os.environ.get("EMBTUNE_TEST_MILVUS")


@pytest.fixture(params=["qdrant", "milvus", *(["milvus server"] if MILVUS_SERVER else [])])
def database(request, tmp_path, stock):
    kind = Qdrant if request.param == "qdrant" else Milvus
    pytest.importorskip(kind.library, reason="its client is not installed")
    is_server = request.param == "milvus server"
    database = kind(MILVUS_SERVER if is_server else str(tmp_path / f"{request.param}.db"))
    if is_server:
        drop_collections(database)
    database.make(database.location, stock.dimension)
    database.add(stock, CHUNKS)
    return database


def drop_collections(database):
    with database.client() as client:
        for name in [name for name in client.list_collections() if name == "docsgpt" or "_embtune_" in name]:
            for alias in client.list_aliases(name)["aliases"]:
                client.drop_alias(alias)
            client.drop_collection(name)


@pytest.fixture
def environment(tmp_path):
    (tmp_path / ".env").write_bytes(SETTINGS)
    return EnvironmentFile(tmp_path / ".env")


@pytest.fixture
def opened(database, environment):
    """Open the store as each run of the command does, anew."""

    @contextlib.contextmanager
    def open_store():
        with database.open(database.location) as collections:
            yield CollectionStore(collections, environment)

    return open_store


def reembed(opened, model, environment):
    with opened() as store:
        return len(steps.reembed([store], model, environment))


def in_force(environment):
    return next((v for n in ("QDRANT", "MILVUS") if (v := environment.get(f"{n}_COLLECTION_NAME"))), "docsgpt")


def require_whole(dump, model, texts=CHUNKS):
    stored = {content.get("text") or content["page_content"] for content, _ in dump.values()}
    assert len(dump) == len(texts)
    assert stored == set(texts)
    own = model.embed([content.get("text") or content["page_content"] for content, _ in dump.values()])
    assert same_vectors(np.array([vector for _, vector in dump.values()], dtype=np.float32), own)


def test_chunks_are_written_as_a_corpus(database, tmp_path):
    out, documents = tmp_path / "corpus.json", tmp_path / "documents.json"
    read = ["chunks", f"--{database.name}", database.location, "--out", str(out), "--document-of", str(documents)]
    assert CliRunner().invoke(main, read, catch_exceptions=False).exit_code == 0
    corpus = json.loads(out.read_text())
    assert corpus == {doc_id: c.get("text") or c["page_content"] for doc_id, (c, _) in database.dump().items()}
    assert json.loads(documents.read_text()) == dict.fromkeys(corpus, "handbook/a.md")
    refused = CliRunner().invoke(main, [*read, "--collection", "other"])
    assert (refused.exit_code, "(it has ['docsgpt'])" in refused.stderr) == (2, True)


def test_env_names_server_and_collection_in_one_step_and_goes_back(database, opened, environment, tuned):
    server = {"EMBEDDINGS_BASE_URL": "http://embed:8765", "EMBEDDINGS_NAME": "tuned"}
    served = replace(tuned, served_as=server)
    assert reembed(opened, served, environment) == 1
    assert {name: environment.get(name) for name in server} == server
    require_whole(database.dump(in_force(environment)), tuned)
    assert reembed(opened, served, environment) == 0
    with opened() as store:
        assert len(steps.roll_back([store], environment, served)) == 1
    assert environment.path.read_bytes() == SETTINGS
    assert database.names() == ["docsgpt"]


def test_every_chunk_is_embedded_anew_and_nothing_else_changes(database, opened, environment, tuned):
    before = database.dump()
    with opened() as store:
        assert [finding.problem for finding in examine(store, tuned)] == ["vectors"]
        (plan,) = steps.plan([store], tuned)
        assert (plan.chunks, plan.remaining, plan.done) == (len(CHUNKS), len(set(CHUNKS)), False)
    assert database.names() == ["docsgpt"]
    assert reembed(opened, tuned, environment) == 1
    name = in_force(environment)
    after = database.dump(name)
    assert name == f"docsgpt_embtune_{tuned.fingerprint[:12]}"
    assert environment.get("EMBEDDINGS_NAME") == str(tuned.folder)
    assert {doc_id: content for doc_id, (content, _) in after.items()} == {
        doc_id: content for doc_id, (content, _) in before.items()
    }
    require_whole(after, tuned)
    assert database.dump() == before
    assert database.nearest(name, tuned.embeddings.embed_query(CHUNKS[7])) == CHUNKS[7]
    assert reembed(opened, tuned, environment) == 0
    with opened() as store:
        assert examine(store, tuned) == []


def test_rollback_brings_everything_back(database, opened, environment, tuned):
    before = database.dump()
    reembed(opened, tuned, environment)
    with opened() as store:
        steps.roll_back([store], environment)
    assert environment.path.read_bytes() == SETTINGS
    assert database.names() == ["docsgpt"]
    assert database.dump() == before
    with opened() as store, pytest.raises(DeploymentError, match="no re-embedding to take back"):
        steps.roll_back([store], environment)


def test_what_was_kept_for_a_rollback_can_be_deleted(database, opened, environment, tuned):
    with opened() as store:
        assert store.kept() == ""
        store.forget()
    reembed(opened, tuned, environment)
    with opened() as store:
        assert store.kept() == "collection docsgpt"
    options = ["forget", f"--{database.name}", database.location, "--env", str(environment.path), "--yes"]
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 0, result.output
    assert database.names() == [in_force(environment)]
    require_whole(database.dump(in_force(environment)), tuned)
    assert reembed(opened, tuned, environment) == 0
    with opened() as store, pytest.raises(DeploymentError, match="no re-embedding to take back"):
        steps.roll_back([store], environment)


def forget(database, environment):
    options = ["forget", f"--{database.name}", database.location, "--env", str(environment.path), "--yes"]
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_collections_of_all_switches_are_deleted_even_after_a_rollback(database, opened, environment, tuned, third):
    reembed(opened, tuned, environment)
    first = in_force(environment)
    with opened() as store:
        assert not store.replaces_kept(third)
    reembed(opened, third, environment)
    environment.keep_stores([database.name])
    with opened() as store:
        assert store.kept() == f"collection docsgpt; collection {first}"
        steps.roll_back([store], environment)
    with opened() as store:
        assert store.kept() == "collection docsgpt"
    no_store = ["forget", "--indexes", str(environment.path.parent), "--env", str(environment.path), "--yes"]
    assert f"give --{database.name}, too" in CliRunner().invoke(main, no_store).stderr
    assert ": collection docsgpt\n" in forget(database, environment)
    assert database.names() == [in_force(environment)] == [first]
    assert forget(database, environment) == "nothing is kept\n"


def test_first_collection_stays_on_record_through_switches_and_rollbacks(database, opened, environment, tuned, third):
    for model in (tuned, third):
        reembed(opened, model, environment)
    with opened() as store:
        steps.roll_back([store], environment)
    reembed(opened, replace(third, served_as={"EMBEDDINGS_NAME": "third"}), environment)
    reembed(opened, replace(third, served_as={"EMBEDDINGS_NAME": "third, elsewhere"}), environment)
    forget(database, environment)
    assert database.names() == [in_force(environment)]
    require_whole(database.dump(in_force(environment)), third)


def test_collection_of_a_run_that_did_not_finish_is_named_and_not_deleted(database, opened, environment, tuned, third):
    with opened() as store:
        store.build(third)
        for name in ("docsgpt_embtune_by_hand", f"other_embtune_{'0' * 12}"):
            store._collections.create(name, like="docsgpt", width=8)
    left = f"docsgpt_embtune_{third.fingerprint[:12]}"
    with opened() as store:
        assert (store.kept(), store.unfinished()) == ("", f"collection {left}")
    reembed(opened, tuned, environment)
    said = forget(database, environment)
    assert ": collection docsgpt\n" in said
    assert f": collection {left}: of a run that did not finish, or another DocsGPT's" in said
    others = [left, "docsgpt_embtune_by_hand", f"other_embtune_{'0' * 12}"]
    assert database.names() == sorted([in_force(environment), *others])


def test_collection_that_an_alias_leads_to_is_not_taken_for_one_of_a_run_that_did_not_finish(
    database, opened, environment, third
):
    with opened() as store:
        store.build(third)
    with database.client() as client:
        database.add_alias(client, f"docsgpt_embtune_{third.fingerprint[:12]}", "in_force_by_hand")
    with opened() as store:
        assert store.unfinished() == ""


def test_collection_that_was_replaced_once_and_is_back_in_force_is_not_deleted(
    database, opened, environment, tuned, third
):
    for model in (tuned, third, tuned):
        reembed(opened, model, environment)
    forget(database, environment)
    assert database.names() == [in_force(environment)]
    require_whole(database.dump(in_force(environment)), tuned)


def test_collection_that_the_settings_name_is_never_deleted(database, opened, environment, tuned):
    reembed(opened, tuned, environment)
    with opened() as store, pytest.raises(DeploymentError, match="names it still"):
        steps.roll_back([store])
    require_whole(database.dump(in_force(environment)), tuned)


def test_new_width_and_a_second_model_after_the_first(database, opened, environment, tuned, tmp_path):
    wide = load_deployed_model(str(build_tiny_folder(tmp_path, seed=2, hidden_size=48)))
    reembed(opened, tuned, environment)
    first = in_force(environment)
    reembed(opened, wide, environment)
    require_whole(database.dump(in_force(environment)), wide)
    with opened() as store:
        assert store.width() == 48
        steps.roll_back([store], environment)
    assert in_force(environment) == first
    assert database.names() == ["docsgpt", first]


def test_model_that_was_written_again_into_the_same_folder_is_no_way_back(
    database, opened, environment, stock, tuned, third, tmp_path
):
    environment.path.write_text(f"EMBEDDINGS_NAME={stock.folder}\n")
    folder = shutil.copytree(tuned.folder, tmp_path / "models" / "tuned")
    reembed(opened, load_deployed_model(str(folder)), environment)
    shutil.rmtree(folder)
    shutil.copytree(third.folder, folder)
    reembed(opened, load_deployed_model(str(folder)), environment)
    before = environment.path.read_bytes()
    with opened() as store, pytest.raises(DeploymentError, match=r"would come back are not of .*OLD_MODEL"):
        steps.roll_back([store], environment)
    assert environment.path.read_bytes() == before
    require_whole(database.dump(in_force(environment)), third)


def test_rollback_that_was_killed_after_env_can_be_repeated(database, opened, environment, tuned, third):
    reembed(opened, tuned, environment)
    first = environment.path.read_bytes()
    reembed(opened, third, environment)
    environment.take_back()
    with opened() as store:
        assert steps.roll_back([store], environment) == []
    assert environment.path.read_bytes() == first
    require_whole(database.dump(in_force(environment)), tuned)


def test_chunks_that_come_and_go_before_the_swap(database, opened, environment, stock, tuned):
    with opened() as store:
        store.build(tuned)
    database.add(stock, [LATE])
    gone = next(doc_id for doc_id, (content, _) in database.dump().items() if CHUNKS[3] in content.values())
    with opened() as store:
        store._collections.remove("docsgpt", [gone])
        assert store.remaining(tuned) == [LATE]
    reembed(opened, tuned, environment)
    require_whole(database.dump(in_force(environment)), tuned, [*CHUNKS[:3], *CHUNKS[4:], LATE])


def test_chunk_that_comes_after_the_last_check_is_not_left_out(database, opened, environment, stock, tuned):
    with opened() as store:
        store.build(tuned)
        store.prepare(tuned)
    database.add(stock, [LATE])
    with opened() as store:
        store.swap(tuned)
        target = store._target(tuned)
    require_whole(database.dump(target), tuned, [*CHUNKS, LATE])


def test_chunk_deleted_since_is_not_brought_back_by_a_rollback(database, opened, environment, tuned):
    reembed(opened, tuned, environment)
    gone = next(iter(database.dump(in_force(environment))))
    with opened() as store:
        store._collections.remove(in_force(environment), [gone])
        with pytest.raises(DeploymentError, match=r"added or removed .*--model OLD_MODEL"):
            steps.roll_back([store], environment)


def test_chunks_added_since_are_not_thrown_away_by_a_rollback(database, opened, environment, stock, tuned):
    reembed(opened, tuned, environment)
    database.add(tuned, [LATE], in_force(environment))
    with opened() as store, pytest.raises(DeploymentError, match="--model OLD_MODEL"):
        steps.roll_back([store], environment)
    reembed(opened, stock, environment)
    require_whole(database.dump(in_force(environment)), stock, [*CHUNKS, LATE])


def test_chunks_of_a_worker_that_was_not_restarted_are_mended(database, opened, environment, stock, tuned):
    reembed(opened, tuned, environment)
    database.add(stock, [LATE], in_force(environment))
    with opened() as store:
        assert [finding.problem for finding in examine(store, tuned)] == ["mixed"]
        assert steps.plan([store], tuned)[0].remaining == 1
    assert reembed(opened, tuned, environment) == 1
    require_whole(database.dump(in_force(environment)), tuned, [*CHUNKS, LATE])
    assert reembed(opened, tuned, environment) == 0


def test_chunk_of_another_model_is_found_among_more_than_are_drawn(
    opened, database, environment, stock, tuned, monkeypatch
):
    reembed(opened, tuned, environment)
    database.add(stock, [LATE], in_force(environment))
    monkeypatch.setattr(collection_store, "LATECOMERS_CHECKED", 1)
    with opened() as store:
        assert not store.is_on(tuned)


def test_vector_that_is_not_the_models_is_caught_before_the_swap(opened, stock, tuned):
    with opened() as store:
        store.build(tuned)
        target = store._target(tuned)
        entries = list(store._collections.entries(target))
        store._collections.put(target, entries, stock.embed([entry.text for entry in entries]))
        with pytest.raises(DeploymentError, match="is not the model's of its text"):
            store.prepare(tuned)


@pytest.mark.parametrize("text", [12345, ["a"], False])
def test_text_that_is_none_is_named_before_a_collection_is_made(tmp_path, environment, tuned, text):
    pytest.importorskip("qdrant_client", reason="its client is not installed")  # Milvus has a column of texts alone
    database = Qdrant(str(tmp_path / "qdrant"))
    database.make(database.location, tuned.dimension)
    database.add_payload({"page_content": text}, tuned.dimension)
    command = ["reembed", "--model", str(tuned.folder), "--qdrant", database.location, "--env", str(environment.path)]
    for words in (command, [*command, "--dry-run"]):
        result = CliRunner().invoke(main, words, catch_exceptions=False)
        assert result.exit_code == 2
        kind = type(text).__name__
        assert f"Qdrant docsgpt: the text of chunk 7 is no text but of type {kind}; delete" in result.stderr
    assert database.names() == ["docsgpt"]


def test_sparse_vectors_would_be_lost_and_are_named_before_a_collection_is_made(tmp_path, environment, stock, tuned):
    pytest.importorskip("qdrant_client", reason="its client is not installed")
    from qdrant_client import models

    database = Qdrant(str(tmp_path / "qdrant"))
    with database.client() as client:
        dense = models.VectorParams(size=stock.dimension, distance=models.Distance.COSINE)
        client.create_collection(
            "docsgpt", vectors_config=dense, sparse_vectors_config={"bm25": models.SparseVectorParams()}
        )
        vector = {"": stock.embed(CHUNKS[:1])[0].tolist(), "bm25": models.SparseVector(indices=[1], values=[2.0])}
        client.upsert("docsgpt", points=[models.PointStruct(id=7, vector=vector, payload=payload(CHUNKS[0]))])
    with database.open(database.location) as collections:
        store = CollectionStore(collections, environment)
        assert examine(store, stock) == []
        with pytest.raises(DeploymentError, match="docsgpt: has sparse vectors, bm25, which DocsGPT does not make"):
            steps.reembed([store], tuned, environment)
        assert collections.names() == ["docsgpt"]


@pytest.mark.parametrize(
    ("index", "width", "parameters"),
    [
        ({"index_type": "AUTOINDEX", "metric_type": "COSINE"}, 768, {}),
        ({"index_type": "HNSW", "M": "16", "efConstruction": "200"}, 768, {"M": 16, "efConstruction": 200}),
        ({"index_type": "IVF_PQ", "params": {"nlist": 7, "m": 48, "nbits": 8}}, 384, {"nlist": 7, "m": 48, "nbits": 8}),
        ({"index_type": "IVF_PQ", "params": {"nlist": 7, "m": 48, "nbits": 8}}, 100, {"nlist": 7, "nbits": 8}),
    ],
)
def test_milvus_index_is_built_as_the_first_one_was(index, width, parameters):
    assert build_parameters(index, width) == parameters


@pytest.mark.parametrize("location", ["localhost:6333", "nowhere/qdrant", "."])
def test_mistyped_qdrant_is_refused_and_no_folder_is_made(tmp_path, tuned, monkeypatch, location):
    pytest.importorskip("qdrant_client", reason="its client is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes(SETTINGS)
    words = ("reembed", "--dry-run", "--model", str(tuned.folder), "--qdrant", location, "--env", ".env")
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert f"Qdrant {location}: no folder of a Qdrant (no meta.json in it); give the server's" in result.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / ".env"]


def test_wrong_settings_are_refused(opened, environment):
    environment.path.write_text("QDRANT_COLLECTION_NAME=other\nMILVUS_COLLECTION_NAME=other\n")
    with pytest.raises(DeploymentError, match=r"no collection 'other', which .*\.env names"), opened():
        pass


def test_collection_that_a_kill_left_without_its_index_is_made_anew(tmp_path, environment, stock, tuned):
    pytest.importorskip("pymilvus", reason="its client is not installed")
    database = Milvus(MILVUS_SERVER or str(tmp_path / "milvus.db"))
    drop_collections(database)
    database.make(database.location, stock.dimension)
    database.add(stock, CHUNKS)
    from pymilvus import DataType

    with database.client() as client:
        schema = client.create_schema()
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=tuned.dimension)
        client.create_collection(f"docsgpt_embtune_{tuned.fingerprint[:12]}", schema=schema)
    with database.open(database.location) as collections:
        steps.reembed([CollectionStore(collections, environment)], tuned, environment)
    require_whole(database.dump(in_force(environment)), tuned)


def test_second_process_is_refused(database, opened):
    if database.location == MILVUS_SERVER:
        pytest.skip("a server takes as many as come")
    opener = database.open.__name__
    code = f"from {database.open.__module__} import {opener}\nwith {opener}({database.location!r}): pass"
    with opened():
        second = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert "DeploymentError: " in second.stderr.splitlines()[-1]


def test_commands(database, environment, tuned):
    option = f"--{database.name}"
    stored = (option, database.location, "--env", str(environment.path))
    model = ("--model", str(tuned.folder))

    def embtune(*words):
        result = CliRunner().invoke(main, words)
        return result.exit_code, result.output

    assert embtune("reembed", *model, *stored[:2])[0] == 2
    said = embtune("reembed", *model, *stored, "--dry-run")[1]
    assert "62 chunks, 61 different texts to embed" in said
    assert f".env: EMBEDDINGS_NAME={tuned.folder} instead of /models/stock" in said
    assert f"_COLLECTION_NAME=docsgpt_embtune_{tuned.fingerprint[:12]} instead of (not set)" in said
    assert environment.path.read_bytes() == SETTINGS
    assert "none of 62 sampled vectors was made by this model" in embtune("doctor", *model, *stored)[1]
    code, said = embtune("reembed", *model, *stored)
    assert code == 0
    setting = f".env: {database.name.upper()}_COLLECTION_NAME="
    assert f"{setting}docsgpt_embtune_{tuned.fingerprint[:12]}\n" in said
    assert embtune("doctor", *model, *stored)[0] == 0
    assert "docsgpt_embtune_" in environment.path.read_text()
    code, said = embtune("reembed", *stored, "--rollback")
    assert code == 0
    assert f"{setting}(not set)\n" in said
    assert environment.path.read_bytes() == SETTINGS


CHILD = """
import sys
from pathlib import Path
from docsgpt_embtune.deployment import reembed, vector_journal
from docsgpt_embtune.deployment.collection_store import CollectionStore
from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from {module} import {opener}
from docsgpt_embtune.deployment.deployed_model import load_deployed_model
vector_journal.BLOCK = 4
model, environment = load_deployed_model(sys.argv[2]), EnvironmentFile(Path(sys.argv[3]))
with {opener}(sys.argv[1]) as collections:
    print("ready", flush=True)
    reembed.reembed([CollectionStore(collections, environment)], model, environment)
"""


@pytest.mark.slow
def test_killed_at_random_moments_the_collection_is_always_whole(database, opened, environment, stock, tuned):
    draw = random.Random(0)
    before = database.dump()
    code = CHILD.format(module=database.open.__module__, opener=database.open.__name__)
    for _ in range(2):
        child = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, database.location, str(tuned.folder), str(environment.path)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        child.stdout.readline()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(draw.uniform(0, 0.4))
        child.kill()
        child.communicate()
        name = in_force(environment)
        require_whole(database.dump(name), stock if name == "docsgpt" else tuned)
    reembed(opened, tuned, environment)
    require_whole(database.dump(in_force(environment)), tuned)
    with opened() as store:
        steps.roll_back([store], environment)
    assert database.dump() == before


def test_qdrant_client_without_exceptions_of_its_own_will_do(tmp_path, monkeypatch):
    pytest.importorskip("qdrant_client", reason="its client is not installed")
    monkeypatch.setitem(sys.modules, "qdrant_client.common.client_exceptions", None)  # there since 1.14
    database = Qdrant(str(tmp_path / "qdrant"))
    database.make(database.location, 3)
    with database.open(database.location) as collections:
        assert collections.width("docsgpt") == 3
