"""Write the serving engine's graphs into a tuned folder, and verify that they reproduce the model's vectors."""

import json
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from docsgpt_embtune.data.dataset import RetrievalDataset, refuse_no_dataset
from docsgpt_embtune.data.split import groups_by_answer
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.evaluation.decision import Decision
from docsgpt_embtune.evaluation.verdict import FEWEST_TO_JUDGE
from docsgpt_embtune.exporting.graph_forms import fused, import_onnx, quantise, save
from docsgpt_embtune.exporting.quality import decide_engine, decide_reading
from docsgpt_embtune.files import PUBLIC, folder_written_whole
from docsgpt_embtune.loading import load_model
from docsgpt_embtune.manifest import Manifest, ServingRecord, write_manifest
from docsgpt_embtune.model_folder import verify
from docsgpt_embtune.positions import possible_length
from docsgpt_embtune.seen_questions import with_chosen_by_too, without_learned
from docsgpt_embtune.serving.graphs import EngineName, Graph, graph_sha256, import_onnxruntime, multiplies_int8
from docsgpt_embtune.serving.onnx_engine import OnnxEngine
from docsgpt_embtune.serving.reading import Reading, Windows
from docsgpt_embtune.static_model import UNLIMITED, is_static, with_padded_tokens
from docsgpt_embtune.tokenizer import load_tokenizer
from docsgpt_embtune.wording import Say, counted, silent

if TYPE_CHECKING:
    from onnx import ModelProto
    from sentence_transformers import SentenceTransformer
    from tokenizers import Encoding

FOLDER = "onnx"
TOLERANCE = 1e-4  # per component of a vector; summing in another order changes fp32 results by less
_CALIBRATION_TEXTS, _CALIBRATION_TOKENS = 48, 256
_OPSET = 17  # supported by every onnxruntime since 1.13
_USUAL_LIMIT = 512  # tokens; attention over more costs more than windows do, so more is read only on request
_PROBES = (
    "How do I rotate the log files?",
    "x",
    "ünïcödé, 数据, 🙂 and CAPITAL letters",
    "A longer text, cut off where the model's reading ends. " * 60,
)


@dataclass(frozen=True)
class ExportReport:
    """Result of an export.

    Attributes:
        graphs: The written graphs: fp32, and int8 unless the model is static, which int8 would not speed up.
        engine: Engine that serves from now on.
        reading: How chunks are read from now on.
        reading_before: How chunks were read before.
        decisions: Decisions on reading and engine, with the measurements; empty without validation questions.
    """

    graphs: tuple[Graph, ...]
    engine: EngineName
    reading: Reading
    reading_before: Reading
    decisions: tuple[Decision, ...]

    def __str__(self) -> str:
        """Return what the command prints."""
        from docsgpt_embtune.exporting.summary import summary

        return summary(self)

    __repr__ = __str__  # a notebook shows what a cell ends with, which would be all scores of all questions


def export(
    folder: str | Path,
    validation: RetrievalDataset | None = None,
    *,
    windows: Windows | None = None,
    max_seq_length: int | None = None,
    say: Say = silent,
) -> ExportReport:
    """Write an fp32 and an int8 graph beside a tuned folder's weights, and record which of them serves.

    A static model gets no int8 graph. The folder's fingerprint does not change: the graphs are other forms of its
    weights, with their own checksums in the manifest. int8 serves only if the validation questions show that it loses
    nothing that matters. Chunks are read in windows, or at a greater length, only if these questions gain by it.

    Args:
        folder: A tuned folder.
        validation: Questions to decide by; they cannot serve as test questions afterwards. Some may be questions that
            the model learned from.
        windows: "off" or "mean" to override validation.
        max_seq_length: Tokens to read at a time, to override validation.
        say: Takes one line of plain text before each stage.

    Raises:
        ModelFolderError: If the folder is incomplete, the model cannot be exported, or a graph gives other vectors.
        EvaluationError: If a graph gives unusable vectors on the validation questions.
    """
    refuse_no_dataset(validation=validation)
    if windows not in (None, *get_args(Windows)):  # it would be written, and no later call could read the folder
        raise ValueError(f"windows must be {', '.join(get_args(Windows))} or None; got {windows!r}")
    folder = Path(folder).expanduser().resolve()
    manifest = verify(folder)
    model = _load(folder)
    recorded = Reading.of(manifest)
    reading = Reading(max_seq_length or recorded.max_seq_length, windows or recorded.windows)
    _refuse_reading(folder, manifest, model, reading, max_seq_length)
    others = _other_readings(manifest, model, reading, max_seq_length) if windows is None else []
    learned = False
    if validation is not None:
        validation, learned = _new_to_the_model(validation, manifest, say)
    say("writing the graphs")
    with _graphs_beside(model, folder, reading.max_seq_length) as graphs:  # moved into the folder at the end
        engine: EngineName = "onnx"
        decisions: tuple[Decision, ...] = ()
        if validation is not None:
            reading, engine, decisions = _decide(folder, graphs, reading, others, validation, say, learned_from=learned)
    written = tuple(replace(graph, path=folder / FOLDER / graph.path.name) for graph in graphs)
    report = ExportReport(written, engine, reading, recorded, decisions)
    if validation is not None:
        manifest = with_chosen_by_too(manifest, validation)
    _record(folder, manifest, report)
    return report


