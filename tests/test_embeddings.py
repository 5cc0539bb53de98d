"""`TunedEmbeddings` as a host uses it: many threads, forks, and folders that are not what they should be."""

import copy
import json
import math
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from docsgpt_embtune.adapter import QueryAdapter
from docsgpt_embtune.deployment.deployed_model import load_deployed_model
from docsgpt_embtune.embeddings import StockEmbeddings, TunedEmbeddings
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.model_folder import fingerprint

from .conftest import TEXTS


@pytest.fixture(params=["torch", "onnx"])
def folder(request):
    """A folder with and one without a graph; the same must hold for both."""
    return request.getfixturevalue({"torch": "tiny_tuned_folder", "onnx": "tiny_exported_folder"}[request.param])


def test_vectors_are_plain_unit_length_and_the_same_by_every_call(folder):
    embeddings = TunedEmbeddings(str(folder), model_kwargs={"device": "cpu"})
    vectors = embeddings.embed_documents(list(TEXTS))
    assert type(vectors) is list
    assert type(vectors[0][0]) is float
    assert all(math.isclose(math.hypot(*vector), 1, abs_tol=1e-5) for vector in vectors)
    assert embeddings.embed_query(TEXTS[0]) == pytest.approx(vectors[0], abs=1e-6)
    assert embeddings(TEXTS[0]) == embeddings.embed_query(TEXTS[0])
    assert embeddings(list(TEXTS)) == vectors
    assert embeddings.embed_documents([]) == []
    assert type(embeddings.dimension) is int


def test_tuned_folder_serves_the_same_without_the_plugin(folder):
    ours = TunedEmbeddings(str(folder)).embed_documents(list(TEXTS))
    stock = StockEmbeddings(folder).embed_documents(list(TEXTS))
    assert [vector == pytest.approx(other, abs=1e-5) for vector, other in zip(ours, stock, strict=True)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_device_of_the_environment_serves_or_is_named_in_the_error(folder, monkeypatch):
    monkeypatch.setenv("EMBTUNE_DEVICE", "cuda")
    with pytest.raises(ModelFolderError, match=r"does not load on 'cuda' .* set EMBTUNE_DEVICE to what torch can use"):
        TunedEmbeddings(str(folder))
    with pytest.raises(ModelFolderError, match="does not load on 'cuda'"):
        load_deployed_model("bundled")
    TunedEmbeddings(str(folder), model_kwargs={"device": "cpu"})  # who asks for one is not overruled
    monkeypatch.setenv("EMBTUNE_DEVICE", "cpu")
    assert TunedEmbeddings(str(folder)).engine == ("onnx" if (folder / "onnx").is_dir() else "torch")


def test_half_a_character_is_read_as_a_question_mark(folder):
    for embeddings in (TunedEmbeddings(str(folder)), StockEmbeddings(folder)):
        assert embeddings.embed_query("a cut \ud83d") == embeddings.embed_query("a cut ?")
        assert embeddings.embed_documents(["x", "a cut \ud83d"]) == embeddings.embed_documents(["x", "a cut ?"])
        assert embeddings.embed_query("数据 🙂 é") == embeddings.embed_documents(["数据 🙂 é"])[0]


@pytest.mark.parametrize("wanted", [True, False])
def test_vectors_are_arrays_whatever_the_caller_asks_for(folder, wanted):
    embeddings = TunedEmbeddings(str(folder), encode_kwargs={"convert_to_numpy": wanted}, engine="torch")
    assert embeddings.embed_documents(list(TEXTS)) == StockEmbeddings(folder).embed_documents(list(TEXTS))


def test_engine_of_the_keyword_goes_before_that_of_model_kwargs(folder, monkeypatch):
    monkeypatch.setattr(TunedEmbeddings, "_models", {})
    embeddings = TunedEmbeddings(str(folder), model_kwargs={"engine": "onnx"}, engine="torch")
    assert embeddings.engine == "torch"
    assert len(embeddings.embed_query("x")) == 32


def test_96_threads_share_one_model_and_agree(folder, monkeypatch):
    monkeypatch.setattr(TunedEmbeddings, "_models", {})
    together = threading.Barrier(96)
    vectors, failures = [], []

    def serve():
        try:
            together.wait()
            embeddings = TunedEmbeddings(str(folder))
            vectors.append([embeddings.embed_query(text) for text in TEXTS])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=serve) for _ in range(96)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(TunedEmbeddings._models) == 1
    assert len(vectors) == 96
    assert all(vector == vectors[0] for vector in vectors)


