"""The positions that a transformer learned: how many there are for text, and where they begin."""

from typing import TYPE_CHECKING

from docsgpt_embtune.token_table import is_static

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def possible_length(model: "SentenceTransformer") -> int | None:
    """Tell how many tokens a model's position embeddings allow; None where it does not say, or reads texts whole."""
    if is_static(model):
        return None
    positions = getattr(getattr(model[0].auto_model, "config", None), "max_position_embeddings", None)
    return None if positions is None else positions - first_position_of(model)


def first_position_of(model: "SentenceTransformer") -> int:
    """Tell where a model's positions begin: RoBERTa and its kin count from the one after the padding's."""
    import torch

    for module in model.modules():
        padding = getattr(module, "padding_idx", None)
        if isinstance(padding, int) and isinstance(getattr(module, "position_embeddings", None), torch.nn.Embedding):
            return padding + 1
    return 0
