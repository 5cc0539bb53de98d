"""The engine without torch: the same vectors, and an answer to everything that may be missing."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from docsgpt_embtune.embeddings import StockEmbeddings, TunedEmbeddings
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.manifest import read_manifest
from docsgpt_embtune.model_folder import fingerprint
from docsgpt_embtune.serving import graphs, onnx_engine

from ..conftest import TEXTS

MIXED = [*TEXTS, "x", "", "logs " * 500, "ünïcödé 数据 🙂", *(f"{text} {text}" for text in TEXTS)]


@pytest.fixture
def copied(tiny_exported_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(TunedEmbeddings, "_models", {})  # what this process has loaded of the same model
    return shutil.copytree(tiny_exported_folder, tmp_path / "copied")


def test_vectors_equal_sentence_transformers_whatever_lies_beside_them(tiny_exported_folder):
    onnx = TunedEmbeddings(str(tiny_exported_folder))
    assert onnx.engine == "onnx"
    stock = StockEmbeddings(tiny_exported_folder).embed_documents(MIXED)
    assert np.allclose(onnx.embed_documents(MIXED), stock, atol=1e-5)
    assert np.allclose([onnx.embed_query(text) for text in MIXED], stock, atol=1e-5)


@pytest.mark.parametrize(
    ("limits", "cores"),
    [
        ({}, 4),
        ({"cpu.max": "max 100000"}, 4),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, 4),
        ({"cpu.cfs_quota_us": "250000", "cpu.cfs_period_us": "100000"}, 3),
    ],
)
def test_as_many_cores_are_used_as_the_container_has(tmp_path, monkeypatch, limits, cores):
    moved = [[tmp_path / file.name for file in files] for files in onnx_engine.CONTAINER_QUOTAS]
    monkeypatch.setattr(onnx_engine, "CONTAINER_QUOTAS", moved)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(4))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, text in limits.items():
        (tmp_path / name).write_text(f"{text}\n")
    assert onnx_engine._cores() == cores
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert onnx_engine._cores() == 1


def test_nothing_is_kept_to_be_sent_anywhere(tiny_exported_folder, tmp_path):
    code = (
        "import sys; from docsgpt_embtune.embeddings import TunedEmbeddings as T\n"
        "T(sys.argv[1], engine='onnx').embed_query('x')"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", code, str(tiny_exported_folder)], env=environment, check=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_int8_vector_does_not_depend_on_its_neighbours(tiny_exported_folder):
    int8 = TunedEmbeddings(str(tiny_exported_folder), engine="onnx-int8")
    together = int8.embed_documents(MIXED)
    assert together == [int8.embed_query(text) for text in MIXED]
    exact = TunedEmbeddings(str(tiny_exported_folder), engine="onnx").embed_documents(MIXED)
    cosines = (np.array(together) * np.array(exact)).sum(axis=1)
    assert 0.9 < cosines.min() < 0.99999
    assert int8.fingerprint != fingerprint(tiny_exported_folder)


@pytest.mark.parametrize("engine", ["onnx", "onnx-int8"])
def test_chunks_computed_side_by_side_are_those_of_one_core(tiny_exported_folder, monkeypatch, engine):
    graph = graphs.graphs_of(tiny_exported_folder, read_manifest(tiny_exported_folder))[engine]
    chunks = [f"{text} {number}" for number in range(20) for text in MIXED]
    found = []
    for cores in (1, 3):
        monkeypatch.setattr(onnx_engine, "_cores", lambda cores=cores: cores)
        onnx = onnx_engine.OnnxEngine(tiny_exported_folder, graph, max_seq_length=64)
        found.append(onnx.encode(chunks))
        assert sorted(onnx._sessions) == sorted({1, cores})
    assert np.allclose(found[0], found[1], rtol=0, atol=1e-6)


def test_text_is_not_tokenised_beyond_what_counts(tiny_exported_folder, monkeypatch):
    inputs, cut_off = onnx_engine.graph_inputs, []
    monkeypatch.setattr(
        onnx_engine, "graph_inputs", lambda names, read: cut_off.extend(read[0].overflowing) or inputs(names, read)
    )
    embeddings = TunedEmbeddings(str(tiny_exported_folder))
    assert embeddings.embed_query("logs are kept " * 5_000) == embeddings.embed_query("logs are kept " * 100)
    assert len(cut_off) < 20  # runs of tokens as long as what is read; of the whole text there are hundreds


def test_more_texts_than_are_tokenised_together_stay_in_order(tiny_exported_folder, monkeypatch):
    embeddings = TunedEmbeddings(str(tiny_exported_folder), engine="onnx")
    expected = embeddings.embed_documents(MIXED)
    monkeypatch.setattr(onnx_engine, "_TEXTS_AT_ONCE", 3)
    assert np.allclose(embeddings.embed_documents(MIXED), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("exchanged", [False, True])
def test_engine_whose_folder_was_exchanged_goes_on_with_what_it_loaded(copied, monkeypatch, exchanged):
    graph = graphs.graphs_of(copied, read_manifest(copied))["onnx"]
    monkeypatch.setattr(onnx_engine, "_cores", lambda: 2)
    onnx = onnx_engine.OnnxEngine(copied, graph, max_seq_length=64)
    before = onnx.encode(MIXED[:1])
    aside = copied.rename(copied.with_name("aside"))
    if exchanged:
        shutil.copytree(aside, copied)
        graph.path.write_bytes(b"another model's graph")
    chunks = [f"{text} {number}" for number in range(20) for text in MIXED]
    again = onnx_engine.OnnxEngine(aside, replace(graph, path=aside / "onnx" / graph.path.name), max_seq_length=64)
    assert np.allclose(onnx.encode(chunks), again.encode(chunks), rtol=0, atol=1e-6)
    assert np.allclose(onnx.encode(MIXED[:1]), before)


def test_default_prompt_is_put_before_each_text(tiny_exported_folder, copied):
    (copied / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"both": "logs: "}, "default_prompt_name": "both"})
    )
    manifest = read_manifest(copied)
    (copied / "embtune.json").write_text(json.dumps({**manifest, "fingerprint": fingerprint(copied)}))
    prompted = TunedEmbeddings(str(copied)).embed_query(TEXTS[0])
    assert prompted == pytest.approx(StockEmbeddings(copied).embed_query(TEXTS[0]), abs=1e-5)
    assert prompted != pytest.approx(TunedEmbeddings(str(tiny_exported_folder)).embed_query(TEXTS[0]), abs=1e-2)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["sentence_transformers"] = sys.modules["transformers"] = None
from docsgpt_embtune.plugin import make_embeddings
embeddings = make_embeddings(sys.argv[1])
assert len(embeddings.embed_query("Logs are rotated.")) == embeddings.dimension == 32
assert len(embeddings.embed_documents(["Logs are rotated. " * 100] * 3)) == 3
"""


