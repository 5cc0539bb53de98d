"""Loading of a model folder with sentence-transformers: from this machine alone, without code of the model's own."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.model_folder import refuse_code_of_its_own

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_SHOWN = 300  # characters of a library's error, which may list all architectures that it knows


def load_model(folder: str | Path, **options: Any) -> "SentenceTransformer":
    """Load a folder as a sentence-transformers model.

    Args:
        folder: A model folder.
        **options: Passed to SentenceTransformer.

    Raises:
        ModelFolderError: If the folder comes with code of its own, or the libraries cannot load it.
    """
    refuse_code_of_its_own(Path(folder))
    _refuse_other_kind(Path(folder))
    from sentence_transformers import SentenceTransformer

    try:
        with without_transformers_bars():
            return SentenceTransformer(str(folder), local_files_only=True, **options)
    except MemoryError:
        raise
    except Exception as error:  # of transformers, tokenizers, safetensors, peft, torch and others: no common base
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which the command line explains
            raise
        why = " ".join(str(error).split())[:_SHOWN] or type(error).__name__
        raise ModelFolderError(
            f"{folder}: cannot be loaded ({why}); give the folder of an embedding model, with weights in safetensors, "
            "that the installed sentence-transformers and transformers know"
        ) from error


def _refuse_other_kind(folder: Path) -> None:
    """Raise ModelFolderError for what makes no vectors: sentence-transformers would drop its head without a word."""
    kind = _read(folder / "config_sentence_transformers.json").get("model_type") or "SentenceTransformer"
    if not (folder / "modules.json").is_file() and have_a_classifying_head(architectures_of(folder)):
        kind = "CrossEncoder"
    if kind != "SentenceTransformer":
        raise ModelFolderError(
            f"{folder}: is a {kind}, which does not make the vectors that DocsGPT stores; give an embedding model"
        )


def architectures_of(folder: Path) -> list[str]:
    """Return the architectures that a model's `config.json` names; none if it names none, or cannot be read."""
    named = _read(folder / "config.json").get("architectures")
    return [str(architecture) for architecture in named] if isinstance(named, list) else []


def have_a_classifying_head(architectures: Iterable[str]) -> bool:
    """Tell whether one of these architectures scores its input, as a cross-encoder does."""
    return any(architecture.endswith("ForSequenceClassification") for architecture in architectures)


def _read(path: Path) -> dict[str, Any]:
    """Read a config; empty if there is none, or it is broken, which the libraries say themselves."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


@contextmanager
def without_transformers_bars() -> Iterator[None]:
    """Hide transformers' bars for loading and saving: they take a moment, and stay in a log or a notebook."""
    from transformers.utils import logging

    shown: bool = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def without_transformers_notes() -> Iterator[None]:
    """Hide transformers' warnings on what is done on purpose, such as to leave out an attention mask."""
    from transformers.utils import logging

    shown: int = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(shown)