def _other_readings(
    manifest: Manifest, model: "SentenceTransformer", reading: Reading, max_seq_length: int | None
) -> list[Reading]:
    """List the alternative ways of reading chunks to try.

    There are none with a query adapter, because stored chunk vectors must stay as they are, nor for a static model,
    which reads every chunk to its end.
    """
    if "query_adapter" in manifest or is_static(model):
        return []
    usual = manifest["max_seq_length"]
    furthest = max_seq_length or max(usual, min(possible_length(model) or usual, _USUAL_LIMIT))
    lengths = sorted({max_seq_length or usual, reading.max_seq_length, furthest})
    every = [Reading(length, kind) for kind in get_args(Windows) for length in lengths]
    return [each for each in every if each != reading]


def _new_to_the_model(validation: RetrievalDataset, manifest: Manifest, say: Say) -> tuple[RetrievalDataset, bool]:
    """Leave out the questions that the model learned from, unless too few others remain.

    Returns:
        The questions to decide by, and whether the model learned from some of them.
    """
    new = without_learned(validation, manifest)
    learned = len(validation) - len(new)
    if not learned:
        return validation, False
    if len(groups_by_answer(new)) < FEWEST_TO_JUDGE:
        return validation, True
    say(f"left out    {counted(learned, 'question')} that the model learned from")
    return new, False


def _decide(
    folder: Path,
    graphs: Sequence[Graph],
    reading: Reading,
    others: Sequence[Reading],
    validation: RetrievalDataset,
    say: Say,
    *,
    learned_from: bool,
) -> tuple[Reading, EngineName, tuple[Decision, ...]]:
    """Choose how chunks are read, if there are alternatives, and then the engine, if there is an int8 graph."""
    decisions = []
    engine: EngineName = "onnx"
    exact, *quantised = graphs
    with tempfile.TemporaryDirectory(prefix="embtune-vectors-") as kept:
        if others:
            say("measuring how to read long chunks")
            reading, about_reading = decide_reading(folder, exact, reading, others, validation, Path(kept))
            decisions.append(about_reading)
        for graph in quantised:
            overflows = "" if multiplies_int8() else ", more than where it serves: this processor's products overflow"
            say(f"measuring what int8 costs{overflows}")
            engine, about_engine = decide_engine(
                folder, exact, graph, reading, validation, Path(kept), learned_from=learned_from
            )
            decisions.append(about_engine)
    return reading, engine, tuple(decisions)


def _refuse_reading(
    folder: Path,
    manifest: Manifest,
    model: "SentenceTransformer",
    reading: Reading,
    max_seq_length: int | None,
) -> None:
    if max_seq_length is not None:
        _check_length(folder, max_seq_length, possible_length(model) or manifest["max_seq_length"])
    if "query_adapter" in manifest and reading != (recorded := Reading.of(manifest)):
        raise ModelFolderError(
            f"{folder}: has a query adapter, for which stored chunks stay as they are ({recorded} is read of each); "
            "leave out --windows and --max-seq-length, or give them to the export of the model that it was made for, "
            "embed the chunks again, and adapt that"
        )


def _check_length(folder: Path, wanted: int, possible: int) -> None:
    if possible == UNLIMITED:
        raise ModelFolderError(
            f"{folder}: is a static model, which reads every text whole and not {wanted} tokens at a time; leave out "
            "--max-seq-length"
        )
    if not 8 <= wanted <= possible:
        raise ModelFolderError(
            f"{folder}: cannot read {wanted} tokens at a time, its position embeddings allow 8 to {possible}; set "
            "--max-seq-length to one of these"
        )


def _architecture(folder: Path) -> dict[str, Any]:
    """Read the transformer's `config.json`; empty for a static model, which has none."""
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return config


