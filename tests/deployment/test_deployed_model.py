"""Chunks embedded by the thousand: the vectors that will be served, whatever serves."""

import shutil

import numpy as np
import pytest

from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.deployment.deployed_model import load_deployed_model
from docsgpt_embtune.deployment.doctor import examine
from docsgpt_embtune.deployment.faiss_folder import index_vectors, read_index
from docsgpt_embtune.deployment.faiss_store import FaissStore
from docsgpt_embtune.manifest import read_manifest, write_manifest
from docsgpt_embtune.serving.graphs import multiplies_int8
from docsgpt_embtune.vectors import SAME_VECTOR, SAME_VECTOR_IN_INT8, cosines

from ..conftest import TEXTS
from .conftest import CHUNKS, rewrite_vectors

LONG = [f"{' '.join(TEXTS)} {end}" for end in TEXTS]  # twice what the tiny model reads in a window


@pytest.fixture
def windowed(tiny_exported_folder, tmp_path):
    folder = shutil.copytree(tiny_exported_folder, tmp_path / "windowed")
    manifest = read_manifest(folder)
    manifest["serving"]["reading"] = {"max_seq_length": 32, "windows": "mean"}
    write_manifest(folder, manifest)
    return folder


@pytest.mark.parametrize("engine", ["torch", "onnx", "onnx-int8"])
def test_many_chunks_get_the_vectors_that_are_served(windowed, monkeypatch, engine):
    monkeypatch.setenv("EMBTUNE_ENGINE", engine)
    model = load_deployed_model(str(windowed))
    texts = [*LONG, *TEXTS, "half a character: \ud83d"]
    many, served = model.embed_many(texts), model.embed(texts)
    assert cosines(many, served).min() > (1 - 1e-6 if engine == "onnx-int8" else 0.999)
    assert model.embed_many([]).shape == (0, 32)


def test_share_that_is_read_of_half_a_character_is_told(tiny_base_folder):
    model = load_deployed_model(str(tiny_base_folder))
    cut = model.cuts_off([" ".join(["half a character: \ud83d"] * 200)])
    assert cut is not None


def test_bf16_that_rounds_too_much_is_computed_again(windowed, monkeypatch):
    monkeypatch.setenv("EMBTUNE_ENGINE", "onnx")
    monkeypatch.setattr("docsgpt_embtune.deployment.deployed_model._ROUNDED", 1.1)
    model = load_deployed_model(str(windowed))
    assert cosines(model.embed_many(LONG), model.embed(LONG)).min() > 1 - 1e-6


def test_index_of_what_serves_in_int8_is_in_int8(index_folder, tiny_exported_folder, monkeypatch):
    exact = load_deployed_model(str(tiny_exported_folder)).embed(CHUNKS)
    monkeypatch.setenv("EMBTUNE_ENGINE", "onnx-int8")
    model = load_deployed_model(str(tiny_exported_folder))
    steps.reembed([FaissStore(index_folder)], model)
    stored = index_vectors(read_index(index_folder))
    assert cosines(stored, model.embed(CHUNKS)).min() > 1 - 1e-6
    assert cosines(stored, exact).min() < 1 - 1e-5


@pytest.mark.skipif(not multiplies_int8(), reason="this processor's int8 products overflow: the alarm would be right")
def test_int8_vectors_raise_no_alarm_where_int8_does_not_run(index_folder, tiny_exported_folder, monkeypatch):
    monkeypatch.setenv("EMBTUNE_ENGINE", "onnx-int8")
    steps.reembed([FaissStore(index_folder)], load_deployed_model(str(tiny_exported_folder)))
    monkeypatch.setenv("EMBTUNE_ENGINE", "torch")
    model = load_deployed_model(str(tiny_exported_folder))
    assert model.same_vector == SAME_VECTOR
    # A real model's int8 is farther from its fp32 than the tiny one's, which SAME_VECTOR takes for the same.
    monkeypatch.setattr("docsgpt_embtune.deployment.deployed_model.SAME_VECTOR", 0.99999)
    assert examine(FaissStore(index_folder), model) == []
    rewrite_vectors(index_folder, lambda in_int8: np.vstack([model.embed(CHUNKS[:30]), in_int8[30:]]))
    assert examine(FaissStore(index_folder), model) == []


@pytest.mark.skipif(not multiplies_int8(), reason="where int8 cannot be computed, the two cannot be told apart")
def test_a_store_of_a_model_tuned_a_little_is_told_from_one_in_int8(index_folder, tiny_exported_folder):
    """Its vectors are as near to the exported model's as int8 is."""
    model = load_deployed_model(str(tiny_exported_folder))
    elsewhere = np.resize(np.eye(model.dimension, dtype=np.float32), (len(CHUNKS), model.dimension))
    near = model.embed(CHUNKS) + 0.06 * elsewhere
    assert SAME_VECTOR_IN_INT8 < cosines(near, model.embed(CHUNKS)).min() < SAME_VECTOR
    rewrite_vectors(index_folder, lambda _: near)
    (finding,) = examine(FaissStore(index_folder), model)
    assert f"none of {len(CHUNKS)} sampled vectors was made by this model" in finding.message


def test_vectors_are_told_in_spite_of_a_broken_graph_in_int8(index_folder, windowed):
    (windowed / "onnx" / "model_int8.onnx").write_bytes(b"half copied")
    model = load_deployed_model(str(windowed))
    (finding,) = examine(FaissStore(index_folder), model)
    assert f"none of {len(CHUNKS)} sampled vectors was made by this model" in finding.message
    steps.reembed([FaissStore(index_folder)], model)
    assert examine(FaissStore(index_folder), model) == []


def test_vectors_of_a_stock_model_are_the_stock_class_s(stock):
    assert cosines(stock.embed_many(CHUNKS), stock.embed(CHUNKS)).min() > 1 - 1e-6
