"""Mine hard negatives where too few bad chunks are given: chunks that the model ranks high and nobody judged good."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice, zip_longest

import faiss
import numpy as np
import numpy.typing as npt

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.data.likely_answers import MAX_SHARE_OF_GOOD_SCORE, NEAR_DUPLICATE
from docsgpt_embtune.evaluation.ranking import Ranking
from docsgpt_embtune.training.config import TrainConfig
from docsgpt_embtune.vectors import Vectors

# How many of the nearest chunks are searched for hard negatives.
MINING_DEPTH = 100
# Each good chunk has a row of the ranking loss, and each row holds all bad chunks of its question: without a limit, the
# cost would grow with the square of the good chunks. With 12 questions of 40 good chunks each, a run of 90 seconds took
# half an hour.
MOST_IN_A_ROW = 4


def most_mined(config: TrainConfig) -> int:
    """Return how many bad chunks, those in the data included, a question is filled up to at most."""
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
    """Find, for each question with too few bad chunks, the hardest chunks that are probably not answers to it.

    Good chunks, near-duplicates of them, chunks that contain the question word for word, and chunks that score so close
    to the best good chunk that they may answer too are skipped. Where this leaves too few of the first 100, the
    question gets fewer.

    Args:
        dataset: Questions, corpus and judgments.
        query_embeddings: Vectors of the queries (Q, D) in the dataset's order, unit norm.
        corpus_embeddings: Vectors of the corpus (N, D) in its order, unit norm.
        per_good: Bad chunks wanted for each good one, those in the data included: with fewer than one, a contrastive
            loss could pull everything together.
        most: Limit of the bad chunks wanted for one question.
        ceiling: Share of the best good chunk's score above which a chunk is skipped.
        keywords: BM25 ranking of the corpus for the same queries. Every second negative is taken from it, as vectors
            alone do not bring up chunks that share the words and miss the point.
        chunk_of: piece_id -> doc_id where chunks are cut into pieces: no piece of a judged chunk becomes a negative.

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
        no_answers = partial(
            _without_likely_answers,
            query=query_embeddings[position],
            corpus_embeddings=corpus_embeddings,
            good_embeddings=corpus_embeddings[[row_of[doc_id] for doc_id in good]],  # (G, D)
            ceiling=ceiling,
        )
        candidates = no_answers(nearest[position])
        if keywords is not None:
            alike = keywords.nearest[position]
            candidates = _alternating(candidates, no_answers(alike[alike >= 0]))
        hardest = (doc_ids[row] for row in candidates)
        unjudged = (
            doc_id for doc_id in hardest if whole(doc_id) not in judged and question not in dataset.corpus[doc_id]
        )
        if kept := tuple(islice(unjudged, wanted)):
            mined[query_id] = kept
    return mined


def _without_likely_answers(
    rows: npt.NDArray[np.int64], query: Vectors, corpus_embeddings: Vectors, good_embeddings: Vectors, ceiling: float
) -> list[int]:
    embeddings = corpus_embeddings[rows]
    best = float((good_embeddings @ query).max())
    safe = embeddings @ query <= best - (1 - ceiling) * (abs(best) or 1.0)  # works for negative scores, too
    # None is safe where even the best good chunk is far away. The lowest-ranked are then the least likely answers.
    order = np.flatnonzero(safe) if safe.any() else np.arange(len(rows))[::-1]
    copies = (embeddings @ good_embeddings.T).max(axis=1, initial=-1.0) >= NEAR_DUPLICATE
    return [int(rows[place]) for place in order if not copies[place]]


def _alternating(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Take one of each in turn, each row once."""
    turns = (row for pair in zip_longest(first, second) for row in pair if row is not None)
    return list(dict.fromkeys(turns))