LANGCHAIN_LATER = """
import asyncio, sys
from docsgpt_embtune import TunedEmbeddings
assert "langchain_core" not in sys.modules
embeddings = TunedEmbeddings(sys.argv[1])
embeddings.embed_query = None  # a chunk must not be embedded as a question
import warnings
warnings.simplefilter("ignore")  # of a library that is being sunset
from langchain_community.vectorstores import FAISS
store = FAISS.from_texts(["Logs are rotated."], embeddings)
store.add_texts(["Logs are rotated.", "An invoice can be cancelled."])
del embeddings.embed_query
(first, near), (again, near_again), (_, far) = store.similarity_search_with_score("Logs are rotated.", k=3)
assert first.page_content == again.page_content
assert near < 1e-6 and near_again < 1e-6 < far
(found,) = asyncio.run(store.asimilarity_search("An invoice can be cancelled.", k=1))
assert found.page_content == "An invoice can be cancelled."
"""


def test_langchains_stores_embed_chunks_as_chunks_even_if_it_is_imported_later(folder):
    subprocess.run([sys.executable, "-c", LANGCHAIN_LATER, str(folder)], check=True, timeout=120)


def test_embeddings_can_be_pickled_and_copied(folder, monkeypatch):
    monkeypatch.setattr(TunedEmbeddings, "_models", {})
    embeddings = TunedEmbeddings(str(folder), model_kwargs={"device": "cpu", "engine": "torch"})
    for same in (pickle.loads(pickle.dumps(embeddings)), copy.copy(embeddings), copy.deepcopy(embeddings)):
        assert same.embed_documents(list(TEXTS)) == embeddings.embed_documents(list(TEXTS))
        assert same.engine == "torch"
    assert len(TunedEmbeddings._models) == 1
    assert repr(embeddings) == f"TunedEmbeddings({str(folder)!r}, engine='torch', dimension=32)"


def test_text_is_not_tokenised_beyond_what_counts(folder, monkeypatch):
    stock = StockEmbeddings(folder)
    encode, read = stock.model.encode, []
    monkeypatch.setattr(stock.model, "encode", lambda texts, **named: read.extend(texts) or encode(texts, **named))
    assert stock.embed_query("logs are kept " * 5_000) == stock.embed_query("logs are kept " * 100)
    assert max(map(len, read)) < 5_000


def test_what_is_no_list_of_texts_is_named(folder):
    for embeddings in (TunedEmbeddings(str(folder)), StockEmbeddings(folder)):
        with pytest.raises(TypeError, match=r"takes a list of texts; give \[text\], .*: 'one chunk'"):
            embeddings.embed_documents("one chunk")
        with pytest.raises(TypeError, match="this is float: nan"):
            embeddings.embed_documents(["one chunk", math.nan])  # an empty cell of a table
        with pytest.raises(TypeError, match="this is NoneType: None"):
            embeddings.embed_query(None)
        assert embeddings.embed_documents(np.array(TEXTS)) == embeddings.embed_documents(iter(TEXTS))


