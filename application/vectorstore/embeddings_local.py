"""Any sentence-transformers model, by folder or by hub name.

Stands where DocsGPT's own module stands, so that the seam runs from this repository; only
`application/vectorstore/base.py` replaces a file of the host.
"""

from typing import Any

from docsgpt_embtune.base_models import resolve_base
from docsgpt_embtune.embeddings import StockEmbeddings


class EmbeddingsWrapper(StockEmbeddings):
    """Embed as DocsGPT does with a model that it does not know.

    Args:
        model_name: A model folder, or a name on the hub.
        **kwargs: Taken for the host's sake and not used.
    """

    def __init__(self, model_name: str, **kwargs: Any) -> None:
        super().__init__(resolve_base(model_name).folder)
