"""Where questions and chunks come from: a deployment's stores and conversations, documents, a language model."""
