"""Which graphs a tuned folder holds, and which engine serves: read from its manifest, without any framework."""

import hashlib
import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.files import sha256_of

logger = logging.getLogger(__name__)

EngineName = Literal["torch", "onnx", "onnx-int8"]
AUTO = "auto"
ENVIRONMENT_VARIABLE = "EMBTUNE_ENGINE"
# Processor flags of instructions that multiply int8 and add up in int32. An x86 processor's older instructions overflow
# in int16: on one with AVX2 alone vectors were six times as far from fp32's (1 - cosine .004 instead of .0007), and
# chunks embedded only 1.35 times as fast.
_INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "asimddp"})


@dataclass(frozen=True)
class Graph:
    """A model in the form that onnxruntime runs, pooling and normalisation inside.

    Attributes:
        engine: "onnx" (fp32) or "onnx-int8".
        path: Where it is; its weights are beside it, in a file that onnxruntime maps into memory.
        sha256: Of both files, when they were written.
    """

    engine: EngineName
    path: Path
    sha256: str

    @property
    def is_quantised(self) -> bool:
        """Whether its vectors are near the model's, and not equal to them."""
        return self.engine == "onnx-int8"

    def refuse_changed(self) -> None:
        """Raise ModelFolderError if it is missing, or is not what was written."""
        remedy = f"copy the folder again, or run: embtune export {self.path.parent.parent}"
        try:
            found = graph_sha256(self.path)
        except OSError as error:
            raise ModelFolderError(f"{self.path}: cannot be read ({error.strerror}); {remedy}") from error
        if found != self.sha256:
            raise ModelFolderError(
                f"{self.path}: not the graph that was exported (sha256 {found[:12]}…, written as "
                f"{self.sha256[:12]}…): half-copied or changed; {remedy}"
            )


def graph_files(path: Path) -> list[Path]:
    """List the files of a graph: itself, and its weights, unless it is so small that it holds them."""
    weights = path.with_name(f"{path.name}.data")
    return [path, weights] if weights.exists() else [path]


def graph_sha256(path: Path) -> str:
    """Hash a graph with its weights: hex sha256."""
    sums = [sha256_of(file) for file in graph_files(path)]
    return hashlib.sha256(" ".join(sums).encode()).hexdigest()


def import_onnxruntime() -> Any:
    """Import onnxruntime without its telemetry: since 1.29 it keeps events with a device's id in the user's cache.

    Where the host has imported it before, that is the host's to tell.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def graphs_of(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Graph]:
    """List a tuned folder's graphs: engine -> graph; none where nothing was exported."""
    recorded = manifest.get("serving", {}).get("graphs", {})
    return {engine: Graph(engine, folder / entry["file"], entry["sha256"]) for engine, entry in recorded.items()}


def choose_graph(folder: Path, manifest: Mapping[str, Any], wanted: str, *, torch_only: str = "") -> Graph | None:
    """Tell which graph serves a tuned folder; None where sentence-transformers does.

    Args:
        folder: A tuned folder.
        manifest: Its manifest.
        wanted: "torch", "onnx" or "onnx-int8" to insist on one; "auto" takes what the export decided where all
            that it needs is here, int8 only on a processor that multiplies in it, and sentence-transformers else.
        torch_only: What the caller asked for that only sentence-transformers can do; empty if nothing.

    Raises:
        ModelFolderError: If `wanted` is not known, or cannot be had.
    """
    if wanted not in (AUTO, *get_args(EngineName)):
        raise ModelFolderError(
            f"engine {wanted!r}: no such engine; set {ENVIRONMENT_VARIABLE} to one of "
            f"{', '.join((AUTO, *get_args(EngineName)))}"
        )
    if wanted == "torch":
        return None
    graphs = graphs_of(folder, manifest)
    if wanted == AUTO:
        return None if torch_only else _recorded_choice(manifest, graphs)
    if torch_only:
        raise ModelFolderError(f"engine {wanted!r} runs on the processor alone, and {torch_only} was asked for")
    if wanted not in graphs:
        raise ModelFolderError(f"{folder}: holds no graph for engine {wanted!r}; run: embtune export {folder}")
    if missing := _missing_packages():
        raise ModelFolderError(f"engine {wanted!r} needs {missing}; run: pip install {missing}")
    if graphs[wanted].is_quantised and not multiplies_int8():
        logger.warning(
            "engine %s: this processor's int8 products overflow, so that vectors are further from the model's than "
            "those that were validated; %s=onnx is exact",
            wanted,
            ENVIRONMENT_VARIABLE,
        )
    return graphs[wanted]


def _recorded_choice(manifest: Mapping[str, Any], graphs: Mapping[str, Graph]) -> Graph | None:
    graph = graphs.get(manifest.get("serving", {}).get("engine", ""))
    if graph is None:
        return None
    if missing := _missing_packages():
        logger.info("%s is not installed; sentence-transformers serves instead", missing)
        return None
    return graphs["onnx"] if graph.is_quantised and not multiplies_int8() else graph


def multiplies_int8() -> bool:
    """Tell whether this processor has instructions for int8 products: AVX512-VNNI, AVX-VNNI, or ARM's dot product."""
    if platform.system() == "Darwin":
        return platform.machine() == "arm64"
    try:
        information = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    lines = (line for line in information.splitlines() if line.lower().startswith(("flags", "features")))
    return bool(_INT8_FLAGS & set(next(lines, "").split()))


def wanted_engine(option: str | None) -> str:
    """Tell which engine was asked for: by the option, by the environment variable, or not at all."""
    return option or os.environ.get(ENVIRONMENT_VARIABLE) or AUTO


def _missing_packages() -> str:
    return " ".join(name for name in ("onnxruntime", "tokenizers") if find_spec(name) is None)
