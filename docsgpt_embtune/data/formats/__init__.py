"""File formats of datasets, those of other tools included: one module each, all listed in `registry`."""
