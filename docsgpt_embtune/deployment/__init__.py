"""Put a tuned model into a DocsGPT deployment, and take it out again."""
