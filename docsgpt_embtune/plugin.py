"""The plugin, which registers tuned folders in DocsGPT's `embeddings_factory`.

Registration imports neither torch nor sentence-transformers; both are imported with the first model loaded.
"""

from collections.abc import Callable
from typing import Any, Protocol

from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.model_folder import is_tuned_folder

NAME = "docsgpt_embtune"


class EmbeddingsRegistry(Protocol):
    """The part of DocsGPT's registry that `register` needs."""

    def __setitem__(self, name: str, factory: Callable[..., Any], /) -> None:
        """Register a factory under an exact name."""

    def claim(self, matches: Callable[[str], bool], factory: Callable[..., Any]) -> None:
        """Register a factory for every name that `matches` accepts."""


def register(embeddings_factory: EmbeddingsRegistry) -> None:
    """Register for the name `docsgpt_embtune` and for every EMBEDDINGS_NAME that is a tuned folder; safe to repeat.

    Args:
        embeddings_factory: The registry of `application/vectorstore/base.py`.

    Raises:
        TypeError: If it is a plain dict, say, which finds no folder's name.

    Example:
        >>> register(embeddings_factory)                                        # doctest: +SKIP
        >>> embeddings_factory[NAME](model_name="./models/tuned", model_kwargs={"device": "cpu"})  # doctest: +SKIP
    """
    if not hasattr(embeddings_factory, "claim"):
        raise TypeError(
            "embeddings_factory must be the registry of application/vectorstore/base.py, in which a folder's name can "
            f"be claimed, and is {embeddings_factory!r:.80}; into a plain dict put make_embeddings, under '{NAME}'"
        )
    embeddings_factory[NAME] = make_embeddings
    embeddings_factory.claim(is_tuned_folder, make_embeddings)


def make_embeddings(model_name: str | None = None, *ignored: Any, **kwargs: Any) -> Any:
    """Load a tuned folder.

    Args:
        model_name: Path of the folder.
        *ignored: Arguments that callers pass with every name, such as an API key.
        **kwargs: Passed to `TunedEmbeddings`, which uses `model_kwargs` and `encode_kwargs` and ignores the rest.

    Raises:
        ModelFolderError: If there is no such folder, or it is not the model that was written.
    """
    if model_name is None:
        raise ModelFolderError(
            f"'{NAME}' names the plugin and not a model; set EMBEDDINGS_NAME to the tuned folder's absolute path"
        )
    from docsgpt_embtune.embeddings import TunedEmbeddings

    return TunedEmbeddings(model_name, **kwargs)
