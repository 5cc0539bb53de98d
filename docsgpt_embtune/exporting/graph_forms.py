"""The forms of a traced graph: fused, so that it runs faster, and quantised to int8, as near to fp32 as that gets."""

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
_ATTENTION_MASK = 3  # which of attention's inputs it is, and an optional one
# Of a product's numbers, those with a larger maximum than this share of them are made smaller, and by how much; and how
# many are taken out where that takes little time. Chosen on all-MiniLM-L6-v2's vectors of 120 chunks and 150 training
# questions of feedbackqa: 1 - cosine .0047 and .0058 with none of it, .0016 and .0014 damped, .0007 and .0008 with all.
_USUAL_SHARE = 0.75
_DAMPING = 0.75
_OUTLIERS = 8
_APART = "_apart"  # ends the name of a product of outliers


def fused(path: Path, architecture: Mapping[str, Any]) -> "ModelProto":
    """Put one operator in the place of the thirty that make up a layer's attention.

    In fp32 little is gained, 80 % of a chunk's time being matrix products at the peak of what a core can do. In int8
    all-MiniLM-L6-v2 answers a question in three quarters of the time.

    Args:
        path: A traced graph.
        architecture: The model's `config.json`. Of models that are not built as BERT is, nothing is fused.
    """
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    # These two operators are slower than the ones that they replace (onnxruntime 1.32, AVX512), the first nine times.
    options.enable_skip_layer_norm = options.enable_bias_gelu = False
    options.enable_gelu = False  # onnxruntime fuses it when it loads the graph, then with the sum before it
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
    """Write a graph, and its weights into a file beside it, from which onnxruntime maps them.

    Of an embedding table only the rows in use are then in memory, once for all processes: all-MiniLM-L6-v2 takes
    50 MB less, and is there in three quarters of the time.
    """
    from onnxruntime.transformers.onnx_model import OnnxModel

    OnnxModel.save(graph, str(path), save_as_external_data=True)


def quantise(exact: Path, quantised: Path, calibration: "Sequence[Encoding]") -> None:
    """Write a graph that multiplies in int8 and takes one text a run.

    Args:
        exact: The fp32 graph.
        quantised: Where to.
        calibration: Texts that show which numbers inside of the model get large.
    """
    onnx = import_onnx()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(exact)
    apart = _tame_outliers(graph, _largest_inputs(exact, calibration))
    _drop_padding(graph)
    # One scale for each output column: with one for a whole matrix the vectors lose ten times as much. Tables in which
    # tokens are looked up stay as they are: nothing is multiplied there, and a sixth of what was lost was theirs. The
    # type has to be told because onnx does not know what onnxruntime's own operators return.
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
    """Run texts through an fp32 graph: input of a product -> the largest size of each of its numbers, (width,)."""
    onnx = import_onnx()
    onnxruntime = import_onnxruntime()
    graph = onnx.load(exact, load_external_data=False)
    names = sorted({product.input[0] for product in _products(graph)})
    if not names:  # a token table
        return {}
    graph.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    watched = exact.with_name("watched.onnx")  # here, where the weights are
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
    """Keep the few numbers that get large from setting the scale in which all of a text's are rounded to 256 steps.

    In a transformer they are twenty times as large as the others. They are divided by a factor that their weights are
    multiplied by (the idea of SmoothQuant, Xiao et al., 2023). Where many numbers make few, and so it takes little
    time, the largest are multiplied apart (that of LLM.int8(), Dettmers et al., 2022): of what int8 loses, half is
    lost there.

    Args:
        graph: An fp32 graph, which is changed.
        largest: Input of a product -> the largest size of each of its numbers, (width,).

    Returns:
        Names of the products that are to stay in fp32.
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
    """Damp a product's outliers, or take them out of it: the nodes in its place, and their constants.

    Args:
        product: A product, which is changed.
        weight: Its weights, (width, columns), which are changed.
        sizes: The largest size of each of its numbers, (width,).
    """
    onnx = import_onnx()
    numbers, result = product.input[0], product.output[0]
    matrix = onnx.numpy_helper.to_array(weight)
    usual = np.quantile(sizes, _USUAL_SHARE) or np.inf  # nothing to go by where most are always zero
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
    """List the products of numbers with weights of their own whose numbers have outliers.

    What attention puts out has none: it is a mean of values.
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
    """Take out of attention what hides padding: int8 runs one text at a time (see `OnnxEngine`), which has none.

    It takes 6 % of a chunk's time. The graph's inputs then say that they hold one text, so that nobody runs more.
    """
    for value in graph.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    for node in graph.graph.node:
        if node.op_type == "Attention":
            node.input[_ATTENTION_MASK] = ""


def import_onnx() -> Any:
    """Import onnx, or raise ModelFolderError that says how to get it."""
    try:
        import onnx
    except ImportError as error:
        raise ModelFolderError(
            f"onnx is needed to write the graphs ({error}); run: pip install 'docsgpt-embtune[train]'"
        ) from error
    return onnx


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silence what onnxruntime's tools advise: preprocessing that gains nothing here."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
