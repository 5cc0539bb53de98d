"""Bad chunks that answer after all, told by a model."""

from collections.abc import Mapping, Sequence

import numpy as np

from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.training.base_models import resolve_base
from docsgpt_embtune.training.negatives import NEAR_DUPLICATE

Judged = Sequence[tuple[str, str, str]]  # query_id, doc_id of a bad chunk, doc_id of a good one


def like_the_good_chunk(corpus: Mapping[str, str], judged: Judged, model: str) -> list[tuple[str, str]]:
    """Find bad chunks that say nearly what the good one says.

    Args:
        corpus: doc_id -> text, of the chunks named in `judged`.
        judged: Bad chunks, each beside each good chunk of its question.
        model: The base model: "bundled", a folder or a hub name.

    Returns:
        (query_id, doc_id) of bad chunks whose cosine similarity to a good one is at least that of a near-duplicate.
    """
    from docsgpt_embtune.embeddings import StockEmbeddings

    doc_ids = list(corpus)
    row_of = {doc_id: row for row, doc_id in enumerate(doc_ids)}
    embeddings = StockEmbeddings(resolve_base(model).folder, device=None, encode_kwargs={"show_progress_bar": True})
    vectors = np.asarray(embeddings.embed_documents([corpus[doc_id] for doc_id in doc_ids]), dtype=np.float32)  # (N, D)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = vectors[[row_of[doc_id] for _, doc_id, _ in judged]]
    good = vectors[[row_of[doc_id] for _, _, doc_id in judged]]
    alike = (bad * good).sum(axis=1) >= NEAR_DUPLICATE  # (J,)
    return list(dict.fromkeys((judged[row][0], judged[row][1]) for row in np.flatnonzero(alike).tolist()))


def as_good_as_the_good_chunk(
    queries: Mapping[str, str], corpus: Mapping[str, str], judged: Judged, cross_encoder: str
) -> list[tuple[str, str]]:
    """Find bad chunks that a cross-encoder holds to answer as well as the best good one.

    Args:
        queries: query_id -> text.
        corpus: doc_id -> text.
        judged: Bad chunks, each beside each good chunk of its question.
        cross_encoder: A folder or a hub name.

    Raises:
        ModelFolderError: If it cannot be loaded.
    """
    from sentence_transformers import CrossEncoder

    try:
        model = CrossEncoder(str(resolve_base(cross_encoder).folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{cross_encoder}: not a cross-encoder that can be loaded ({error})") from error
    pairs = list(dict.fromkeys((query_id, doc_id) for query_id, *doc_ids in judged for doc_id in doc_ids))
    texts = [(queries[query_id], corpus[doc_id]) for query_id, doc_id in pairs]
    scores = dict(zip(pairs, map(float, model.predict(texts, show_progress_bar=True)), strict=True))
    best: dict[str, float] = {}
    for query_id, _, good in judged:
        best[query_id] = max(best.get(query_id, -np.inf), scores[query_id, good])
    bad_pairs = dict.fromkeys((query_id, bad) for query_id, bad, _ in judged)
    return [(query_id, doc_id) for query_id, doc_id in bad_pairs if scores[query_id, doc_id] >= best[query_id]]
