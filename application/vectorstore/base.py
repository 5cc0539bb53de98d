"""DocsGPT's access to embeddings, with a registry that plugins can extend.

Replaces the file of the same name in DocsGPT (commit 52279d27). Every public name and behaviour is kept, and DocsGPT's
own tests pass with it. It adds three things: `embeddings_factory` at module level, which in DocsGPT is a dictionary
inside a function; one model per name, however many threads request it first; and the registration of docsgpt-embtune,
if that package is installed.
"""

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import requests

from application.core.settings import settings
from application.utils import get_encoding
from application.vectorstore.embeddings_openai import OpenAIEmbeddings

logger = logging.getLogger(__name__)

Factory = Callable[..., Any]

OPENAI_NAME = "openai_text-embedding-ada-002"
MPNET_NAME = "huggingface_sentence-transformers/all-mpnet-base-v2"
# The default model's folder in the Docker image and in a checkout.
MPNET_FOLDERS = ("/app/models/all-mpnet-base-v2", "./models/all-mpnet-base-v2")

REQUEST_TIMEOUT = 180  # seconds


class RemoteEmbeddings:
    """Embeddings from a server that speaks OpenAI's protocol, used when EMBEDDINGS_BASE_URL is set.

    Args:
        api_url: Address of the server, without `/v1`.
        model_name: The server's name for the model; left out of the request when empty.
        api_key: Sent as a bearer token when given.

    Attributes:
        dimension: Width of the vectors: 768 as in DocsGPT, whatever the server returns; set it to None to take the
            width from the first answer.
    """

    def __init__(self, api_url: str, model_name: str, api_key: str | None = None) -> None:
        self.api_url = api_url.rstrip("/")
        self.model_name = model_name
        self.headers = {"Content-Type": "application/json"}
        if api_key:
            self.headers["Authorization"] = f"Bearer {api_key}"
        self.dimension: int | None = 768

    def embed_query(self, query: str) -> list[float]:
        """Embed one question.

        Raises:
            ValueError: If the server answers with anything but one vector.
        """
        vectors = self._embed(query)
        if not (isinstance(vectors, list) and len(vectors) == 1 and isinstance(vectors[0], list)):
            raise ValueError(f"Unexpected result structure for one query: {vectors}")
        self._learn_dimension(vectors)
        return vectors[0]

    def embed_documents(self, documents: Sequence[str]) -> list[list[float]]:
        """Embed chunks in one request, in order."""
        if not documents:
            return []
        vectors = self._embed(documents)
        self._learn_dimension(vectors)
        return vectors

    def __call__(self, text: str | list[str]) -> list[float] | list[list[float]]:
        """Embed a question, or a list of chunks."""
        if isinstance(text, str):
            return self.embed_query(text)
        if isinstance(text, list):
            return self.embed_documents(text)
        raise ValueError(f"Input must be a string or a list of strings, got {type(text).__name__}")

    def _embed(self, inputs: str | Sequence[str]) -> list[list[float]]:
        payload: dict[str, Any] = {"input": self._truncate_inputs(inputs)}
        if self.model_name:
            payload["model"] = self.model_name
        response = requests.post(
            f"{self.api_url}/v1/embeddings", headers=self.headers, json=payload, timeout=REQUEST_TIMEOUT
        )
        response.raise_for_status()
        answer = response.json()
        if isinstance(answer, dict) and "error" in answer:
            raise ValueError(f"Remote embeddings API error: {answer['error']}")
        if not isinstance(answer, dict) or "data" not in answer:
            raise ValueError(f"Unexpected response format from {self.api_url}: {answer}")
        in_order = sorted(answer["data"], key=lambda item: item.get("index", 0))
        return [item["embedding"] for item in in_order]

    def _truncate_inputs(self, inputs: Any) -> Any:
        """Truncate each text to EMBEDDINGS_MAX_INPUT_TOKENS tokens, because some servers refuse longer ones.

        Tokens are counted by tiktoken and not by the server, so the setting needs headroom.
        """
        limit = settings.EMBEDDINGS_MAX_INPUT_TOKENS
        if not limit or limit <= 0:
            return inputs
        encoding = get_encoding()

        def clip(text: Any) -> Any:
            if not isinstance(text, str):
                return text
            tokens = encoding.encode_ordinary(text)
            if len(tokens) <= limit:
                return text
            logger.warning("Clipping a text of %d tokens to %d before it is embedded remotely", len(tokens), limit)
            return encoding.decode(tokens[:limit])

        return [clip(text) for text in inputs] if isinstance(inputs, list) else clip(inputs)

    def _learn_dimension(self, vectors: list[list[float]]) -> None:
        if self.dimension is None and vectors:
            self.dimension = len(vectors[0])


