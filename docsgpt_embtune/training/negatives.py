"""Bad chunks for questions that have none: what the base model ranks high and nobody called good."""

import faiss

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.training.encoding import Vectors

# A chunk that scores above this share of the question's best good chunk may well be good itself: NV-Retriever
# (Moreira et al., 2024) found 95 % of the positive's score the best of the filters it compared.
MAX_SHARE_OF_GOOD_SCORE = 0.95
# Cosine from which two chunks count as one text in two places.
NEAR_DUPLICATE = 0.95
# How far down the ranking hard negatives are looked for.
DEPTH = 100


def mine_negatives(
    dataset: RetrievalDataset, query_embeddings: Vectors, corpus_embeddings: Vectors, *, per_good: int
) -> dict[str, tuple[str, ...]]:
    """Find the hardest chunks for each question that are probably not answers to it, where it has too few bad ones.

    Passed over are the good chunks, near-duplicates of them, and what scores so close to the best good chunk
    that it may answer too. Where that leaves too few in the first 100, the question gets fewer.

    Args:
        dataset: Questions, corpus and judgments.
        query_embeddings: Vectors of the queries (Q, D) in the dataset's order, unit norm.
        corpus_embeddings: Vectors of the corpus (N, D) in its order, unit norm.
        per_good: Bad chunks wanted for each good one, those that are given included: fewer than one would let a
            contrastive loss pull everything together.

    Returns:
        query_id -> doc_ids, hardest first; only questions for which some were wanted and found.
    """
    doc_ids = list(dataset.corpus)
    row_of = {doc_id: row for row, doc_id in enumerate(doc_ids)}
    index = faiss.IndexFlatIP(corpus_embeddings.shape[1])
    index.add(corpus_embeddings)
    scores, rows = index.search(query_embeddings, min(DEPTH, len(doc_ids)))  # (Q, DEPTH) each
    mined = {}
    for position, query_id in enumerate(dataset.queries):
        good, given = dataset.relevant_docs[query_id], dataset.irrelevant_docs.get(query_id, ())
        wanted = per_good * len(good) - len(given)
        if wanted <= 0:
            continue
        judged_rows = [row_of[doc_id] for doc_id in (*good, *given)]
        good_embeddings = corpus_embeddings[judged_rows[: len(good)]]  # (G, D)
        ceiling = MAX_SHARE_OF_GOOD_SCORE * float((good_embeddings @ query_embeddings[position]).max())
        safe = scores[position] <= ceiling
        # None is safe where even the best good chunk is far away; the last of the depth are the likeliest then.
        candidates = rows[position][safe] if safe.any() else rows[position][::-1]
        likeness = (corpus_embeddings[candidates] @ good_embeddings.T).max(axis=1)  # (candidates,)
        kept = [row for row in candidates[likeness < NEAR_DUPLICATE] if row not in judged_rows][:wanted]
        if kept:
            mined[query_id] = tuple(doc_ids[row] for row in kept)
    return mined
