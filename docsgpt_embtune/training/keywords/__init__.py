"""Keywords beside a model's numbers: how much each word counts, what weight they get, and whether they are kept."""
