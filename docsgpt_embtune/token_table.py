"""Static models: a table of tokens, and a text is the mean of its tokens' rows. What differs from a transformer.

sentence-transformers has them as `StaticEmbedding`, since 3.2. They read a text to its end, and nothing of the order of
its words.
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

KIND = "StaticEmbedding"  # by name, as the class moved from one sentence-transformers to the next
UNLIMITED = 1_000_000  # tokens, for a model that knows no limit
_UNSEEN_PADDING = "[PAD]"  # the mask hides it, whatever row it has


def is_static(model: "SentenceTransformer") -> bool:
    """Tell whether a model is a table of tokens."""
    return type(model[0]).__name__ == KIND


def is_static_folder(folder: Path) -> bool:
    """Tell whether a folder holds a table of tokens, without loading it."""
    path = folder / "modules.json"
    modules = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return bool(modules) and str(modules[0]["type"]).rpartition(".")[2] == KIND


def tokens_read(model: "SentenceTransformer") -> int:
    """Tell how many tokens of a text a model reads."""
    limit = model.max_seq_length
    return UNLIMITED if limit is None or math.isinf(limit) else int(limit)


def tokenizer_of(model: "SentenceTransformer") -> Any:
    """Return a model's tokenizer as transformers has it, which a static model's is not."""
    if not is_static(model):
        return model.tokenizer
    from transformers import PreTrainedTokenizerFast

    make: Any = PreTrainedTokenizerFast  # has no types
    return make(tokenizer_object=model.tokenizer, pad_token=_UNSEEN_PADDING)


def with_padded_tokens(model: "SentenceTransformer") -> "SentenceTransformer":
    """Let a static model take rows of padded tokens, as a transformer does, so that it can be traced; others are as is.

    Returns:
        The model, or one of the same vectors that reads `input_ids` and `attention_mask`, each (B, L).
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
