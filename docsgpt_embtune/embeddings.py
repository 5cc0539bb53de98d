"""The embeddings that DocsGPT calls: a tuned folder's, and the stock ones to compare them with."""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from docsgpt_embtune.adapter import load_query_adapter
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.model_folder import MANIFEST, verify

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

try:
    from langchain_core.embeddings import Embeddings  # LangChain's FAISS, in DocsGPT before 0.19, asks for this class
except ImportError:

    class Embeddings:  # type: ignore[no-redef]
        """Stands in where there is no LangChain, as in DocsGPT since 0.19."""


logger = logging.getLogger(__name__)


class StockEmbeddings(Embeddings):
    """Embed with any sentence-transformers folder the way DocsGPT's own wrapper does.

    The host calls `encode` for questions and chunks alike: no prompts, no normalisation that the model
    does not do itself. What it loads differs from the host in one point: no remote code is run.

    Args:
        folder: A sentence-transformers folder.
        device: Where to run it.
        encode_kwargs: Handed to `SentenceTransformer.encode`, e.g. `{"batch_size": 64}`.

    Attributes:
        dimension: Width of the vectors.
    """

    def __init__(
        self, folder: str | Path, device: str | None = "cpu", encode_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        from sentence_transformers import SentenceTransformer

        self.model_name = str(folder)
        self.encode_kwargs = {"show_progress_bar": False, **(encode_kwargs or {})}
        self.model: SentenceTransformer = SentenceTransformer(str(folder), device=device, local_files_only=True)
        self.dimension: int = _dimension_of(self.model)

    def embed_query(self, text: str) -> list[float]:
        """Embed one question: a list of `dimension` floats."""
        return self._encode([text])[0]

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed chunks: one list of `dimension` floats each, in order."""
        return self._encode(list(texts)) if texts else []

    def __call__(self, text: str | list[str]) -> list[float] | list[list[float]]:
        """Embed a question or a list of chunks, as DocsGPT 0.11 to 0.18 calls it through LangChain's FAISS."""
        return self.embed_query(text) if isinstance(text, str) else self.embed_documents(text)

    async def aembed_query(self, text: str) -> list[float]:
        """Embed one question without blocking the event loop."""
        return await asyncio.to_thread(self.embed_query, text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed chunks without blocking the event loop."""
        return await asyncio.to_thread(self.embed_documents, texts)

    def _encode(self, texts: list[str]) -> list[list[float]]:
        _ForkGuard.has_encoded = True
        vectors: list[list[float]] = self.model.encode(texts, convert_to_numpy=True, **self.encode_kwargs).tolist()
        return vectors


class TunedEmbeddings(StockEmbeddings):
    """Embed questions and chunks with a tuned model folder; every vector is unit-norm.

    It answers to LangChain's `Embeddings` interface and HuggingFaceEmbeddings' keywords, which DocsGPT's
    article uses, and to what each era of DocsGPT calls: `embed_query`, `embed_documents`, `__call__` and an
    integer `dimension`. A folder is loaded once in a process, however many instances and threads ask for it.
    Nothing is encoded before the first call: an encode before a fork would hang the child in its own first one.

    Args:
        model_name: Path of the tuned folder. Never a hub name: nothing is downloaded.
        model_kwargs: `device` ("cpu" by default); others are handed to SentenceTransformer.
        encode_kwargs: Handed to `SentenceTransformer.encode`.
        **unused: Accepted and ignored, as callers of several eras pass more.

    Raises:
        ModelFolderError: If the folder is missing, incomplete, or not the model that was written.
    """

    _models: ClassVar[dict[tuple[str, str], "SentenceTransformer"]] = {}
    _loading: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self,
        model_name: str,
        model_kwargs: Mapping[str, Any] | None = None,
        encode_kwargs: Mapping[str, Any] | None = None,
        **unused: Any,
    ) -> None:
        folder = Path(model_name).expanduser().resolve()
        if not folder.is_dir():
            raise ModelFolderError(
                f"{model_name}: no such folder ({folder}); set EMBEDDINGS_NAME to the tuned model's absolute path"
            )
        manifest = verify(folder)
        self.model_name = str(folder)
        self.encode_kwargs = {"show_progress_bar": False, **(encode_kwargs or {})}
        self.model = self._load(folder, manifest["fingerprint"], dict(model_kwargs or {}))
        self.dimension = _dimension_of(self.model)
        if self.dimension != manifest["dimension"]:
            raise ModelFolderError(
                f"{folder}: gives vectors of {self.dimension} numbers, its {MANIFEST} says {manifest['dimension']}; "
                "train or copy the folder again"
            )
        self.query_adapter = load_query_adapter(folder, manifest)

    def embed_query(self, text: str) -> list[float]:
        """Embed one question: a list of `dimension` floats, through the folder's query adapter if it has one."""
        vector = super().embed_query(text)
        return self.query_adapter(vector) if self.query_adapter else vector

    @classmethod
    def _load(cls, folder: Path, fingerprint: str, model_kwargs: dict[str, Any]) -> "SentenceTransformer":
        device = model_kwargs.pop("device", "cpu")
        key = (fingerprint, f"{device} {sorted(model_kwargs.items())}")
        with cls._loading:
            if key not in cls._models:
                from sentence_transformers import SentenceTransformer

                logger.info("loading tuned embeddings %s (%s…)", folder, fingerprint[:12])
                cls._models[key] = SentenceTransformer(
                    str(folder), device=device, local_files_only=True, **model_kwargs
                )
            return cls._models[key]


def _dimension_of(model: "SentenceTransformer") -> int:
    # Renamed in sentence-transformers 5.4; DocsGPT before 0.19 pins older ones.
    get_dimension = getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension
    dimension = get_dimension()
    if dimension is None:
        raise ModelFolderError(f"{model}: the model does not say how wide its vectors are")
    return int(dimension)


class _ForkGuard:
    """Keeps a forked child from waiting for OpenMP threads that only its parent has."""

    has_encoded = False

    @classmethod
    def in_child(cls) -> None:
        TunedEmbeddings._loading = threading.Lock()  # another thread of the parent may have held it
        if cls.has_encoded and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ForkGuard.in_child)