def test_serves_in_a_process_that_cannot_import_torch(tiny_exported_folder):
    finished = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(tiny_exported_folder)], capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr


def test_question_asked_again_is_not_computed_again(tiny_exported_folder):
    embeddings = TunedEmbeddings(str(tiny_exported_folder), question_cache=2)
    first = [embeddings.embed_query(text) for text in TEXTS[:3]]
    kept = embeddings._encode_question.cache_info()
    assert (kept.currsize, kept.maxsize) == (2, 2)
    first[2][0] = 7.0  # a caller's list is the caller's
    assert embeddings.embed_query(TEXTS[2])[0] != 7.0
    assert embeddings._encode_question.cache_info().hits == 1


@pytest.mark.parametrize("file", ["model.onnx", "model.onnx.data"])
def test_broken_graph_leaves_sentence_transformers_to_serve(copied, caplog, file):
    broken = copied / "onnx" / file
    broken.write_bytes(broken.read_bytes()[:-1])
    embeddings = TunedEmbeddings(str(copied))
    assert embeddings.engine == "torch"
    assert "not the graph that was exported" in caplog.text
    with pytest.raises(ModelFolderError, match=r"not the graph that was exported .* embtune export"):
        TunedEmbeddings(str(copied), engine="onnx")


@pytest.mark.parametrize(
    ("file", "said"), [("model.onnx", "cannot be read"), ("model.onnx.data", "not the graph that was exported")]
)
def test_missing_graph_leaves_sentence_transformers_to_serve(copied, caplog, file, said):
    (copied / "onnx" / file).unlink()
    assert TunedEmbeddings(str(copied)).engine == "torch"
    assert f"model.onnx: {said}" in caplog.text


def test_folder_without_graphs_says_how_to_get_them(tiny_tuned_folder):
    assert TunedEmbeddings(str(tiny_tuned_folder)).engine == "torch"
    with pytest.raises(ModelFolderError, match="no graph for engine 'onnx'; run: embtune export"):
        TunedEmbeddings(str(tiny_tuned_folder), engine="onnx")


def test_engine_is_set_by_option_then_by_environment(tiny_exported_folder, monkeypatch):
    folder = str(tiny_exported_folder)
    monkeypatch.setenv("EMBTUNE_ENGINE", "torch")
    assert TunedEmbeddings(folder).engine == "torch"
    assert TunedEmbeddings(folder, model_kwargs={"engine": "onnx"}).engine == "onnx"
    assert TunedEmbeddings(folder, engine="onnx-int8").engine == "onnx-int8"
    monkeypatch.setenv("EMBTUNE_ENGINE", "tensorrt")
    with pytest.raises(ModelFolderError, match="'tensorrt': no such engine; set EMBTUNE_ENGINE to one of auto, torch"):
        TunedEmbeddings(folder)


@pytest.mark.parametrize(
    "settings", [{"model_kwargs": {"device": None}}, {"encode_kwargs": {"truncate_dim": 16}}], ids=["device", "encode"]
)
def test_what_only_sentence_transformers_can_do_it_does(tiny_exported_folder, settings):
    assert TunedEmbeddings(str(tiny_exported_folder), **settings).engine == "torch"
    with pytest.raises(ModelFolderError, match=r"runs on the processor alone, and .* was asked for"):
        TunedEmbeddings(str(tiny_exported_folder), engine="onnx", **settings)


def test_int8_is_left_where_the_processor_cannot_multiply_it(copied, monkeypatch):
    manifest = read_manifest(copied)
    manifest["serving"]["engine"] = "onnx-int8"
    (copied / "embtune.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(graphs, "multiplies_int8", lambda: True)
    assert TunedEmbeddings(str(copied)).engine == "onnx-int8"
    monkeypatch.setattr(graphs, "multiplies_int8", lambda: False)
    assert TunedEmbeddings(str(copied)).engine == "onnx"


@pytest.mark.parametrize("multiplies", [True, False])
def test_who_insists_on_int8_where_it_overflows_is_warned(tiny_exported_folder, monkeypatch, caplog, multiplies):
    monkeypatch.setattr(graphs, "multiplies_int8", lambda: multiplies)
    assert TunedEmbeddings(str(tiny_exported_folder), engine="onnx-int8").engine == "onnx-int8"
    assert ("int8 products overflow" in caplog.text) is not multiplies
