"""Compare baseline and tuned model on questions that neither has seen, with the search that DocsGPT runs."""
