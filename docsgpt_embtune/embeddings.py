"""The embeddings classes that DocsGPT calls: for tuned folders, and for the stock models to compare them with."""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from docsgpt_embtune.adapter import load_query_adapter
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.loading import load_model
from docsgpt_embtune.manifest import MANIFEST
from docsgpt_embtune.model_folder import verify
from docsgpt_embtune.serving.graphs import AUTO, Graph, choose_graph, wanted_engine
from docsgpt_embtune.serving.keywords import load_keywords
from docsgpt_embtune.serving.reading import Encode, Reading, document_encoder, question_encoder, vectors_fingerprint
from docsgpt_embtune.static_model import beginnings_read

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from docsgpt_embtune.serving.onnx_engine import OnnxEngine
    from docsgpt_embtune.vectors import Vectors

logger = logging.getLogger(__name__)

Loaded = TypeVar("Loaded")

DEVICE_VARIABLE = "EMBTUNE_DEVICE"  # torch device on which sentence-transformers serves; the CPU if not set
QUESTION_CACHE = 1024  # questions; a vector of 384 numbers takes 1.5 kB
# Settings that the onnxruntime engine meets by design: no progress bars, arrays, unit norm, its own batch size.
_EVERY_ENGINES_ENCODE_KWARGS = {"show_progress_bar", "convert_to_numpy", "normalize_embeddings", "batch_size"}


