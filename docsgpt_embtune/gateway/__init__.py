"""One model for all of a deployment's processes, behind OpenAI's `/v1/embeddings`."""
