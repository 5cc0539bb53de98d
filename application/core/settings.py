"""The settings that the vector store modules read, from the environment and `.env`.

A stand-in for DocsGPT's module of the same name, so that the modules here run without DocsGPT. Only
`application/vectorstore/base.py` replaces a file in DocsGPT.
"""

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

CHECKOUT = Path(__file__).parents[2]


class Settings(BaseSettings):
    """Settings with DocsGPT's names and defaults."""

    model_config = SettingsConfigDict(env_file=CHECKOUT / ".env", extra="ignore")

    VECTOR_STORE: str = "faiss"
    EMBEDDINGS_NAME: str = "huggingface_sentence-transformers/all-mpnet-base-v2"
    EMBEDDINGS_BASE_URL: str | None = None
    EMBEDDINGS_KEY: str | None = None
    EMBEDDINGS_MAX_INPUT_TOKENS: int | None = None  # tokens; None leaves texts whole
    OPENAI_API_KEY: str | None = None
    OPENAI_BASE_URL: str | None = None
    OPENAI_API_BASE: str | None = None  # for Azure, like the three below
    OPENAI_API_VERSION: str | None = None
    AZURE_DEPLOYMENT_NAME: str | None = None
    AZURE_EMBEDDINGS_DEPLOYMENT_NAME: str | None = None


settings = Settings()
