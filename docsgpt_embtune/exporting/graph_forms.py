"""Transformations of a traced graph: operator fusion for speed, and int8 quantisation that stays close to fp32."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.serving.graphs import import_onnxruntime
from docsgpt_embtune.serving.onnx_engine import graph_inputs

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto
    from tokenizers import Encoding

_PRODUCTS = ("MatMul", "Attention")  # operators that multiply their first input by the weights in their second
_ATTENTION_MASK = 3  # index of the mask among Attention's inputs; optional
# Chosen on all-MiniLM-L6-v2's vectors of 120 chunks and 150 training questions of feedbackqa: 1 - cosine is .0047 and
# .0058 with neither damping nor separate outliers, .0016 and .0014 with damping, .0007 and .0008 with both.
_USUAL_SHARE = 0.75  # quantile of an input's channel maxima; channels with a larger maximum are damped
_DAMPING = 0.75  # exponent of the damping factor: 0 leaves a channel as it is, 1 brings it down to the quantile
_OUTLIERS = 8  # input channels that are multiplied separately in fp32, where that takes little time
_APART = "_apart"  # name suffix of a product of outlier channels


def fused(path: Path, architecture: Mapping[str, Any]) -> "ModelProto":
    """Replace the thirty operators of a layer's attention by one.

    fp32 gains little, because matrix products at a core's peak speed take 80 % of a chunk's time. In int8,
    all-MiniLM-L6-v2 embeds a question in three quarters of the time.

    Args:
        path: A traced graph.
        architecture: The model's `config.json`. If the model is not built like BERT, nothing is fused.
    """
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    # These two fused operators are slower than the ones they replace, the first nine times (onnxruntime 1.32, AVX512).
    options.enable_skip_layer_norm = options.enable_bias_gelu = False
    options.enable_gelu = False  # onnxruntime fuses it at load time, together with the sum before it
    with _without_advice():
        optimised = optimize_model(
            str(path),
            "bert",
            num_heads=architecture.get("num_attention_heads", 0),
            hidden_size=architecture.get("hidden_size", 0),
            optimization_options=options,
            opt_level=0,
        )
    graph: ModelProto = optimised.model
    return graph


def save(graph: "ModelProto", path: Path) -> None:
    """Write a graph, with its weights in a separate file that onnxruntime maps into memory.

    Only the rows of the embedding table that are used are then in memory, shared by all processes: all-MiniLM-L6-v2
    takes 50 MB less, and loads in three quarters of the time.
    """
    from onnxruntime.transformers.onnx_model import OnnxModel

    OnnxModel.save(graph, str(path), save_as_external_data=True)


def quantise(exact: Path, quantised: Path, calibration: "Sequence[Encoding]") -> None:
    """Write an int8 graph that takes one text per run.

    Args:
        exact: The fp32 graph.
        quantised: Path of the graph to write.
        calibration: Texts that show which activations get large.
    """
    onnx = import_onnx()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(exact)
    apart = _tame_outliers(graph, _largest_inputs(exact, calibration))
    _drop_padding(graph)
    # Weights get one scale per output column; one scale for a whole matrix loses ten times as much. Embedding tables
    # stay in fp32: nothing is multiplied there, and quantising them caused a sixth of the loss. DefaultTensorType must
    # be given because onnx does not know the output types of onnxruntime's own operators.
    with _without_advice():
        quantize_dynamic(
            graph,
            quantised,
            op_types_to_quantize=list(_PRODUCTS),
            nodes_to_exclude=apart,
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )


def _largest_inputs(exact: Path, texts: "Sequence[Encoding]") -> dict[str, npt.NDArray[np.float32]]:
    """Run texts through an fp32 graph: input of a product -> largest absolute value of each channel, (width,)."""
    onnx = import_onnx()
    onnxruntime = import_onnxruntime()
    graph = onnx.load(exact, load_external_data=False)
    names = sorted({product.input[0] for product in _products(graph)})
    if not names:  # no product has weights of its own
        return {}
    graph.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    watched = exact.with_name("watched.onnx")  # in the same folder, where the external weights are
    onnx.save_model(graph, watched)
    try:
        session = onnxruntime.InferenceSession(str(watched), providers=["CPUExecutionProvider"])
    finally:
        watched.unlink()
    inputs = [value.name for value in session.get_inputs()]
    largest: dict[str, npt.NDArray[np.float32]] = {}
    for text in texts:
        for name, numbers in zip(names, session.run(names, graph_inputs(inputs, [text])), strict=True):
            sizes = np.abs(numbers).max(axis=tuple(range(numbers.ndim - 1)))
            largest[name] = np.maximum(largest.get(name, 0), sizes)
    return largest


def _tame_outliers(graph: "ModelProto", largest: Mapping[str, npt.NDArray[np.float32]]) -> list[str]:
    """Keep outlier channels from setting the scale by which all activations of a text are rounded to 256 steps.

    In a transformer a few channels are twenty times as large as the others. They are divided by a factor by which their
    weights are multiplied (as in SmoothQuant, Xiao et al., 2023). In products with more inputs than outputs, where it
    takes little time, the largest are multiplied separately in fp32 instead (as in LLM.int8(), Dettmers et al., 2022):
    half of int8's loss occurs there.

    Args:
        graph: An fp32 graph, changed in place.
        largest: Input of a product -> largest absolute value of each channel, (width,).

    Returns:
        Names of the products that must stay in fp32.
    """
    weights = {weight.name: weight for weight in graph.graph.initializer}
    results = {product.output[0] for product in _products(graph)}
    nodes: list[NodeProto] = []
    for node in graph.graph.node:
        if node.output[0] not in results:
            nodes.append(node)
            continue
        rewritten, constants = _without_outliers(node, weights[node.input[1]], largest[node.input[0]])
        nodes += rewritten
        graph.graph.initializer.extend(constants)
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return [node.name for node in nodes if node.name.endswith(_APART)]


def _without_outliers(
    product: "NodeProto", weight: "TensorProto", sizes: npt.NDArray[np.float32]
) -> "tuple[list[NodeProto], list[TensorProto]]":
    """Damp a product's outlier channels, or multiply the largest separately if it has more inputs than outputs.

    Args:
        product: A product, changed in place.
        weight: Its weights, (width, columns), changed in place.
        sizes: Largest absolute value of each input channel, (width,).

    Returns:
        The nodes that replace the product, and their constants.
    """
    onnx = import_onnx()
    numbers, result = product.input[0], product.output[0]
    matrix = onnx.numpy_helper.to_array(weight)
    usual = np.quantile(sizes, _USUAL_SHARE) or np.inf  # no damping if most channels are always zero
    factors = np.maximum(1, sizes / usual) ** _DAMPING
    inside = np.ones(len(sizes))
    after: list[NodeProto] = []
    constants: dict[str, npt.NDArray[Any]] = {}
    if product.op_type == "MatMul" and len(matrix) > matrix.shape[1]:
        outliers = np.argsort(-sizes)[:_OUTLIERS]
        inside[outliers] = 0
        name, taken, product.output[0] = result + _APART, f"{result}_taken", f"{result}_inside"
        constants |= {f"{name}_rows": outliers, f"{name}_weights": matrix[outliers]}
        after = [
            onnx.helper.make_node("Gather", [numbers, f"{name}_rows"], [taken], axis=-1),
            onnx.helper.make_node("MatMul", [taken, f"{name}_weights"], [name], name=name),
            onnx.helper.make_node("Add", [product.output[0], name], [result]),
        ]
    constants[f"{result}_damping"] = (inside / factors).astype(np.float32)
    product.input[0] = f"{result}_damped"
    damped = onnx.helper.make_node("Mul", [numbers, f"{result}_damping"], [product.input[0]])
    weight.CopyFrom(onnx.numpy_helper.from_array((matrix.T * inside * factors).T.astype(np.float32), weight.name))
    return [damped, product, *after], [onnx.numpy_helper.from_array(each, name) for name, each in constants.items()]


def _products(graph: "ModelProto") -> "list[NodeProto]":
    """List the products of activations with weights of their own, if the activations can have outliers.

    Attention's output has none, because it is a mean of values.
    """
    used = Counter(name for node in graph.graph.node for name in node.input)
    own = {weight.name for weight in graph.graph.initializer if len(weight.dims) == 2 and used[weight.name] == 1}
    means = {name for node in graph.graph.node if node.op_type == "Attention" for name in node.output}
    return [
        node
        for node in graph.graph.node
        if node.op_type in _PRODUCTS and node.input[1] in own and node.input[0] not in means
    ]


def _drop_padding(graph: "ModelProto") -> None:
    """Remove the padding mask from attention: int8 runs one text at a time (see `OnnxEngine`), without padding.

    The mask takes 6 % of a chunk's time. The graph's inputs are fixed to one text, so that nobody runs a batch.
    """
    for value in graph.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    for node in graph.graph.node:
        if node.op_type == "Attention":
            node.input[_ATTENTION_MASK] = ""


def import_onnx() -> Any:
    """Import onnx.

    Raises:
        ModelFolderError: If it is not installed; says how to install it.
    """
    try:
        import onnx
    except ImportError as error:
        raise ModelFolderError(
            f"onnx is needed to write the graphs ({error}); run: pip install 'docsgpt-embtune[train]'"
        ) from error
    return onnx


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silence the onnxruntime tools' advice to preprocess the graph, which gains nothing here."""
    nowhere = logging.NullHandler()
    logging.root.addHandler(nowhere)  # onnxruntime's calls of logging would set the process's logging up
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        logging.root.removeHandler(nowhere)
