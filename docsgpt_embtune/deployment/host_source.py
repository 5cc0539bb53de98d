"""A source seen through DocsGPT's own store, whichever VECTOR_STORE says: it hands out texts, but no vectors.

So a vector is told by searching: the model's own vector of a chunk finds that chunk at no distance, if the chunk was
embedded with the model. Nothing can be re-embedded in this way: the interface adds one chunk at a time under a new id,
and nothing in it swaps.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docsgpt_embtune.errors import DeploymentError

_SQUARED_L2 = "l2_distance"  # FAISS; the other stores' scores are cosines, or half of one more than these


class HostSource:
    """One source.

    Args:
        store: The store that DocsGPT made for it.
        label: What to call it in messages.
    """

    def __init__(self, store: Any, label: str) -> None:
        self._store = store
        self.label = label

    def chunks(self) -> list[tuple[str, str]]:
        """Return id and text of every chunk.

        Raises:
            DeploymentError: If this store hands out none.
        """
        chunks = self._ask("get_chunks")
        if chunks is None:
            raise DeploymentError(f"{self.label}: DocsGPT's own store hands out none of its chunks; see VECTOR_STORE")
        return [(str(chunk["doc_id"]), chunk["text"]) for chunk in chunks]

    def holds(self, text: str, vector: Sequence[float], same_vector: float) -> bool:
        """Tell whether a search for this vector finds it, with a cosine of `same_vector` or more.

        The text is compared only where the store tells no score: chunks that begin alike have one vector where the
        model cuts them off, and any of them may come first.

        Raises:
            DeploymentError: If the search fails.
        """
        found = self._ask("search_with_scores", text, 1, query_vector=list(vector))
        for document, score in found:
            if score is None:
                return bool(document.page_content == text)
            cosine = 1 - score / 2 if self._store.score_kind == _SQUARED_L2 else score
            return bool(cosine >= same_vector)
        return False

    def _ask(self, name: str, *arguments: object, **options: object) -> Any:
        try:
            return getattr(self._store, name)(*arguments, **options)
        except Exception as error:  # a store raises what its database's client does
            raise DeploymentError(f"{self.label}: DocsGPT's own {name} fails: {error!r}; see DocsGPT's log") from error


def open_host_sources(checkout: Path, source_ids: Sequence[str]) -> list[HostSource]:
    """Open sources in a DocsGPT, with its settings and in its own environment.

    Args:
        checkout: Its folder: the one that holds `application`, `/app` in the image.
        source_ids: Ids of sources.

    Raises:
        DeploymentError: If it cannot be imported here, or its store cannot be opened.
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
    except Exception as error:  # what pydantic raises quotes settings, and with them passwords
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
    """Name an error, and the fields that pydantic says it is about."""
    faults = error.errors() if hasattr(error, "errors") else []
    fields = [".".join(map(str, fault["loc"])) for fault in faults]
    return f"{type(error).__name__}: {', '.join(fields)}" if fields else type(error).__name__
