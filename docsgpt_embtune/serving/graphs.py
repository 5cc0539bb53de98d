"""The graphs in a tuned folder, and the choice of the engine that serves; needs no deep learning framework."""

import hashlib
import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast, get_args

from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.files import sha256_of
from docsgpt_embtune.manifest import Manifest

logger = logging.getLogger(__name__)

EngineName = Literal["torch", "onnx", "onnx-int8"]
AUTO = "auto"
ENVIRONMENT_VARIABLE = "EMBTUNE_ENGINE"
# Processor flags of instructions that multiply int8 and accumulate in int32. Older x86 instructions overflow in int16:
# on a processor with AVX2 alone, vectors were six times as far from the fp32 ones (1 - cosine .004 instead of .0007),
# and chunks were embedded only 1.35 times as fast.
_INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "asimddp"})


@dataclass(frozen=True)
class Graph:
    """A model as a graph for onnxruntime, pooling and normalisation included.

    Attributes:
        engine: "onnx" (fp32) or "onnx-int8".
        path: The graph's file; its weights are in a file beside it, which onnxruntime maps into memory.
        sha256: Hash of both files when they were written.
    """

    engine: EngineName
    path: Path
    sha256: str

    @property
    def is_quantised(self) -> bool:
        """Whether the graph is quantised, so that its vectors only approximate the model's."""
        return self.engine == "onnx-int8"

    def refuse_changed(self) -> None:
        """Raise ModelFolderError if the graph is missing, or differs from the one that was written."""
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
    """List the files of a graph: the graph itself, and its weights, unless a small graph contains them."""
    weights = path.with_name(f"{path.name}.data")
    return [path, weights] if weights.exists() else [path]


def graph_sha256(path: Path) -> str:
    """Hash a graph together with its weights: hex sha256."""
    sums = [sha256_of(file) for file in graph_files(path)]
    return hashlib.sha256(" ".join(sums).encode()).hexdigest()


def import_onnxruntime() -> Any:
    """Import onnxruntime without its telemetry, which since 1.29 keeps events with a device id in the user's cache.

    If the host has imported onnxruntime before, the host's setting decides.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def graphs_of(folder: Path, manifest: Manifest) -> dict[str, Graph]:
    """List a tuned folder's graphs: engine -> graph; empty if nothing was exported."""
    recorded = manifest.get("serving", {}).get("graphs", {})
    return {
        engine: Graph(cast("EngineName", engine), folder / entry["file"], entry["sha256"])
        for engine, entry in recorded.items()
    }


def choose_graph(folder: Path, manifest: Manifest, wanted: str, *, torch_only: str = "") -> Graph | None:
    """Choose the graph that serves a tuned folder; None if sentence-transformers serves it.

    Args:
        folder: A tuned folder.
        manifest: The folder's manifest.
        wanted: "torch", "onnx" or "onnx-int8" to insist on an engine. "auto" takes the export's choice if its packages
            are installed, but int8 only if the processor multiplies int8, and else fp32; without an export or its
            packages it takes sentence-transformers.
        torch_only: A feature that the caller needs and only sentence-transformers has; empty if none.

    Raises:
        ModelFolderError: If `wanted` is unknown or not available.
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


def _recorded_choice(manifest: Manifest, graphs: Mapping[str, Graph]) -> Graph | None:
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
    """Return the engine that the option or else the environment variable asks for; "auto" if neither does."""
    return option or os.environ.get(ENVIRONMENT_VARIABLE) or AUTO


def _missing_packages() -> str:
    return " ".join(name for name in ("onnxruntime", "tokenizers") if find_spec(name) is None)
