"""Split questions into parts so that no answer leaks from one part into another."""

import random
from array import array
from collections.abc import Collection, Hashable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from docsgpt_embtune.data.dataset import RetrievalDataset, query_digest
from docsgpt_embtune.errors import DatasetError

Numbers = npt.NDArray[np.int32]
SPLITS = ("train", "validation", "test")
# From more, a hundred can be spared for validation, and cross-validation over all would take longer than it is worth.
FEW_QUESTIONS = 500


def hold_out(dataset: RetrievalDataset, share: float, seed: int) -> tuple[RetrievalDataset, RetrievalDataset]:
    """Hold out a share of the questions; questions that share a good chunk stay together.

    Args:
        dataset: Its questions must form at least two groups that share no good chunk.
        share: Share of the questions to hold out, 0 < share < 1; met as nearly as whole groups allow.
        seed: Random seed.

    Returns:
        The questions that stay, and those held out; both over the whole corpus.

    Raises:
        DatasetError: If there is only one such group.
    """
    group_of = number_by_answer([dataset.relevant_docs[query_id] for query_id in dataset.queries])  # (Q,)
    sizes = np.bincount(group_of)
    if len(sizes) < 2:
        why = f"all {len(dataset)} questions share their good chunks" if len(dataset) > 1 else "there is one question"
        raise DatasetError(f"{', '.join(dataset.sources)}: {why}, so none can be held out for validation; give --val")
    drawn = draw_groups(sizes, [round(share * len(dataset))], seed)[0]
    out = np.isin(group_of, drawn if len(drawn) else sizes.argmin())
    query_ids = list(dataset.queries)
    return (
        dataset.subset(query_id for query_id, is_out in zip(query_ids, out, strict=True) if not is_out),
        dataset.subset(query_id for query_id, is_out in zip(query_ids, out, strict=True) if is_out),
    )


def folds_by_answer(dataset: RetrievalDataset, count: int) -> list[tuple[list[int], list[int]]]:
    """Split the questions into cross-validation folds of similar size; those that share a good chunk stay together.

    Args:
        dataset: Its questions must form at least `count` groups that share no good chunk.
        count: Number of folds, at least 2.

    Returns:
        For each fold, the positions of the questions to train on and of those in the fold, both ascending. Questions
        in the same words as one in the fold are not trained on, so that there may be none to train on.
    """
    from sklearn.model_selection import GroupKFold  # takes a second to import

    groups = number_by_answer([dataset.relevant_docs[query_id] for query_id in dataset.queries])
    digests = np.array([query_digest(text) for text in dataset.queries.values()])
    split = GroupKFold(count).split(groups, groups=groups)
    return [
        (outside[~np.isin(digests[outside], digests[inside])].tolist(), inside.tolist()) for outside, inside in split
    ]


def connected_groups(nodes: int, edges: Sequence[tuple[Numbers, Numbers]]) -> Numbers:
    """Number the connected components of a graph.

    Args:
        nodes: Number of nodes.
        edges: Arrays (E,) of the edges' start nodes and end nodes; several sets of edges are joined.

    Returns:
        (nodes,) component of each node, numbered in the order of the components' first nodes.
    """
    starts = np.concatenate([start for start, _ in edges])
    ends = np.concatenate([end for _, end in edges])
    graph = coo_array((np.ones(len(starts), dtype=bool), (starts, ends)), shape=(nodes, nodes))
    labels: Numbers = connected_components(graph, directed=False)[1]
    return labels


def draw_groups(sizes: npt.NDArray[np.int64], wanted: Sequence[int], seed: int) -> list[Numbers]:
    """Draw whole groups at random for several splits, each group for one split at most.

    Args:
        sizes: (G,) questions in each group.
        wanted: Questions wanted in each split, which is never exceeded and met as nearly as whole groups allow.
        seed: Random seed.

    Returns:
        For each split, the numbers of the groups drawn.
    """
    order = array("i", range(len(sizes)))  # a list of ten million numbers would take half a gigabyte
    random.Random(seed).shuffle(order)
    left = np.asarray(order)
    drawn = []
    for size in wanted:
        taken = np.zeros(len(left), dtype=bool)
        rest = np.arange(len(left))
        while len(rest := rest[sizes[left[rest]] <= size]):
            filled = np.cumsum(sizes[left[rest]])
            fitting = int(np.searchsorted(filled, size, side="right"))
            taken[rest[:fitting]] = True
            size -= int(filled[fitting - 1])
            rest = rest[fitting:]
        drawn.append(left[taken])
        left = left[~taken]
    return drawn


def groups_by_answer(questions: RetrievalDataset) -> list[list[str]]:
    """Group queries that share a good document or all their words, directly or through others (connected components).

    A question under several ids, each with another answer, retrieves the same chunks each time. It counts as one piece
    of evidence, as do several questions about one answer.

    Args:
        questions: The queries and their judgments; the corpus is not used.

    Returns:
        The query ids of each group; every query is in exactly one.
    """
    shared = [
        [*questions.relevant_docs[query_id], ("words", query_digest(text))]
        for query_id, text in questions.queries.items()
    ]
    group_of = number_by_answer(shared)
    groups: list[list[str]] = [[] for _ in range(int(group_of.max(initial=-1)) + 1)]
    for query_id, group in zip(questions.queries, group_of, strict=True):
        groups[group].append(query_id)
    return groups


def number_by_answer(good: Collection[Sequence[Hashable]]) -> Numbers:
    """Number the groups of queries that share a good document: (Q,) from the good documents of each query."""
    doc_number: dict[Hashable, int] = {}
    judged = [
        (query, len(good) + doc_number.setdefault(doc_id, len(doc_number)))
        for query, doc_ids in enumerate(good)
        for doc_id in doc_ids
    ]
    ends = np.array(judged, dtype=np.int32).reshape(-1, 2)
    return connected_groups(len(good) + len(doc_number), [(ends[:, 0], ends[:, 1])])[: len(good)]
