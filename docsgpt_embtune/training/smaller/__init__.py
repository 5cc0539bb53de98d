"""Make a tuned model smaller: fewer numbers in a vector, fewer layers, or a table of token vectors."""
