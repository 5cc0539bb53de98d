"""Bad chunks for questions that have none: what the base model ranks high and nobody called good."""

from collections.abc import Mapping, Sequence
from itertools import islice, zip_longest

import faiss
import numpy as np
import numpy.typing as npt

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.data.likely_answers import MAX_SHARE_OF_GOOD_SCORE, NEAR_DUPLICATE
from docsgpt_embtune.evaluation.ranking import Ranking
from docsgpt_embtune.training.config import TrainConfig
from docsgpt_embtune.vectors import Vectors

# How far down the ranking hard negatives are looked for.
MINING_DEPTH = 100
# A row of the ranking loss holds every bad chunk of its question, and each good chunk has a row: what they cost would
# grow with the square of the good chunks. Of 12 questions with 40 of these each, a run of 90 seconds took half an hour.
MOST_IN_A_ROW = 4


def most_mined(config: TrainConfig) -> int:
    """Tell how many bad chunks a question is given at most, those in the data included."""
    return max(MOST_IN_A_ROW, config.negatives) if config.loss == "multiple-negatives-ranking" else MINING_DEPTH


def mine_negatives(
    dataset: RetrievalDataset,
    query_embeddings: Vectors,
    corpus_embeddings: Vectors,
    *,
    per_good: int,
    most: int = MINING_DEPTH,
    ceiling: float = MAX_SHARE_OF_GOOD_SCORE,
    keywords: Ranking | None = None,
    chunk_of: Mapping[str, str] | None = None,
) -> dict[str, tuple[str, ...]]:
    """Find the hardest chunks for each question that are probably not answers to it, where it has too few bad ones.

    Passed over are the good chunks, near-duplicates of them, chunks that hold the question word for word, and
    what scores so close to the best good chunk that it may answer too. Where that leaves too few in the first 100,
    the question gets fewer.

    Args:
        dataset: Questions, corpus and judgments.
        query_embeddings: Vectors of the queries (Q, D) in the dataset's order, unit norm.
        corpus_embeddings: Vectors of the corpus (N, D) in its order, unit norm.
        per_good: Bad chunks wanted for each good one, those that are given included: fewer than one would let a
            contrastive loss pull everything together.
        most: Bad chunks wanted for a question with many good ones.
        ceiling: Share of the best good chunk's score above which a chunk is passed over.
        keywords: The corpus ranked for the same queries by their words: every second negative comes from there,
            as what shares the words and misses the point is what embeddings alone do not bring up.
        chunk_of: What is one chunk in several pieces: no piece of a judged chunk is taken for a bad one.

    Returns:
        query_id -> doc_ids, hardest first; only questions for which some were wanted and found.
    """
    doc_ids = list(dataset.corpus)
    row_of = {doc_id: row for row, doc_id in enumerate(doc_ids)}
    index = faiss.IndexFlatIP(corpus_embeddings.shape[1])
    index.add(corpus_embeddings)
    _, nearest = index.search(query_embeddings, min(MINING_DEPTH, len(doc_ids)))  # (Q, MINING_DEPTH)
    mined = {}

    def whole(doc_id: str) -> str:
        return chunk_of.get(doc_id, doc_id) if chunk_of else doc_id

    for position, (query_id, question) in enumerate(dataset.queries.items()):
        good, given = dataset.relevant_docs[query_id], dataset.irrelevant_docs.get(query_id, ())
        wanted = min(per_good * len(good), most) - len(given)
        if wanted <= 0:
            continue
        judged = {whole(doc_id) for doc_id in (*good, *given)}
        good_embeddings = corpus_embeddings[[row_of[doc_id] for doc_id in good]]  # (G, D)
        query = query_embeddings[position]
        candidates = _without_likely_answers(nearest[position], query, corpus_embeddings, good_embeddings, ceiling)
        if keywords is not None:
            alike = keywords.nearest[position]
            alike = _without_likely_answers(alike[alike >= 0], query, corpus_embeddings, good_embeddings, ceiling)
            candidates = _alternating(candidates, alike)
        found = (doc_ids[row] for row in candidates)
        fit = (doc_id for doc_id in found if whole(doc_id) not in judged and question not in dataset.corpus[doc_id])
        if kept := tuple(islice(fit, wanted)):
            mined[query_id] = kept
    return mined


def _without_likely_answers(
    rows: npt.NDArray[np.int64], query: Vectors, corpus_embeddings: Vectors, good_embeddings: Vectors, ceiling: float
) -> list[int]:
    embeddings = corpus_embeddings[rows]
    best = float((good_embeddings @ query).max())
    safe = embeddings @ query <= best - (1 - ceiling) * (abs(best) or 1.0)  # at an obtuse angle, too
    # None is safe where even the best good chunk is far away; the last of the depth are the likeliest then.
    order = np.flatnonzero(safe) if safe.any() else np.arange(len(rows))[::-1]
    copies = (embeddings @ good_embeddings.T).max(axis=1, initial=-1.0) >= NEAR_DUPLICATE
    return [int(rows[place]) for place in order if not copies[place]]


def _alternating(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Take one of each in turn, each row once."""
    turns = (row for pair in zip_longest(first, second) for row in pair if row is not None)
    return list(dict.fromkeys(turns))
