"""Serve one model to all of a deployment's processes through OpenAI's `/v1/embeddings` protocol."""
