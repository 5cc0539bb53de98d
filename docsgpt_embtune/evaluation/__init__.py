"""Baseline against tuned, on questions neither has seen, searched as the host searches."""
