"""Into a DocsGPT deployment, and back out."""