class StockEmbeddings:
    """Embed with any sentence-transformers folder as DocsGPT's own wrapper does.

    DocsGPT calls `encode` for questions and chunks alike, with no prompt of its own and no normalisation beyond the
    model's. The only difference is that no remote code is run.

    Args:
        folder: A sentence-transformers folder.
        device: torch device; None lets sentence-transformers choose.
        encode_kwargs: Passed to `SentenceTransformer.encode`, e.g. `{"batch_size": 64}`.

    Attributes:
        dimension: Width of the vectors.

    Raises:
        ModelFolderError: If the folder comes with its own code, or cannot be loaded.
    """

    _model: "SentenceTransformer | None" = None

    def __init__(
        self, folder: str | Path, device: str | None = "cpu", encode_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        self.model_name = str(folder)
        self.model_kwargs: dict[str, Any] = {"device": device}
        self.encode_kwargs = {"show_progress_bar": False, **(encode_kwargs or {})}
        self.dimension: int = _dimension_of(self.model)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The class, which `isinstance` asks for; only then is it made one of LangChain's `Embeddings`.

        LangChain's FAISS (in DocsGPT before 0.19, in a notebook) embeds with anything else as with a function, chunks
        as if they were questions. It may be imported after this module, which does not import it: that would take half
        as long as the rest of the start, and 20 MB, also where nobody uses it.
        """
        if interface := getattr(sys.modules.get("langchain_core.embeddings.embeddings"), "Embeddings", None):
            interface.register(StockEmbeddings)
        return type(self)

    @property
    def model(self) -> "SentenceTransformer":
        """The sentence-transformers model, loaded on first access."""
        if self._model is None:
            self._model = self._load_model()
        return self._model

    def embed_query(self, text: str) -> list[float]:
        """Embed one question: a list of `dimension` floats."""
        vector: list[float] = self._encode([encodable(text)])[0].tolist()
        return vector

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed chunks: one list of `dimension` floats each, in order."""
        chunks = _chunks(texts)
        vectors: list[list[float]] = self._encode(chunks).tolist() if chunks else []
        return vectors

    def __call__(self, text: str | list[str]) -> list[float] | list[list[float]]:
        """Embed a question or a list of chunks, as DocsGPT 0.11 to 0.18 calls it through LangChain's FAISS."""
        return self.embed_query(text) if isinstance(text, str) else self.embed_documents(text)

    async def aembed_query(self, text: str) -> list[float]:
        """Embed one question without blocking the event loop."""
        return await asyncio.to_thread(self.embed_query, text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed chunks without blocking the event loop."""
        return await asyncio.to_thread(self.embed_documents, texts)

    def _load_model(self) -> "SentenceTransformer":
        try:
            return load_model(self.model_name, **self.model_kwargs)
        except ModelFolderError as error:
            trouble, device = error.__cause__, self.model_kwargs["device"]
            # torch's errors, of a device that it does not know, or was built without
            if device in ("cpu", None) or not isinstance(trouble, RuntimeError | AssertionError):
                raise
            raise ModelFolderError(
                f"{self.model_name}: does not load on {device!r} ({trouble}); set {DEVICE_VARIABLE} to what torch can "
                "use here, or to cpu"
            ) from trouble

    def _encode(self, texts: Sequence[str]) -> "Vectors":
        _ForkGuard.has_encoded = True
        try:
            read = beginnings_read(self.model, texts)
            vectors: Vectors = self.model.encode(read, **{**self.encode_kwargs, "convert_to_numpy": True})
        except (IndexError, RuntimeError) as error:  # IndexError on a CPU, RuntimeError on a GPU
            self._explain(error)
            raise
        return vectors

    def _explain(self, error: Exception) -> None:
        """Raise ModelFolderError if the model claims to read more tokens than it has positions for."""
        from docsgpt_embtune.positions import possible_length

        possible, claimed = possible_length(self.model), self.model.max_seq_length
        if possible is not None and claimed is not None and claimed > possible:
            raise ModelFolderError(
                f"{self.model_name}: claims to read {claimed} tokens and has positions for {possible}, so that a "
                f"longer text is an error, in DocsGPT, too; set max_seq_length to {possible} in its "
                f"sentence_bert_config.json (what embtune train makes of it reads {possible})"
            ) from error


class TunedEmbeddings(StockEmbeddings):
    """Embed questions and chunks with a tuned model folder; every vector is unit-norm.

    The class implements LangChain's `Embeddings` interface, takes the keyword arguments of HuggingFaceEmbeddings that
    DocsGPT's article uses, and has everything that any DocsGPT version calls: `embed_query`, `embed_documents`,
    `__call__` and an integer `dimension`. A folder is loaded once per process, however many instances and threads use
    it. Nothing is encoded before the first call, because an encode before a fork would hang the child's first encode.

    If the folder has a graph (`embtune export`), onnxruntime serves and torch is never imported. sentence-transformers
    serves without a graph, without onnxruntime, on a GPU, or with settings that only it supports.

    Args:
        model_name: Path of the tuned folder. Never a hub name, as nothing is downloaded.
        model_kwargs: `device` (by default EMBTUNE_DEVICE, or the CPU) and `engine`; all others are passed to
            SentenceTransformer.
        encode_kwargs: Passed to `SentenceTransformer.encode`; onnxruntime chooses its own batches.
        engine: "torch", "onnx" or "onnx-int8" to require one; else EMBTUNE_ENGINE decides, or else the export.
        question_cache: Most recently used questions whose vectors are cached.
        **unused: Accepted and ignored, since callers from different DocsGPT versions pass more.

    Attributes:
        engine: Engine that serves: "torch", "onnx" or "onnx-int8".
        reading: How chunks are read.
        keywords: Keywords appended to the model's part of each vector; None without keywords.
        fingerprint: Hex sha256 over everything that determines a chunk's vector. It is the folder's own fingerprint,
            unless chunks are read differently from how the model was written to read, or in int8.

    Raises:
        ModelFolderError: If the folder is missing, incomplete, or not the model that was written, or if the
            required engine is not available.
    """

    _models: ClassVar[dict[tuple[str, ...], Any]] = {}
    _loading: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self,
        model_name: str,
        model_kwargs: Mapping[str, Any] | None = None,
        encode_kwargs: Mapping[str, Any] | None = None,
        *,
        engine: str | None = None,
        question_cache: int = QUESTION_CACHE,
        **unused: Any,
    ) -> None:
        folder = Path(model_name).expanduser().resolve()
        if not folder.is_dir():
            raise ModelFolderError(
                f"{model_name}: no such folder ({folder}); set EMBEDDINGS_NAME to the tuned model's absolute path"
            )
        manifest = verify(folder)
        self.model_name = str(folder)
        self.model_kwargs = {"device": serving_device(), **(model_kwargs or {})}
        self.encode_kwargs = {"show_progress_bar": False, **(encode_kwargs or {})}
        self.reading = Reading.of(manifest)
        self._manifest = manifest
        other_engine = self.model_kwargs.pop("engine", None)
        self._options: dict[str, Any] = {"engine": engine or other_engine, "question_cache": question_cache}
        wanted = wanted_engine(engine or other_engine)
        encode = self._start_engine(folder, wanted)
        self.keywords = load_keywords(folder)
        if self.keywords:
            self.dimension += self.keywords.width
        if self.dimension != manifest["dimension"]:
            raise ModelFolderError(
                f"{folder}: gives vectors of {self.dimension} numbers, its {MANIFEST} says {manifest['dimension']}; "
                "train or copy the folder again"
            )
        self.fingerprint = vectors_fingerprint(manifest, self.reading, quantised=self.engine == "onnx-int8")
        self._encode_documents = document_encoder(folder, self.reading, encode, self.keywords)
        encode_questions = question_encoder(encode, self.keywords)
        self._encode_question = lru_cache(maxsize=question_cache)(lambda text: encode_questions([text])[0])
        self.query_adapter = load_query_adapter(folder, manifest)

    def embed_query(self, text: str) -> list[float]:
        """Embed one question, with the folder's query adapter if it has one: a list of `dimension` floats."""
        vector: list[float] = self._encode_question(encodable(text)).tolist()
        return self.query_adapter(vector) if self.query_adapter else vector

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed chunks, in windows if the folder says so: one list of `dimension` floats each, in order."""
        chunks = _chunks(texts)
        vectors: list[list[float]] = self._encode_documents(chunks).tolist() if chunks else []
        return vectors

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model_name!r}, engine={self.engine!r}, dimension={self.dimension})"

    def __reduce__(self) -> tuple[Callable[..., "TunedEmbeddings"], tuple[Any, ...]]:
        """Pickle and copy as the arguments: where it is unpickled, the folder is loaded, once in that process."""
        return partial(type(self), **self._options), (self.model_name, self.model_kwargs, self.encode_kwargs)

    def _start_engine(self, folder: Path, wanted: str) -> Encode:
        graph = choose_graph(folder, self._manifest, wanted, torch_only=self._torch_only())
        if graph is not None:
            try:
                engine = self._load_graph(folder, graph)
            except ModelFolderError as error:
                if wanted != AUTO:
                    raise
                logger.warning("%s; sentence-transformers serves instead", error)
            else:
                self.engine, self.dimension = graph.engine, engine.dimension
                return engine.encode
        self.engine, self.dimension = "torch", _dimension_of(self.model)
        return self._encode

    def _torch_only(self) -> str:
        """Return the settings that onnxruntime does not support, in words; empty if there are none."""
        model_kwargs = {name: value for name, value in self.model_kwargs.items() if (name, value) != ("device", "cpu")}
        encode_kwargs = self.encode_kwargs.keys() - _EVERY_ENGINES_ENCODE_KWARGS
        return ", ".join([f"{name}={value!r}" for name, value in model_kwargs.items()] + sorted(encode_kwargs))

    def _load_graph(self, folder: Path, graph: Graph) -> "OnnxEngine":
        from docsgpt_embtune.serving.onnx_engine import OnnxEngine

        length = self.reading.max_seq_length
        return self._load_once(lambda: OnnxEngine(folder, graph, max_seq_length=length), graph.sha256, str(length))

    def _load_model(self) -> "SentenceTransformer":
        def load() -> "SentenceTransformer":
            model = super(TunedEmbeddings, self)._load_model()
            if self.reading.max_seq_length != self._manifest["max_seq_length"]:
                model.max_seq_length = self.reading.max_seq_length
            return model

        return self._load_once(load, f"{sorted(self.model_kwargs.items())} {self.reading.max_seq_length}")

    def _load_once(self, load: Callable[[], Loaded], *settings: str) -> Loaded:
        key = (self._manifest["fingerprint"], *settings)
        with self._loading:
            if key not in self._models:
                logger.info("loading tuned embeddings %s (%s…)", self.model_name, key[0][:12])
                self._models[key] = load()
            loaded: Loaded = self._models[key]
            return loaded


def serving_device() -> str:
    """Return the torch device on which sentence-transformers serves by default."""
    return os.environ.get(DEVICE_VARIABLE) or "cpu"


def encodable(text: str) -> str:
    """Replace each lone surrogate, which no tokenizer accepts, with "?".

    Raises:
        TypeError: If it is no text.
    """
    if not isinstance(text, str):
        raise TypeError(f"only texts (str) can be embedded, and this is {type(text).__name__}: {text!r:.60}")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def _chunks(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):  # each letter of it would be a chunk
        raise TypeError(
            f"embed_documents takes a list of texts; give [text], or embed_query for a question: {texts!r:.60}"
        )
    return [encodable(text) for text in texts]


def _dimension_of(model: "SentenceTransformer") -> int:
    # Renamed in sentence-transformers 5.4; DocsGPT before 0.19 pins older ones.
    get_dimension = getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension
    dimension = get_dimension()
    if dimension is None:
        raise ModelFolderError(f"{model}: the model does not say how wide its vectors are")
    return int(dimension)


class _ForkGuard:
    """Keeps a forked child from waiting for OpenMP threads that exist only in its parent."""

    has_encoded = False

    @classmethod
    def in_child(cls) -> None:
        TunedEmbeddings._loading = threading.Lock()  # another thread of the parent may have held it
        if cls.has_encoded and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ForkGuard.in_child)
