"""Random models of several transformer families."""

from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import (
    AutoTokenizer,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
)

SIZES = {
    "vocab_size": 400,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 130,
    "initializer_range": 0.5,
    "pad_token_id": 0,
}
NEAR_ONLY = {"local_attention": 16, "global_attn_every_n_layers": 2, "cls_token_id": 2, "sep_token_id": 3}
DISTILBERT = {"vocab_size": 400, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "initializer_range": 0.5}
MODELS = {
    "distilbert": lambda: DistilBertModel(DistilBertConfig(**DISTILBERT)),
    "roberta": lambda: RobertaModel(RobertaConfig(**SIZES)),
    "modernbert": lambda: ModernBertModel(ModernBertConfig(**SIZES, **NEAR_ONLY)),
    "mpnet": lambda: MPNetModel(MPNetConfig(**SIZES)),
}


def build_model(kind: str, tokenizer: Path, folder: Path) -> SentenceTransformer:
    """Write a model of this kind, with the tokenizer of another folder, and load it."""
    torch.manual_seed(0)
    MODELS[kind]().save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer, model_max_length=128).save_pretrained(folder)
    transformer = Transformer(str(folder))
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    return SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu").eval()
