"""Tune DocsGPT's embeddings on a team's own questions, prove the gain, and put the model into the host."""

TYPE_CHECKING = False
if TYPE_CHECKING:  # not from typing, to save its import: the hook imports this at every start of DocsGPT's Python
    from docsgpt_embtune.data.dataset import RetrievalDataset as RetrievalDataset
    from docsgpt_embtune.data.dataset import load_corpus as load_corpus
    from docsgpt_embtune.data.dataset import load_dataset as load_dataset
    from docsgpt_embtune.embeddings import TunedEmbeddings as TunedEmbeddings
    from docsgpt_embtune.errors import EmbtuneError as EmbtuneError
    from docsgpt_embtune.evaluation.retrieval_check import check_retrieval as check_retrieval
    from docsgpt_embtune.exporting.export import export as export
    from docsgpt_embtune.plugin import register as register
    from docsgpt_embtune.training.config import TrainConfig as TrainConfig
    from docsgpt_embtune.training.query_adapter.adapting import adapt as adapt
    from docsgpt_embtune.training.recipe import Automatic as Automatic
    from docsgpt_embtune.training.train import train as train

__version__ = "0.1.0"

_DEFINED_IN = {
    "Automatic": "training.recipe",
    "EmbtuneError": "errors",
    "RetrievalDataset": "data.dataset",
    "TrainConfig": "training.config",
    "TunedEmbeddings": "embeddings",
    "adapt": "training.query_adapter.adapting",
    "check_retrieval": "evaluation.retrieval_check",
    "export": "exporting.export",
    "load_corpus": "data.dataset",
    "load_dataset": "data.dataset",
    "register": "plugin",
    "train": "training.train",
}
__all__ = sorted(_DEFINED_IN)


def __getattr__(name: str) -> object:
    """Import a public name on first access, so that importing the package does not import torch."""
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_DEFINED_IN[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_DEFINED_IN])
