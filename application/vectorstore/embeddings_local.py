"""Embeddings from any sentence-transformers model, by folder or hub name.

A stand-in for DocsGPT's module of the same name, so that the modules here run without DocsGPT. Only
`application/vectorstore/base.py` replaces a file in DocsGPT.
"""

from typing import Any

from docsgpt_embtune.base_models import resolve_base
from docsgpt_embtune.embeddings import StockEmbeddings


class EmbeddingsWrapper(StockEmbeddings):
    """Embed with a model that is not registered, as DocsGPT does.

    Args:
        model_name: A model folder or a hub name.
        **kwargs: Accepted for compatibility with DocsGPT, and ignored.
    """

    def __init__(self, model_name: str, **kwargs: Any) -> None:
        super().__init__(resolve_base(model_name).folder)
