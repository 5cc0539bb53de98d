"""Questions that a model has by heart: how it does on these does not tell how it does on others."""

from collections.abc import Mapping
from typing import Any

from docsgpt_embtune.data.dataset import RetrievalDataset, query_digest


def without_learned(questions: RetrievalDataset, manifest: Mapping[str, Any]) -> RetrievalDataset:
    """Keep the questions that a model has not learned from: those that only chose it, and those that it has not seen.

    Args:
        questions: Of any number, which may be none afterwards; the corpus stays.
        manifest: The model folder's, with digests of the questions seen and, among them, of those that chose.
    """
    data = manifest.get("data", {})
    learned = set(data.get("seen_queries", ())).difference(data.get("chosen_by", ()))
    return questions.subset(
        query_id for query_id, text in questions.queries.items() if query_digest(text) not in learned
    )
