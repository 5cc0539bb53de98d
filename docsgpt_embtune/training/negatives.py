"""Bad chunks for questions that have none: what the base model ranks high and nobody called good."""

from collections.abc import Mapping, Sequence

import faiss
import numpy as np
import numpy.typing as npt

from docsgpt_embtune.data.dataset import RetrievalDataset

# A chunk that scores above this share of the question's best good chunk may well be good itself: NV-Retriever
# (Moreira et al., 2024) found 95 % of the positive's score the best of the filters it compared.
MAX_SHARE_OF_GOOD_SCORE = 0.95
# Cosine from which two chunks count as one text in two places.
NEAR_DUPLICATE = 0.95
# How far down the ranking hard negatives are looked for.
DEPTH = 100


def mine_negatives(
    dataset: RetrievalDataset,
    query_ids: Sequence[str],
    query_embeddings: npt.NDArray[np.float32],
    doc_ids: Sequence[str],
    corpus_embeddings: npt.NDArray[np.float32],
    *,
    per_query: int,
) -> dict[str, tuple[str, ...]]:
    """Pick the hardest chunks for each question that are probably not answers to it.

    Passed over are the good chunks, near-duplicates of them, and what scores so close to the best good chunk
    that it may answer too. Where that leaves too few, the question gets fewer.

    Args:
        dataset: Where the good chunks of each question are.
        query_ids: The questions to mine for (Q).
        query_embeddings: Their vectors (Q, D), unit norm.
        doc_ids: The corpus (N).
        corpus_embeddings: Its vectors (N, D), unit norm.
        per_query: Bad chunks wanted for each question.

    Returns:
        query_id -> doc_ids, hardest first, at most `per_query` of them.
    """
    row_of = {doc_id: row for row, doc_id in enumerate(doc_ids)}
    index = faiss.IndexFlatIP(corpus_embeddings.shape[1])
    index.add(corpus_embeddings)
    scores, rows = index.search(query_embeddings, min(DEPTH, len(doc_ids)))  # (Q, DEPTH) each
    mined = {}
    for position, query_id in enumerate(query_ids):
        good_rows = [row_of[doc_id] for doc_id in dataset.relevant_docs[query_id]]
        good_embeddings = corpus_embeddings[good_rows]  # (G, D)
        ceiling = MAX_SHARE_OF_GOOD_SCORE * float((good_embeddings @ query_embeddings[position]).max())
        candidates = rows[position][(scores[position] <= ceiling) & (rows[position] >= 0)]
        likeness = (corpus_embeddings[candidates] @ good_embeddings.T).max(axis=1)  # (candidates,)
        kept = [row for row in candidates[likeness < NEAR_DUPLICATE] if row not in good_rows][:per_query]
        mined[query_id] = tuple(doc_ids[row] for row in kept)
    return mined
