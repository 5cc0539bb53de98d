"""Embed with onnxruntime and tokenizers alone, without torch in the serving process.

Pooling and normalisation are inside the graph, which `exporting/export.py` writes. What is left to do here is to
tokenise texts, group them by length, and run the graph.
"""

import ctypes
import math
import os
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.serving.batching import batches_within
from docsgpt_embtune.serving.graphs import ENVIRONMENT_VARIABLE, Graph, import_onnxruntime
from docsgpt_embtune.static_model import beginnings_with
from docsgpt_embtune.tokenizer import load_tokenizer, text_preparation
from docsgpt_embtune.vectors import Vectors

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Encoding


# Tokens in one run, padding included. MiniLM on one core embeds 20 chunks a second in runs of 1 to 512 tokens, 19 in
# runs of 1024, 17 of 2048, 14 of 8192.
TOKENS_PER_RUN = 512
# In onnxruntime 1.32 a chunk's six fused nodes take 2.4 ms, the additions and normalisations that they replace 0.5 ms.
_SLOWER_FUSIONS = ["SkipLayerNormFusion"]
# Files with a container's share of the processors, as a quota and its period, in cgroup v2 and v1.
CONTAINER_QUOTAS = (
    (Path("/sys/fs/cgroup/cpu.max"),),
    (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")),
)
_TEXTS_AT_ONCE = 2048  # tokenised and sorted by length together; bounds the memory


class OnnxEngine:
    """A graph and its tokenizer; safe to use from any number of threads and in forked children.

    A question is computed by all cores together. Many chunks are computed in parallel, one run per core: cores that
    need not wait for each other after every step get more done, and the advantage grows with their number.

    Args:
        folder: A tuned folder.
        graph: One of its graphs.
        max_seq_length: Tokens that are read of a text, special tokens included.

    Attributes:
        dimension: Width of the vectors.

    Raises:
        ModelFolderError: If the graph is missing or was changed, or onnxruntime cannot load it.
    """

    def __init__(self, folder: Path, graph: Graph, *, max_seq_length: int) -> None:
        self._prepare = text_preparation(folder)
        self._tokenizer = load_tokenizer(folder)
        self._tokenizer.enable_truncation(max_seq_length)
        self._max_seq_length = max_seq_length
        # int8 scales by the largest number in the run: texts in one run would influence each other's vectors.
        self._tokens_per_run = 1 if graph.is_quantised else TOKENS_PER_RUN
        self._graph = graph
        self._opening = threading.Lock()
        self._cores = _cores()
        session = _open_session(graph, self._cores)
        self._sessions = {self._cores: session}  # by the number of cores per run
        self._inputs = [value.name for value in session.get_inputs()]
        self.dimension = int(session.get_outputs()[0].shape[-1])
        _engines.add(self)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Embed texts: (N, D) float32, in order, unit norm."""
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            some = [self._prepare(text) for text in texts[start : start + _TEXTS_AT_ONCE]]
            encodings = self._tokenizer.encode_batch(beginnings_with(self._max_seq_length, some))
            runs = list(batches_within(self._tokens_per_run, [len(encoding) for encoding in encodings]))
            found = self._run_all([[encodings[row] for row in rows] for rows in runs])
            for rows, result in zip(runs, found, strict=True):
                vectors[[start + row for row in rows]] = result
        return vectors

    def _run_all(self, runs: "Sequence[Sequence[Encoding]]") -> list[Vectors]:
        if self._cores == 1 or len(runs) < self._cores:
            session = self._open(self._cores)
            return [self._run(session, encodings) for encodings in runs]
        session = self._open(1)
        with ThreadPoolExecutor(self._cores) as pool:
            return list(pool.map(partial(self._run, session), runs))

    def _run(self, session: "InferenceSession", encodings: "Sequence[Encoding]") -> Vectors:
        vectors: Vectors = session.run(None, graph_inputs(self._inputs, encodings))[0]
        return vectors

    def _open(self, cores: int) -> "InferenceSession":
        session = self._sessions.get(cores)
        if session is None:  # for the first call with many chunks, or in a forked child
            with self._opening:
                session = self._sessions.get(cores) or self._open_anew(cores)
                self._sessions[cores] = session
        return session

    def _open_anew(self, cores: int) -> "InferenceSession":
        try:
            return _open_session(self._graph, cores)
        except ModelFolderError:
            if not self._sessions:
                raise
            # The folder was replaced: the session that is loaded goes on serving, with all cores on each run.
            return self._sessions[self._cores]

    def _forget_parents_sessions(self) -> None:
        """Drop the sessions in a forked child, without destroying them.

        Their threads exist only in the parent: a run would wait for them forever, and so would the destructor.
        """
        self._opening = threading.Lock()
        for session in self._sessions.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
        self._sessions = {}


def graph_inputs(names: Sequence[str], encodings: "Sequence[Encoding]") -> dict[str, npt.NDArray[np.int64]]:
    """Return the padded input arrays of one run: input name -> (texts, tokens of the longest)."""
    longest = max(len(encoding) for encoding in encodings)
    feed = {name: np.zeros((len(encodings), longest), dtype=np.int64) for name in names}
    for row, encoding in enumerate(encodings):
        # The padding token's id does not matter, since the attention mask hides it.
        tokens = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        for name in names:
            feed[name][row, : len(encoding)] = tokens[name]
    return feed


def _open_session(graph: Graph, cores: int) -> "InferenceSession":
    onnxruntime = import_onnxruntime()
    graph.refuse_changed()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    options.log_severity_level = 3  # errors only: nobody can act on its warnings
    try:
        session: InferenceSession = onnxruntime.InferenceSession(
            str(graph.path), options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOWER_FUSIONS
        )
    except Exception as error:  # onnxruntime raises a dozen classes with no common base but Exception
        raise ModelFolderError(
            f"{graph.path}: onnxruntime {onnxruntime.__version__} cannot load it ({error}); "
            f"run: embtune export {graph.path.parent.parent}, or set {ENVIRONMENT_VARIABLE}=torch"
        ) from error
    return session


def _cores() -> int:
    """Return how many cores this process may use; DocsGPT's image limits them by OMP_NUM_THREADS.

    With a quota of half a core, a question took twice as long on two threads as on one: those that wait spin it away.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in CONTAINER_QUOTAS:
        with suppress(OSError, ValueError):  # no such file, or "max"
            quota, period = (int(number) for file in files for number in file.read_text().split())
            if quota > 0:  # -1 says that there is none
                available = min(available, math.ceil(quota / period))
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(available, int(wanted)) if wanted.isdigit() and int(wanted) else available


_engines: "weakref.WeakSet[OnnxEngine]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for engine in list(_engines):
        engine._forget_parents_sessions()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
