"""From which scores on a chunk that nobody called good may be good after all."""

# A chunk that scores above this share of the question's best good chunk may well be good itself: NV-Retriever
# (Moreira et al., 2024) found 95 % of the positive's score the best of the filters it compared.
MAX_SHARE_OF_GOOD_SCORE = 0.95
# Cosine from which two chunks count as one text in two places.
NEAR_DUPLICATE = 0.95
