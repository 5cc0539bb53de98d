"""Hold questions back without letting an answer leak across the line."""

import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.errors import DatasetError

Numbers = npt.NDArray[np.int32]


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
    group_of = _groups_by_answer(dataset)  # (Q,)
    sizes = np.bincount(group_of)
    if len(sizes) < 2:
        raise DatasetError(
            f"{', '.join(dataset.sources)}: all {len(dataset)} questions share their good chunks, so none can be held "
            "out for validation; give --val"
        )
    drawn = draw_groups(sizes, [max(1, round(share * len(dataset)))], seed)[0] or [int(sizes.argmin())]
    out = np.isin(group_of, drawn)
    query_ids = list(dataset.queries)
    return (
        dataset.subset(query_id for query_id, is_out in zip(query_ids, out, strict=True) if not is_out),
        dataset.subset(query_id for query_id, is_out in zip(query_ids, out, strict=True) if is_out),
    )


def connected_groups(nodes: int, edges: Sequence[tuple[Numbers, Numbers]]) -> Numbers:
    """Number the groups of nodes that are connected, directly or over others.

    Args:
        nodes: How many there are.
        edges: Arrays (E,) of the nodes at either end; several sets of them are joined.

    Returns:
        (nodes,) number of each node's group, in the order of the groups' first nodes.
    """
    starts = np.concatenate([start for start, _ in edges])
    ends = np.concatenate([end for _, end in edges])
    graph = coo_array((np.ones(len(starts), dtype=bool), (starts, ends)), shape=(nodes, nodes))
    labels: Numbers = connected_components(graph, directed=False)[1]
    return labels


def draw_groups(sizes: npt.NDArray[np.int64], wanted: Sequence[int], seed: int) -> list[list[int]]:
    """Draw whole groups at random for each of several splits, none of them in two.

    Args:
        sizes: (G,) questions in each group.
        wanted: Questions wanted in each split; met as nearly as whole groups allow, from below.
        seed: Of the drawing.

    Returns:
        For each split, the groups drawn.
    """
    order = list(range(len(sizes)))
    random.Random(seed).shuffle(order)
    drawn = []
    for size in wanted:
        taken, left, filled = [], [], 0
        for group in order:
            if filled + sizes[group] <= size:
                taken.append(group)
                filled += int(sizes[group])
            else:
                left.append(group)
        drawn.append(taken)
        order = left
    return drawn


def _groups_by_answer(dataset: RetrievalDataset) -> Numbers:
    query_number = {query_id: number for number, query_id in enumerate(dataset.queries)}
    doc_number = {doc_id: number for number, doc_id in enumerate(dataset.corpus, len(query_number))}
    judged = [(query_number[q], doc_number[d]) for q, ids in dataset.relevant_docs.items() for d in ids]
    ends = np.array(judged, dtype=np.int32).reshape(-1, 2)
    groups = connected_groups(len(query_number) + len(doc_number), [(ends[:, 0], ends[:, 1])])
    return groups[: len(query_number)]
