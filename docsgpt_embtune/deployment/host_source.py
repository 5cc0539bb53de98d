"""A source accessed through DocsGPT's own store, of any kind that VECTOR_STORE names.

DocsGPT's store returns texts, but no vectors. So vectors are checked by searching: the model's own vector of a chunk
finds that chunk at distance zero if the chunk was embedded with the model. Nothing can be re-embedded in this way: the
interface adds one chunk at a time under a new id, and cannot swap vectors.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docsgpt_embtune.errors import DeploymentError

_SQUARED_L2 = "l2_distance"  # FAISS; the other stores' scores are the cosine
# MongoDB Atlas scales a cosine to (1 + cosine) / 2 and calls it a cosine all the same.
_WITH_SCALED_COSINE = "MongoDBVectorStore"


class HostSource:
    """One source.

    Args:
        store: The store that DocsGPT created for the source.
        label: The source's name in messages.
    """

    def __init__(self, store: Any, label: str) -> None:
        self._store = store
        self.label = label

    def chunks(self) -> list[tuple[str, str]]:
        """Return id and text of every chunk.

        Raises:
            DeploymentError: If this kind of store cannot return its chunks, or fails to.
        """
        chunks = self._ask("get_chunks")
        if chunks is None:
            raise DeploymentError(f"{self.label}: DocsGPT's own store hands out none of its chunks; see VECTOR_STORE")
        return [(str(chunk["doc_id"]), chunk["text"]) for chunk in chunks]

    def holds(self, text: str, vector: Sequence[float], same_vector: float) -> bool:
        """Tell whether a search for a chunk's vector finds a vector with a cosine of at least `same_vector` to it.

        The text is compared only if the store returns no score. Chunks with the same beginning have the same vector
        if the model cuts them off there, and any of them may be found first.

        Raises:
            DeploymentError: If the search fails.
        """
        found = self._ask("search_with_scores", text, 1, query_vector=list(vector))
        for document, score in found:
            if score is None:
                return bool(document.page_content == text)
            return self._cosine(score) >= same_vector
        return False

    def _cosine(self, score: float) -> float:
        if self._store.score_kind == _SQUARED_L2:
            return 1 - score / 2
        return 2 * score - 1 if type(self._store).__name__ == _WITH_SCALED_COSINE else score

    def _ask(self, name: str, *arguments: object, **options: object) -> Any:
        try:
            return getattr(self._store, name)(*arguments, **options)
        except Exception as error:  # a store raises what its database's client does
            raise DeploymentError(f"{self.label}: DocsGPT's own {name} fails: {error!r}; see DocsGPT's log") from error


def open_host_sources(checkout: Path, source_ids: Sequence[str]) -> list[HostSource]:
    """Open sources through a DocsGPT installation, with its settings and in its own Python environment.

    Args:
        checkout: The folder that contains DocsGPT's `application`; `/app` in its image.
        source_ids: Ids of the sources.

    Raises:
        DeploymentError: If DocsGPT cannot be imported here, or its store cannot be opened.
    """
    if not (checkout / "application" / "vectorstore" / "vector_creator.py").is_file():
        raise DeploymentError(f"{checkout}: no DocsGPT in it (no application/vectorstore/vector_creator.py)")
    sys.path.insert(0, str(checkout.resolve()))
    try:
        settings = importlib.import_module("application.core.settings").settings
        creator = importlib.import_module("application.vectorstore.vector_creator").VectorCreator
    except ImportError as error:
        raise DeploymentError(
            f"{checkout}: cannot be imported ({error}); run this with the interpreter that runs DocsGPT"
        ) from error
    except Exception as error:  # pydantic's errors quote settings, passwords among them
        raise DeploymentError(
            f"{checkout}: its settings cannot be read ({_without_values(error)}); run this where DocsGPT runs"
        ) from None
    kind, key = settings.VECTOR_STORE, settings.EMBEDDINGS_KEY
    try:
        return [
            HostSource(creator.create_vectorstore(kind, source_id, key), f"{kind} {source_id}")
            for source_id in source_ids
        ]
    except Exception as error:  # a store raises what its database's client does
        raise DeploymentError(f"{checkout}: DocsGPT cannot open its {kind}: {error!r}; check its settings") from error


def _without_values(error: Exception) -> str:
    """Name an error's class and the fields that pydantic rejected, without their values."""
    faults = error.errors() if hasattr(error, "errors") else []
    fields = [".".join(map(str, fault["loc"])) for fault in faults]
    return f"{type(error).__name__}: {', '.join(fields)}" if fields else type(error).__name__
