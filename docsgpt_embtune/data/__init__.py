"""Questions, chunks and judgments: read, checked, split."""