def _get_embeddings_wrapper() -> Factory:
    """Import the local embeddings only when needed, so that remote ones never load sentence-transformers."""
    from application.vectorstore.embeddings_local import EmbeddingsWrapper

    return EmbeddingsWrapper


class EmbeddingsRegistry(dict[str, Factory]):
    """Embeddings factories by exact name, and by claims on names that are not known beforehand.

    A claim covers a family of names, such as the paths of all folders that a plugin wrote. An exact name takes
    precedence over claims, and an earlier claim over a later one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._claims: dict[Callable[[str], bool], Factory] = {}

    def claim(self, matches: Callable[[str], bool], factory: Factory) -> None:
        """Register a factory for every name that `matches` accepts; a second claim by the same rule replaces the first.

        Args:
            matches: Takes a name and returns whether it is claimed.
            factory: Called as `factory(name, *args, **kwargs)`.
        """
        self._claims[matches] = factory

    def find(self, name: str) -> Factory | None:
        """Return the factory for a name, or None if there is none."""
        if name in self:
            return self[name]
        return next((partial(factory, name) for matches, factory in self._claims.items() if matches(name)), None)


def _openai(*args: Any, **kwargs: Any) -> Any:
    return OpenAIEmbeddings(*args, **kwargs)


def _pinned(hub_name: str) -> Factory:
    def make(*args: Any, **kwargs: Any) -> Any:
        if args or kwargs:  # such as an API key, which callers pass with every name
            logger.debug("%s is a pinned model: %d argument(s) dropped", hub_name, len(args) + len(kwargs))
        return _get_embeddings_wrapper()(hub_name)

    return make


embeddings_factory = EmbeddingsRegistry(
    {
        OPENAI_NAME: _openai,
        MPNET_NAME: _pinned("sentence-transformers/all-mpnet-base-v2"),
        "huggingface_sentence-transformers-all-mpnet-base-v2": _pinned("sentence-transformers/all-mpnet-base-v2"),
        "huggingface_hkunlp/instructor-large": _pinned("hkunlp/instructor-large"),
    }
)


class EmbeddingsSingleton:
    """Keeps one embeddings object per name and process, however many threads request it first."""

    _instances: ClassVar[dict[str, Any]] = {}
    # Reentrant, because a factory may request embeddings itself.
    _creating: ClassVar[Any] = threading.RLock()

    @staticmethod
    def get_instance(embeddings_name: str, *args: Any, **kwargs: Any) -> Any:
        """Return the embeddings of this name; EMBEDDINGS_BASE_URL overrides all names."""
        if settings.EMBEDDINGS_BASE_URL:
            return EmbeddingsSingleton._remote_instance(embeddings_name)
        create = partial(EmbeddingsSingleton._create_instance, embeddings_name, *args, **kwargs)
        return EmbeddingsSingleton._get_or_create(embeddings_name, create)

    @staticmethod
    def _remote_instance(embeddings_name: str, embeddings_key: str | None = None) -> Any:
        """Return the embeddings that EMBEDDINGS_BASE_URL serves under this name."""
        url: Any = settings.EMBEDDINGS_BASE_URL
        key = settings.EMBEDDINGS_KEY if embeddings_key is None else embeddings_key
        create = partial(RemoteEmbeddings, api_url=url, model_name=embeddings_name, api_key=key)
        return EmbeddingsSingleton._get_or_create(f"remote_{url}_{embeddings_name}", create)

    @staticmethod
    def _create_instance(embeddings_name: str, *args: Any, **kwargs: Any) -> Any:
        """Create embeddings with the registered factory, or else load the name as a model path or hub name."""
        factory = embeddings_factory.find(embeddings_name)
        if factory is None:
            return _get_embeddings_wrapper()(embeddings_name, *args, **kwargs)
        return factory(*args, **kwargs)

    @staticmethod
    def _get_or_create(key: str, create: Callable[[], Any]) -> Any:
        if key not in EmbeddingsSingleton._instances:
            with EmbeddingsSingleton._creating:
                if key not in EmbeddingsSingleton._instances:
                    EmbeddingsSingleton._instances[key] = create()
        return EmbeddingsSingleton._instances[key]


def _renew_lock_in_child() -> None:
    # At the fork, another thread of the parent may have held the lock, and that thread does not exist in the child.
    EmbeddingsSingleton._creating = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock_in_child)


def _azure_configured() -> bool:
    return bool(settings.OPENAI_API_BASE and settings.OPENAI_API_VERSION and settings.AZURE_DEPLOYMENT_NAME)


def get_embeddings(embeddings_name: str | None = None, embeddings_key: str | None = None) -> Any:
    """Return the embeddings that the settings select; every caller gets them here.

    Args:
        embeddings_name: A registered name, a model folder or a hub name; EMBEDDINGS_NAME if not given.
        embeddings_key: EMBEDDINGS_KEY if not given.

    Returns:
        The process's only object for that name, with `embed_query`, `embed_documents` and `dimension`.
    """
    name = embeddings_name or settings.EMBEDDINGS_NAME
    key = settings.EMBEDDINGS_KEY if embeddings_key is None else embeddings_key
    if settings.EMBEDDINGS_BASE_URL:
        logger.info("Embeddings come from %s", settings.EMBEDDINGS_BASE_URL)
        return EmbeddingsSingleton._remote_instance(name, key)
    if name == OPENAI_NAME and _azure_configured():
        return EmbeddingsSingleton.get_instance(name, model=settings.AZURE_EMBEDDINGS_DEPLOYMENT_NAME)
    if name == OPENAI_NAME:
        return EmbeddingsSingleton.get_instance(name, openai_api_key=key)
    if name == MPNET_NAME:
        return EmbeddingsSingleton.get_instance(_mpnet_folder() or name)
    return EmbeddingsSingleton.get_instance(name)


def _mpnet_folder() -> str | None:
    for folder in MPNET_FOLDERS:
        if os.path.exists(folder):
            logger.info("Default embeddings model found in %s", folder)
            return folder
    logger.warning("Default embeddings model in none of %s; it comes from the hub", ", ".join(MPNET_FOLDERS))
    return None


class BaseVectorStore(ABC):
    """Interface of DocsGPT's vector stores; a store overrides what it supports."""

    #: Kind of the scores of `search_with_scores`: "cosine_similarity" (0 to 1, higher is better),
    #: "l2_distance" (lower is better), or None if the store reports none.
    score_kind: str | None = None

    @abstractmethod
    def search(self, *args: Any, **kwargs: Any) -> Any:
        """Return the nearest chunks for a question.

        A store uses, or accepts and ignores, `query_vector`: the question's vector, which the caller has computed once
        for all the stores that it searches.
        """

    @abstractmethod
    def add_texts(self, texts: Any, metadatas: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Embed texts and store them."""

    def search_with_scores(self, question: str, k: int = 2, *args: Any, **kwargs: Any) -> list[tuple[Any, Any]]:
        """Return the hits of `search` in its order, each with its score, or with None if the store has no scores."""
        return [(document, None) for document in self.search(question, k, *args, **kwargs) or []]

    def keyword_search(self, question: str, k: int = 10) -> list[Any]:
        """Return full-text hits. Here there are none, so that hybrid retrieval falls back on vectors alone."""
        return []

    def delete_index(self, *args: Any, **kwargs: Any) -> Any:
        """Delete the whole index or collection."""
        return None

    def save_local(self, *args: Any, **kwargs: Any) -> Any:
        """Save the store to disk."""
        return None

    def get_chunks(self, *args: Any, **kwargs: Any) -> Any:
        """Return every chunk as {"doc_id", "text", "metadata"}."""
        return None

    def add_chunk(self, text: str, metadata: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Store one chunk."""
        return None

    def delete_chunk(self, chunk_id: str, *args: Any, **kwargs: Any) -> Any:
        """Delete one chunk."""
        return None

    def delete_chunks_by_source_path(self, path: str) -> int:
        """Delete every chunk whose metadata has this `source`, and return how many were deleted."""
        chunks = self.get_chunks() or []
        of_path = [chunk["doc_id"] for chunk in chunks if (chunk.get("metadata") or {}).get("source") == path]
        return sum(1 for chunk_id in of_path if self.delete_chunk(chunk_id))

    def is_azure_configured(self) -> bool:
        """Tell whether all Azure OpenAI settings are set."""
        return _azure_configured()

    def _get_embeddings(self, embeddings_name: str | None, embeddings_key: str | None = None) -> Any:
        return get_embeddings(embeddings_name, embeddings_key)


def _register_plugin() -> None:
    """Register docsgpt-embtune for its folders; if that fails, DocsGPT starts without it."""
    try:
        from docsgpt_embtune.plugin import register

        register(embeddings_factory)
    except Exception as error:
        if not (isinstance(error, ModuleNotFoundError) and error.name == "docsgpt_embtune"):
            logger.exception("docsgpt-embtune cannot register; tuned models are loaded as plain folders")


_register_plugin()
