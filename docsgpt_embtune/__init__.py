"""Tune DocsGPT's embeddings on a team's own questions, prove the gain, and put the model into the host."""

__version__ = "0.1.0"
