"""Embed with onnxruntime and tokenizers alone: no torch in the process that serves.

Pooling and normalisation are inside the graph (`exporting/export.py` writes it), so that what is left is to cut texts
into tokens, to put texts of like length together, and to run.
"""

import ctypes
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.serving.graphs import ENVIRONMENT_VARIABLE, Graph, import_onnxruntime
from docsgpt_embtune.tokenizer import load_tokenizer, text_preparation
from docsgpt_embtune.vectors import Vectors

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Encoding


# Tokens in one run, padding included. MiniLM on one core, chunks a second: 20 in runs of 1 to 512 tokens, 19 of 1024,
# 17 of 2048, 14 of 8192.
TOKENS_PER_RUN = 512
# onnxruntime 1.32 takes 2.4 ms for a chunk's six of these, and .5 ms for the sums and norms that they replace.
_SLOWER_FUSIONS = ["SkipLayerNormFusion"]
_TEXTS_AT_ONCE = 2048  # cut into tokens and sorted by length together; bounds what lies in memory


class OnnxEngine:
    """A graph and its tokenizer, for any number of threads, and for the children of a fork.

    A question is computed by all cores together. Many chunks are computed side by side, one run on each core: cores
    that need not wait for each other after every step get more done, and the more of them the more.

    Args:
        folder: A tuned folder.
        graph: One of its graphs.
        max_seq_length: Tokens read of a text, special ones included.

    Attributes:
        dimension: Width of the vectors.

    Raises:
        ModelFolderError: If the graph is missing or another, or onnxruntime cannot load it.
    """

    def __init__(self, folder: Path, graph: Graph, *, max_seq_length: int) -> None:
        self._prepare = text_preparation(folder)
        self._tokenizer = load_tokenizer(folder)
        self._tokenizer.enable_truncation(max_seq_length)
        # int8 scales by the largest number of the whole run: a text's vector would depend on its neighbours'.
        self._tokens_per_run = 1 if graph.is_quantised else TOKENS_PER_RUN
        self._graph = graph
        self._opening = threading.Lock()
        self._cores = _cores()
        session = _open_session(graph, self._cores)
        self._sessions = {self._cores: session}  # by the cores that compute a run
        self._inputs = [value.name for value in session.get_inputs()]
        self.dimension = int(session.get_outputs()[0].shape[-1])
        _engines.add(self)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Embed texts: (N, D) float32, in order, unit norm."""
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            some = [self._prepare(text) for text in texts[start : start + _TEXTS_AT_ONCE]]
            encodings = self._tokenizer.encode_batch(some)
            runs = list(runs_of_like_length([len(encoding) for encoding in encodings], self._tokens_per_run))
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
        if session is None:  # the first of many chunks, or in a forked child
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
            # Another folder has come in its place: what was loaded goes on serving, with all cores at one run.
            return self._sessions[self._cores]

    def _forget_parents_sessions(self) -> None:
        """Drop the sessions after a fork, without taking them down.

        Their threads are the parent's: a run would wait for them for ever, and so would a destructor.
        """
        self._opening = threading.Lock()
        for session in self._sessions.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
        self._sessions = {}


def graph_inputs(names: Sequence[str], encodings: "Sequence[Encoding]") -> dict[str, npt.NDArray[np.int64]]:
    """Put the tokens of one run into arrays: name of a graph's input -> (texts, tokens of the longest)."""
    longest = max(len(encoding) for encoding in encodings)
    feed = {name: np.zeros((len(encodings), longest), dtype=np.int64) for name in names}
    for row, encoding in enumerate(encodings):
        # The padding's token does not matter: the attention mask hides it.
        tokens = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        for name in names:
            feed[name][row, : len(encoding)] = tokens[name]
    return feed


def runs_of_like_length(lengths: Sequence[int], tokens_per_run: int = TOKENS_PER_RUN) -> Iterator[list[int]]:
    """Group texts, shortest first, so that a group padded to its longest holds at most so many tokens.

    Args:
        lengths: Tokens of each text.
        tokens_per_run: Upper bound; a text that is longer makes a group of its own.

    Yields:
        Positions of the texts of one group; each position once in all.
    """
    group: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        # A text without any token, which static models have, takes a row all the same.
        if group and (len(group) + 1) * max(1, lengths[row]) > tokens_per_run:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _open_session(graph: Graph, cores: int) -> "InferenceSession":
    onnxruntime = import_onnxruntime()
    graph.refuse_changed()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    options.log_severity_level = 3  # errors: it warns of what nobody can act on
    try:
        session: InferenceSession = onnxruntime.InferenceSession(
            str(graph.path), options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOWER_FUSIONS
        )
    except Exception as error:  # onnxruntime's own classes derive from Exception, and there are a dozen
        raise ModelFolderError(
            f"{graph.path}: onnxruntime {onnxruntime.__version__} cannot load it ({error}); "
            f"run: embtune export {graph.path.parent.parent}, or set {ENVIRONMENT_VARIABLE}=torch"
        ) from error
    return session


def _cores() -> int:
    """As many as this process may use; DocsGPT's image says how many in OMP_NUM_THREADS."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(available, int(wanted)) if wanted.isdigit() and int(wanted) else available


_engines: "weakref.WeakSet[OnnxEngine]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for engine in list(_engines):
        engine._forget_parents_sessions()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