@contextmanager
def _graphs_beside(model: "SentenceTransformer", folder: Path, max_seq_length: int) -> Iterator[list[Graph]]:
    """Trace the model, quantise the graph, and move both into the folder if the block ends without an error.

    Until then the folder keeps its old graphs, so that an interrupted export leaves no graphs that the manifest does
    not name. A static model has no matrix products that int8 would speed up, so its graph is not quantised.
    """
    with folder_written_whole(folder / FOLDER) as partial:
        paths: dict[EngineName, Path] = {"onnx": partial / "model.onnx"}
        if not is_static(model):
            model.max_seq_length = max_seq_length
        _write_exact(model, folder, paths["onnx"], max_seq_length)
        if not is_static(model):
            paths["onnx-int8"] = partial / "model_int8.onnx"
            quantise(paths["onnx"], paths["onnx-int8"], _calibration(folder, max_seq_length))
        for path in partial.iterdir():  # onnx writes weights with mode 0600, but a container may run as another user
            path.chmod(PUBLIC)
        yield [Graph(engine, path, graph_sha256(path)) for engine, path in paths.items()]


def _write_exact(model: "SentenceTransformer", folder: Path, path: Path, max_seq_length: int) -> None:
    """Write the fused graph, or the graph as traced if the fused one does not reproduce the model's vectors."""
    expected = model.encode(list(_PROBES), batch_size=1, show_progress_bar=False)  # (probes, D)
    traced = path.with_name("traced.onnx")
    _trace(with_padded_tokens(model).eval(), traced)
    for form in (lambda graph: fused(graph, _architecture(folder)), import_onnx().load):
        save(_of_width(form(traced), expected.shape[1]), path)
        graph = Graph("onnx", path, graph_sha256(path))
        given = OnnxEngine(folder, graph, max_seq_length=max_seq_length).encode(_PROBES)
        if np.allclose(given, expected, rtol=0, atol=TOLERANCE):
            traced.unlink()
            return
    raise ModelFolderError(
        f"{folder}: the graph's vectors differ from the model's by {np.abs(given - expected).max():.1e}; "
        "this model cannot be exported, sentence-transformers goes on serving it"
    )


def _of_width(graph: "ModelProto", width: int) -> "ModelProto":
    """Write the vectors' width into a graph: tracing does not find it out where one token's vector is taken (CLS)."""
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = width
    return graph


def _calibration(folder: Path, max_seq_length: int) -> "list[Encoding]":
    """Tokenize texts that show which activations of the model get large.

    Any texts do, as the same few activations of a layer are large whatever is read. Calibrated on Python's
    documentation, int8 came as near to fp32 on health agencies' pages and on German articles as when calibrated on
    those texts themselves.
    """
    from pydoc_data.topics import topics

    tokenizer = load_tokenizer(folder)
    tokenizer.enable_truncation(min(max_seq_length, _CALIBRATION_TOKENS))
    chunks: list[Encoding] = tokenizer.encode_batch([*topics.values()][:_CALIBRATION_TEXTS])
    return chunks


def _load(folder: Path) -> "SentenceTransformer":
    if not (folder / "tokenizer.json").is_file():
        raise ModelFolderError(
            f"{folder}: has no tokenizer.json, which the tokenizers package needs; tune a base model that has one"
        )
    import_onnx()  # fails before the long work, not after it
    import_onnxruntime()  # its tools import it, too, and would leave its telemetry on
    # The other attention implementations branch at run time, which a trace cannot represent.
    return load_model(folder, device="cpu", model_kwargs={"attn_implementation": "eager"}).eval()


def _trace(model: "SentenceTransformer", path: Path) -> None:
    import torch

    class Graphed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tokens: torch.Tensor) -> torch.Tensor:
            features = dict(zip(inputs, tokens, strict=True))
            vectors: torch.Tensor = self.model(features)["sentence_embedding"]
            return vectors

    example = dict(model.tokenizer(["two texts", "of different length"], padding=True, return_tensors="pt"))
    inputs = list(example)
    with warnings.catch_warnings(), torch.inference_mode():
        # Compared with torch.export's, the traced graph is smaller, as fast, and written in a tenth of the time.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Graphed(),
            tuple(example.values()),
            str(path),
            dynamo=False,
            opset_version=_OPSET,
            input_names=inputs,
            output_names=["sentence_embedding"],
            dynamic_axes={
                **{name: {0: "texts", 1: "tokens"} for name in inputs},
                "sentence_embedding": {0: "texts"},
            },
        )


def _record(folder: Path, manifest: Manifest, report: ExportReport) -> None:
    serving: ServingRecord = {
        "engine": report.engine,
        "reading": report.reading.to_dict(),
        "graphs": {
            graph.engine: {"file": graph.path.relative_to(folder).as_posix(), "sha256": graph.sha256}
            for graph in report.graphs
        },
        "decisions": [decision.to_dict() for decision in report.decisions],
    }
    write_manifest(folder, {**manifest, "serving": serving})
