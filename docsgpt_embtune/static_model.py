"""Static models, and how they differ from transformers: a text's vector is the mean of its tokens' embeddings.

sentence-transformers implements them as `StaticEmbedding`, since 3.2. They read a text to its end and ignore the order
of its words.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

KIND = "StaticEmbedding"  # a name, because the class's module differs between versions of sentence-transformers
UNLIMITED = 1_000_000  # tokens, for a model without a limit
_UNSEEN_PADDING = "[PAD]"  # masked, so its embedding does not matter


def is_static(model: "SentenceTransformer") -> bool:
    """Tell whether a model is static."""
    return type(model[0]).__name__ == KIND


def is_static_folder(folder: Path) -> bool:
    """Tell whether a folder holds a static model, without loading it."""
    path = folder / "modules.json"
    modules = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return bool(modules) and str(modules[0]["type"]).rpartition(".")[2] == KIND


def tokens_read(model: "SentenceTransformer") -> int:
    """Return how many tokens of a text a model reads."""
    limit = model.max_seq_length
    return UNLIMITED if limit is None or math.isinf(limit) else int(limit)


def beginnings_read(model: "SentenceTransformer", texts: Iterable[str]) -> list[str]:
    """Cut texts off well beyond what a model reads of them; its vectors stay the same."""
    if getattr(model.tokenizer, "truncation_side", "right") == "left":
        return list(texts)
    return beginnings_with(tokens_read(model), texts)


def beginnings_with(tokens: int, texts: Iterable[str]) -> list[str]:
    """Cut texts off well beyond so many tokens of their beginnings.

    Tokenizers split a whole text before they truncate it, which takes half a second and 150 MB for a megabyte. A word
    is a token or more; only one of control characters may be none, so twice as many words stay.
    """
    words = 2 * tokens
    parted = ((text, text.split(maxsplit=words)) for text in texts)
    return [text.removesuffix(parts[-1]) if len(parts) > words else text for text, parts in parted]


def tokenizer_of(model: "SentenceTransformer") -> Any:
    """Return a model's tokenizer as a transformers tokenizer; a static model's is wrapped in one."""
    if not is_static(model):
        return model.tokenizer
    from transformers import PreTrainedTokenizerFast

    make: Any = PreTrainedTokenizerFast  # untyped
    return make(tokenizer_object=model.tokenizer, pad_token=_UNSEEN_PADDING)


def with_padded_tokens(model: "SentenceTransformer") -> "SentenceTransformer":
    """Return a static model in a form that takes padded batches, as a transformer does, so that it can be traced.

    Returns:
        A model with the same vectors that reads `input_ids` and `attention_mask`, each (B, L); a transformer unchanged.
    """
    if not is_static(model):
        return model
    import torch
    from sentence_transformers import SentenceTransformer

    static: Any = model[0]
    rows = static.embedding.weight.detach()  # (V, D)

    class PaddedTable(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokenizer = tokenizer_of(model)
            self.max_seq_length = UNLIMITED
            self.table = torch.nn.Parameter(rows, requires_grad=False)

        def preprocess(self, texts: list[str], **_: Any) -> dict[str, torch.Tensor]:
            tokens = self.tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
            return {name: tokens[name] for name in ("input_ids", "attention_mask")}

        def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            mask = features["attention_mask"].unsqueeze(-1).float()  # (B, L, 1)
            total = (torch.nn.functional.embedding(features["input_ids"], self.table) * mask).sum(dim=1)  # (B, D)
            features["sentence_embedding"] = total / mask.sum(dim=1).clamp(min=1.0)
            return features

    return SentenceTransformer(modules=[PaddedTable(), *list(model)[1:]], device="cpu")
