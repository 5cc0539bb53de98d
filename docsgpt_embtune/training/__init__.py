"""From a dataset to a model folder."""
