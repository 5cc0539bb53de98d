"""Counting tokens as DocsGPT does.

Stands where DocsGPT's own module stands, so that the seam runs from this repository; only
`application/vectorstore/base.py` replaces a file of the host.
"""

from functools import cache
from typing import Any


@cache
def get_encoding() -> Any:
    """Return tiktoken's cl100k_base; its table is fetched at the first use on a machine."""
    import tiktoken

    return tiktoken.get_encoding("cl100k_base")
