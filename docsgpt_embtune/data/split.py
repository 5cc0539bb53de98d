"""Hold questions back without letting an answer leak across the line."""

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
# Of more, a hundred can be spared to choose by, and to ask all of them in folds would take longer than it is worth.
FEW_QUESTIONS = 500


def hold_out(dataset: RetrievalDataset, share: float, seed: int) -> tuple[RetrievalDataset, RetrievalDataset]:
    """Split off a share of the questions, questions that share a good chunk staying together.

    Args:
        dataset: At least two groups of questions that share no good chunk.
        share: Share of the questions to hold out, 0 < share < 1; met as nearly as whole groups allow.
        seed: Seed of the drawing.

    Returns:
        The questions that stay, and those held out; both over the whole corpus.

    Raises:
        DatasetError: If every question shares its good chunks with the others.
    """
    group_of = number_by_answer([dataset.relevant_docs[query_id] for query_id in dataset.queries])  # (Q,)
    sizes = np.bincount(group_of)
    if len(sizes) < 2:
        why = f"all {len(dataset)} questions share their good chunks" if len(dataset) > 1 else "there is one question"
        raise DatasetError(f"{', '.join(dataset.sources)}: {why}, so none can be held out for validation; give --val")
    drawn = draw_groups(sizes, [max(1, round(share * len(dataset)))], seed)[0]
    out = np.isin(group_of, drawn if len(drawn) else sizes.argmin())
    query_ids = list(dataset.queries)
    return (
        dataset.subset(query_id for query_id, is_out in zip(query_ids, out, strict=True) if not is_out),
        dataset.subset(query_id for query_id, is_out in zip(query_ids, out, strict=True) if is_out),
    )


def folds_by_answer(dataset: RetrievalDataset, count: int) -> list[tuple[list[int], list[int]]]:
    """Share the questions out among folds of like size, questions that share a good chunk staying together.

    Args:
        dataset: At least `count` groups of questions that share no good chunk.
        count: Number of folds, at least 2.

    Returns:
        For each fold, the places of the questions that may be learned from before those in it are asked, and of the
        latter, both ascending. The former are all others but those that ask the same in the same words, perhaps none.
    """
    from sklearn.model_selection import GroupKFold  # takes a second to import

    groups = number_by_answer([dataset.relevant_docs[query_id] for query_id in dataset.queries])
    digests = np.array([query_digest(text) for text in dataset.queries.values()])
    split = GroupKFold(count).split(groups, groups=groups)
    return [
        (outside[~np.isin(digests[outside], digests[inside])].tolist(), inside.tolist()) for outside, inside in split
    ]


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


def draw_groups(sizes: npt.NDArray[np.int64], wanted: Sequence[int], seed: int) -> list[Numbers]:
    """Draw whole groups at random for each of several splits, none of them in two.

    Args:
        sizes: (G,) questions in each group.
        wanted: Questions wanted in each split; met as nearly as whole groups allow, from below.
        seed: Seed of the drawing.

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
    """Join queries that share a good document or their words, directly or over others (connected components).

    A question under several ids, each with another answer, is found the same chunks each time: it is one piece of
    evidence, as several questions about one answer are.

    Args:
        questions: Their corpus is not looked at.

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
    """Number the groups of queries that share a good document: (Q,), from the documents that answer each."""
    doc_number: dict[Hashable, int] = {}
    judged = [
        (query, len(good) + doc_number.setdefault(doc_id, len(doc_number)))
        for query, doc_ids in enumerate(good)
        for doc_id in doc_ids
    ]
    ends = np.array(judged, dtype=np.int32).reshape(-1, 2)
    return connected_groups(len(good) + len(doc_number), [(ends[:, 0], ends[:, 1])])[: len(good)]
