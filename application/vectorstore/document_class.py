"""The class of the chunks that vector stores return.

A stand-in for DocsGPT's module of the same name, so that the modules here run without DocsGPT. Only
`application/vectorstore/base.py` replaces a file in DocsGPT.
"""

from typing import Any


class Document(str):
    """A chunk: a string of its text, with metadata."""

    page_content: str
    metadata: dict[str, Any]

    def __new__(cls, page_content: str, metadata: dict[str, Any]) -> "Document":  # noqa: D102
        document = super().__new__(cls, page_content)
        document.page_content = page_content
        document.metadata = metadata
        return document
