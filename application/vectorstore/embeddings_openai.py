"""Embeddings from OpenAI and Azure OpenAI.

A stand-in for DocsGPT's module of the same name, so that the modules here run without DocsGPT. Only
`application/vectorstore/base.py` replaces a file in DocsGPT.
"""

from collections.abc import Sequence
from typing import Any

from application.core.settings import settings


class OpenAIEmbeddings:
    """Embed through the openai SDK, which is imported at construction.

    Args:
        openai_api_key: The key; if not given, EMBEDDINGS_KEY, or else OPENAI_API_KEY.
        model: The model; on Azure, the deployment.
    """

    def __init__(self, openai_api_key: str | None = None, model: str = "text-embedding-ada-002") -> None:
        import openai

        self.model = model
        self.dimension: int | None = None  # known after the first answer
        api_key = openai_api_key or settings.EMBEDDINGS_KEY or settings.OPENAI_API_KEY
        self.client: Any
        if settings.OPENAI_API_BASE and settings.OPENAI_API_VERSION and settings.AZURE_DEPLOYMENT_NAME:
            self.client = openai.AzureOpenAI(
                api_key=api_key, azure_endpoint=settings.OPENAI_API_BASE, api_version=settings.OPENAI_API_VERSION
            )
        else:
            self.client = openai.OpenAI(api_key=api_key, base_url=settings.OPENAI_BASE_URL)

    def embed_query(self, query: str) -> list[float]:
        """Embed one question."""
        return self.embed_documents([query])[0]

    def embed_documents(self, documents: Sequence[str]) -> list[list[float]]:
        """Embed chunks, in order."""
        if not documents:
            return []
        answer = self.client.embeddings.create(model=self.model, input=list(documents))
        vectors = [item.embedding for item in sorted(answer.data, key=lambda item: item.index)]
        self.dimension = len(vectors[0])
        return vectors
