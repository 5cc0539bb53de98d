"""Thresholds above which a chunk not marked as good may answer all the same (a false negative)."""

# A chunk that scores above this share of the best good chunk's score may well be good itself: NV-Retriever
# (Moreira et al., 2024) found 95 % of the positive's score the best of the filters it compared.
MAX_SHARE_OF_GOOD_SCORE = 0.95
# Cosine similarity from which two chunks count as near-duplicates.
NEAR_DUPLICATE = 0.95
