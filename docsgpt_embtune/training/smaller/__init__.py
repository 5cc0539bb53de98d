"""Smaller models of a tuned one: fewer numbers in a vector, fewer layers, or a table of tokens."""
