"""Hold questions back without letting an answer leak across the line."""

import random
from collections.abc import Mapping

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.errors import DatasetError


def hold_out(dataset: RetrievalDataset, share: float, seed: int) -> tuple[RetrievalDataset, RetrievalDataset]:
    """Split off a share of the questions, questions that share a good chunk staying together.

    Args:
        dataset: At least two groups of questions that share no good chunk.
        share: Of the questions to hold out, 0 < share < 1; met as nearly as whole groups allow.
        seed: Of the drawing.

    Returns:
        The questions that stay, and those held out; both over the whole corpus.

    Raises:
        DatasetError: If every question shares its good chunks with the others.
    """
    groups = groups_by_answer(dataset.relevant_docs)
    if len(groups) < 2:
        raise DatasetError(
            f"{', '.join(dataset.sources)}: all {len(dataset)} questions share their good chunks, so none can be held "
            "out for validation; give --val"
        )
    random.Random(seed).shuffle(groups)
    wanted = max(1, round(share * len(dataset)))
    held_out: list[str] = []
    for group in groups:
        if len(held_out) + len(group) <= wanted:
            held_out += group
    held_out = held_out or min(groups, key=len)
    out = frozenset(held_out)
    return (
        dataset.subset(query_id for query_id in dataset.queries if query_id not in out),
        dataset.subset(query_id for query_id in dataset.queries if query_id in out),
    )


def groups_by_answer(relevant_docs: Mapping[str, tuple[str, ...]]) -> list[list[str]]:
    """Join queries that share a good document, directly or over others (connected components).

    Args:
        relevant_docs: query_id -> ids of the documents that answer, at least one.

    Returns:
        The query ids of each group; every query is in exactly one.
    """
    leader: dict[str, str] = {}

    def find(doc_id: str) -> str:
        leader.setdefault(doc_id, doc_id)
        while leader[doc_id] != doc_id:
            leader[doc_id] = leader[leader[doc_id]]
            doc_id = leader[doc_id]
        return doc_id

    for doc_ids in relevant_docs.values():
        for doc_id in doc_ids[1:]:
            leader[find(doc_id)] = find(doc_ids[0])
    groups: dict[str, list[str]] = {}
    for query_id, doc_ids in relevant_docs.items():
        groups.setdefault(find(doc_ids[0]), []).append(query_id)
    return list(groups.values())
