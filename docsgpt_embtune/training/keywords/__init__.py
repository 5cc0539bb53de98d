"""Keywords beside a model's numbers: what their words count, how much they weigh, and whether they stay."""
