"""Datasets in the layouts of other tools: one module for each, `registry` for all."""
