"""Token counting as in DocsGPT.

A stand-in for DocsGPT's module of the same name, so that the modules here run without DocsGPT. Only
`application/vectorstore/base.py` replaces a file in DocsGPT.
"""

from functools import cache
from typing import Any


@cache
def get_encoding() -> Any:
    """Return tiktoken's cl100k_base; its table is downloaded on first use on a machine."""
    import tiktoken

    return tiktoken.get_encoding("cl100k_base")
