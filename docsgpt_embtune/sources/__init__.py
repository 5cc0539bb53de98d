"""Sources of questions and chunks: a deployment's stores and conversations, documents, a language model."""
