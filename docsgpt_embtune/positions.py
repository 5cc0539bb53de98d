"""A transformer's position embeddings: how many are usable for text, and the first one."""

from typing import TYPE_CHECKING

from docsgpt_embtune.static_model import is_static

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def possible_length(model: "SentenceTransformer") -> int | None:
    """Return how many tokens a model's position embeddings allow; None if unknown, or if it reads texts whole."""
    if is_static(model):
        return None
    positions = getattr(getattr(model[0].auto_model, "config", None), "max_position_embeddings", None)
    return None if positions is None else positions - first_position_of(model)


def first_position_of(model: "SentenceTransformer") -> int:
    """Return a model's first text position: RoBERTa and related models start after the padding index, others at 0."""
    import torch

    for module in model.modules():
        padding = getattr(module, "padding_idx", None)
        if isinstance(padding, int) and isinstance(getattr(module, "position_embeddings", None), torch.nn.Embedding):
            return padding + 1
    return 0
