"""A chunk as the vector stores hand it out.

Stands where DocsGPT's own module stands, so that the seam runs from this repository; only
`application/vectorstore/base.py` replaces a file of the host.
"""

from typing import Any


class Document(str):
    """A chunk: its text, which it also is, and its metadata."""

    page_content: str
    metadata: dict[str, Any]

    def __new__(cls, page_content: str, metadata: dict[str, Any]) -> "Document":  # noqa: D102
        document = super().__new__(cls, page_content)
        document.page_content = page_content
        document.metadata = metadata
        return document