FORK = """
import os, sys, threading
from docsgpt_embtune.embeddings import TunedEmbeddings
embeddings = TunedEmbeddings(sys.argv[1])
if sys.argv[2] == "encoded":
    before = embeddings.embed_documents(["Logs are rotated."] * 64)[0]
if sys.argv[2] == "loading":
    TunedEmbeddings._loading.acquire()  # as another thread would hold it while it loads
child = os.fork()
if child == 0:
    vector = TunedEmbeddings(sys.argv[1]).embed_documents(["Logs are rotated."] * 64)[0]
    os._exit(0 if len(vector) == 32 else 1)
_, status = os.waitpid(child, 0)
if sys.argv[2] == "loading":
    TunedEmbeddings._loading.release()
after = embeddings.embed_documents(["Logs are rotated."] * 64)[0]
assert sys.argv[2] != "encoded" or max(abs(a - b) for a, b in zip(before, after)) < 1e-6
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("parent", ["constructed", "encoded", "loading"])
def test_embeds_after_a_fork_in_parent_and_child(folder, parent):
    # In a process of its own: a child that hangs must fail this test, not the run.
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, str(folder), parent],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert finished.returncode == 0, finished.stderr


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copied")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["models/tuned", "/nowhere/models/tuned", "sentence-transformers/all-MiniLM-L6-v2"])
def test_missing_folder_is_an_error_and_never_a_download(name):
    with pytest.raises(ModelFolderError, match=f"{name}: no such folder .*absolute path"):
        TunedEmbeddings(name)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    "missing", ["embtune.json", "model.safetensors", "modules.json", "tokenizer.json", "1_Pooling/config.json"]
)
def test_half_copied_folder_is_an_error(copied, missing):
    (copied / missing).unlink()
    with pytest.raises(ModelFolderError, match=str(copied)):
        TunedEmbeddings(str(copied))


def test_changed_weights_are_an_error(copied):
    weights = copied / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelFolderError, match="half-copied or changed"):
        TunedEmbeddings(str(copied))


def test_wrong_width_in_the_manifest_is_an_error(copied):
    manifest = json.loads((copied / "embtune.json").read_text())
    (copied / "embtune.json").write_text(json.dumps({**manifest, "dimension": 64}))
    with pytest.raises(ModelFolderError, match=r"32 numbers, .* says 64"):
        TunedEmbeddings(str(copied))


def test_remote_code_is_never_run(copied, tmp_path):
    proof = tmp_path / "ran"
    (copied / "custom.py").write_text(f"open({str(proof)!r}, 'w')\nclass Custom: pass\n")
    modules = json.loads((copied / "modules.json").read_text())
    modules[2]["type"] = "custom.Custom"
    (copied / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelFolderError):
        TunedEmbeddings(str(copied))
    assert not proof.exists()


@pytest.mark.parametrize("module", [0, 2])
def test_code_that_a_model_brings_is_never_run(copied, tmp_path, monkeypatch, module):
    monkeypatch.setattr(TunedEmbeddings, "_models", {})
    proof = tmp_path / "ran"
    (copied / "custom.py").write_text(
        f"open({str(proof)!r}, 'w')\nfrom sentence_transformers.models import Transformer, Normalize\n"
        f"class Custom({'Transformer' if module == 0 else 'Normalize'}): pass\n"
    )
    modules = json.loads((copied / "modules.json").read_text())
    modules[module]["type"] = "custom.Custom"
    (copied / "modules.json").write_text(json.dumps(modules))
    manifest = json.loads((copied / "embtune.json").read_text())
    (copied / "embtune.json").write_text(json.dumps({**manifest, "fingerprint": fingerprint(copied)}))
    with pytest.raises(ModelFolderError, match=r"custom\.Custom"):
        TunedEmbeddings(str(copied), engine="torch")
    with pytest.raises(ModelFolderError, match=r"custom\.Custom"):
        StockEmbeddings(copied)
    assert not proof.exists()


def test_adapter_keeps_zeros_and_brings_the_rest_to_unit_norm():
    vectors = np.array([[0.0, 0.0], [0.6, 0.8]], dtype=np.float32)
    mapped = QueryAdapter(np.array([[0.0, 2.0], [1.0, 0.0]], dtype=np.float32)).map(vectors)
    assert mapped[0].tolist() == [0.0, 0.0]
    assert mapped[1] == pytest.approx(np.array([1.6, 0.6]) / np.hypot(1.6, 0.6))
