"""Bad chunks that answer after all (false negatives), found with a model."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from docsgpt_embtune.base_models import resolve_base
from docsgpt_embtune.data.likely_answers import MAX_SHARE_OF_GOOD_SCORE, NEAR_DUPLICATE
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.loading import architectures_of, have_a_classifying_head, without_transformers_bars
from docsgpt_embtune.progress import Bar
from docsgpt_embtune.vectors import Vectors, unit_norm

Judged = Sequence[tuple[str, str, str]]  # query_id, doc_id of a bad chunk, doc_id of a good one
Pairs = list[tuple[str, str]]  # query_id, doc_id

# Cosine similarity to the good chunk from which a bad one that also scores like it counts as saying the same in other
# words. This finds a quarter of the chunks that answer in emanual, and an eighth in zoomcamp_faq. Of the three
# best-scoring chunks that nobody marked, it takes 5 % and 1 % for answers, and some of those are. At .7 it finds twice
# as many, and takes three times as many.
SAME_IN_OTHER_WORDS = 0.8
_AT_ONCE = 512  # texts given to a model between two updates of the progress bar


def like_the_good_chunk(
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    judged: Judged,
    told_apart: Collection[tuple[str, str, str]],
    model: str,
) -> Pairs:
    """Find bad chunks that may say what the good one says.

    Args:
        queries: query_id -> text.
        corpus: doc_id -> text, of the chunks named in `judged`.
        judged: (query_id, bad doc_id, good doc_id), each bad chunk with each good chunk of its question.
        told_apart: Those of `judged` whose chunks differ in a distinctive word of the question: no near-duplicates.
        model: The base model: "bundled", a folder or a hub name.

    Returns:
        (query_id, doc_id) of bad chunks that are near-duplicates of a good one, or similar to one and so near to the
        question that they would not be mined as hard negatives.
    """
    from docsgpt_embtune.embeddings import StockEmbeddings

    embeddings = StockEmbeddings(resolve_base(model).folder, device=None)

    def embedded(texts: Mapping[str, str], ids: Sequence[str], kind: str) -> Vectors:
        row_of = {text_id: row for row, text_id in enumerate(texts)}
        vectors = unit_norm(_in_blocks(embeddings.embed_documents, list(texts.values()), f"embedding {kind}"))  # (N, D)
        return vectors[[row_of[text_id] for text_id in ids]]  # (J, D)

    query_ids, bad_ids, good_ids = zip(*judged, strict=True)
    query = embedded(queries, query_ids, "questions")
    bad, good = np.split(embedded(corpus, bad_ids + good_ids, "chunks"), 2)
    alike = (bad * good).sum(axis=1)  # (J,)
    best_score: dict[str, float] = {}
    for query_id, score in zip(query_ids, (good * query).sum(axis=1).tolist(), strict=True):
        best_score[query_id] = max(best_score.get(query_id, -1.0), score)
    as_near = (bad * query).sum(axis=1) > MAX_SHARE_OF_GOOD_SCORE * np.array([best_score[q] for q in query_ids])
    same = (alike >= NEAR_DUPLICATE) & np.array([each not in told_apart for each in judged])
    found = same | (as_near & (alike >= SAME_IN_OTHER_WORDS))
    return list(dict.fromkeys((judged[row][0], judged[row][1]) for row in np.flatnonzero(found).tolist()))


def _in_blocks(call: Callable[[list[Any]], Any], texts: Sequence[str | tuple[str, str]], label: str) -> Vectors:
    """Run a model on blocks of texts with a progress bar, the longest first so that padding is short."""
    order = sorted(range(len(texts)), key=lambda row: -len("".join(texts[row])))
    found: dict[int, Any] = {}
    with Bar(total=len(order), desc=label, unit=" texts", unit_scale=True) as bar:
        for start in range(0, len(order), _AT_ONCE):
            block = order[start : start + _AT_ONCE]
            found |= zip(block, call([texts[row] for row in block]), strict=True)
            bar.update(len(block))
    return np.array([found[row] for row in range(len(texts))], dtype=np.float32)


def as_good_as_the_good_chunk(
    queries: Mapping[str, str], corpus: Mapping[str, str], judged: Judged, cross_encoder: str
) -> Pairs:
    """Find bad chunks that a cross-encoder scores at least as high as the best good one.

    Args:
        queries: query_id -> text.
        corpus: doc_id -> text.
        judged: (query_id, bad doc_id, good doc_id), each bad chunk with each good chunk of its question.
        cross_encoder: A folder or a hub name.

    Returns:
        (query_id, doc_id) of these bad chunks.

    Raises:
        ModelFolderError: If the model is no cross-encoder, or cannot be loaded.
    """
    from sentence_transformers import CrossEncoder

    folder = resolve_base(cross_encoder).folder
    _refuse_other_than_cross_encoder(cross_encoder, folder)
    try:
        with without_transformers_bars():
            model = CrossEncoder(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{cross_encoder}: not a cross-encoder that can be loaded ({error})") from error
    pairs = list(dict.fromkeys((query_id, doc_id) for query_id, *doc_ids in judged for doc_id in doc_ids))
    texts = [(queries[query_id], corpus[doc_id]) for query_id, doc_id in pairs]
    found = _in_blocks(lambda block: model.predict(block, show_progress_bar=False), texts, "asking the cross-encoder")
    scores = dict(zip(pairs, found.tolist(), strict=True))
    best: dict[str, float] = {}
    for query_id, _, good in judged:
        best[query_id] = max(best.get(query_id, -np.inf), scores[query_id, good])
    bad_pairs = dict.fromkeys((query_id, bad) for query_id, bad, _ in judged)
    return [(query_id, doc_id) for query_id, doc_id in bad_pairs if scores[query_id, doc_id] >= best[query_id]]


def _refuse_other_than_cross_encoder(name: str, folder: Path) -> None:
    """Raise for a model without a classification head, as a randomly initialised one would be added."""
    architectures = architectures_of(folder)
    if not have_a_classifying_head(architectures):
        raise ModelFolderError(
            f"{name}: no cross-encoder: the architectures in its config.json ({', '.join(architectures) or 'none'}) "
            "are no …ForSequenceClassification; give one that is, such as cross-encoder/ms-marco-MiniLM-L6-v2"
        )
