"""Quantising a graph: what it does to numbers of which a few are much larger than the others."""

import logging

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

from docsgpt_embtune.exporting import graph_forms

TOKENS, WIDTH, OUTLIER = 2048, 32, 3


@pytest.fixture
def texts(tiny_base_folder):
    tokenizer = Tokenizer.from_file(str(tiny_base_folder / "tokenizer.json"))
    return tokenizer.encode_batch(["rotate the log files", "ask for the invoice", "the end of the year"])


def graph_of(nodes, columns=WIDTH, **weights):
    """Write nodes that make `result` of `looked_up`, the table's rows of the tokens, of which one number is large."""
    draw = np.random.default_rng(0)
    table = draw.normal(size=(TOKENS, WIDTH)).astype(np.float32)
    table[:, OUTLIER] *= 200
    shape = ["texts", "tokens"]
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("Gather", ["table", "input_ids"], ["looked_up"]), *nodes],
            "graph",
            [helper.make_tensor_value_info("input_ids", TensorProto.INT64, shape)],
            [helper.make_tensor_value_info("result", TensorProto.FLOAT, [*shape, columns])],
            [numpy_helper.from_array(table, "table"), *(numpy_helper.from_array(w, n) for n, w in weights.items())],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def product(name, numbers, weights, result):
    return helper.make_node("MatMul", [numbers, weights], [result], name=name)


def random_weights(seed):
    return np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)).astype(np.float32) / WIDTH


def run(path, texts):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [session.run(None, {"input_ids": np.array([text.ids])})[0] for text in texts]


def lost(folder, graph, texts):
    """Quantise a graph, and tell the root of the mean square of what its result changes by."""
    onnx.save(graph, folder / "exact.onnx")
    graph_forms.quantise(folder / "exact.onnx", folder / "int8.onnx", texts)
    pairs = zip(run(folder / "exact.onnx", texts), run(folder / "int8.onnx", texts), strict=True)
    return np.sqrt(np.mean(np.concatenate([(exact - int8).ravel() for exact, int8 in pairs]) ** 2))


def test_one_large_number_does_not_set_the_scale_of_all(texts, tmp_path, monkeypatch):
    weights = random_weights(1)
    weights[OUTLIER] /= 200  # as in a trained model, where what is large does not count more
    graph = graph_of([product("only", "looked_up", "weights", "result")], weights=weights)
    damped = lost(tmp_path, graph, texts)
    monkeypatch.setattr(graph_forms, "_DAMPING", 0.0)
    assert damped < lost(tmp_path, graph, texts) / 3


def test_large_numbers_are_multiplied_apart_where_many_make_few(texts, tmp_path, monkeypatch):
    weights = random_weights(1)[:, : WIDTH // 4].copy()  # the large one counts, and so damping it would cost as much
    graph = graph_of([product("only", "looked_up", "weights", "result")], columns=WIDTH // 4, weights=weights)
    apart = lost(tmp_path, graph, texts)
    kinds = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    assert (kinds.count("MatMul"), kinds.count("MatMulInteger")) == (1, 1)
    monkeypatch.setattr(graph_forms, "_OUTLIERS", 0)
    assert apart < lost(tmp_path, graph, texts) / 3


def test_weights_of_two_products_are_damped_for_neither(texts, tmp_path):
    nodes = [product("first", "looked_up", "weights", "between"), product("second", "between", "weights", "result")]
    path = tmp_path / "exact.onnx"
    graph = graph_of(nodes, weights=random_weights(1))
    onnx.save(graph, path)
    graph_forms.quantise(path, tmp_path / "int8.onnx", texts)
    names = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    assert names.count("MatMulInteger") == 2
    for exact, int8 in zip(run(path, texts), run(tmp_path / "int8.onnx", texts), strict=True):
        assert np.corrcoef(exact.ravel(), int8.ravel())[0, 1] > 0.99


def test_numbers_of_two_products_are_damped_for_both(texts, tmp_path, monkeypatch):
    nodes = [
        product("left", "looked_up", "of the left", "one"),
        product("right", "looked_up", "of the right", "other"),
        helper.make_node("Add", ["one", "other"], ["result"]),
    ]
    left, right = random_weights(1), random_weights(2)
    left[OUTLIER] /= 200
    right[OUTLIER] /= 200
    graph = graph_of(nodes, **{"of the left": left, "of the right": right})
    damped = lost(tmp_path, graph, texts)
    monkeypatch.setattr(graph_forms, "_DAMPING", 0.0)
    assert damped < lost(tmp_path, graph, texts) / 3


def test_a_graph_takes_one_text_a_run(texts, tmp_path):
    graph = graph_of([product("only", "looked_up", "weights", "result")], weights=random_weights(1))
    lost(tmp_path, graph, texts)
    session = onnxruntime.InferenceSession(str(tmp_path / "int8.onnx"), providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="Got: 2 Expected: 1"):
        session.run(None, {"input_ids": np.zeros((2, 4), dtype=np.int64)})


def test_the_process_logs_as_before(tmp_path, texts, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    graph = graph_of([product("a", "looked_up", "w", "result")], w=random_weights(1))
    lost(tmp_path, graph, texts)
    assert logging.root.handlers == []
