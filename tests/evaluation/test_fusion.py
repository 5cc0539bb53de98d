import numpy as np

from docsgpt_embtune.evaluation.fusion import fused
from docsgpt_embtune.evaluation.ranking import Ranking


def ranking(*rows):
    return Ranking(["q"] * len(rows), list("abcdef"), np.array(rows))


def test_ranks_are_fused_as_the_paper_does():
    both = fused(ranking([0, 1, 2]), ranking([2, 3, 0]))
    # a: 1/61 + 1/63, c: 1/63 + 1/61, b: 1/62, d: 1/62: equal scores stand as in the first ranking.
    assert both.nearest.tolist() == [[0, 2, 1]]
    assert fused(ranking([0, 1, 2]), ranking([1, 0, 5])).nearest.tolist() == [[0, 1, 2]]


def test_the_papers_constant_decides_a_close_case():
    """2nd and 14th give 1/62 + 1/74, 6th and 9th 1/66 + 1/69: less by 2e-6, and more if the constant were 59."""
    first, second = list(range(2, 16)), list(range(16, 30))
    first[1] = second[13] = 0
    first[5] = second[8] = 1
    assert fused(ranking(first), ranking(second)).nearest[0, :2].tolist() == [1, 0]


def test_what_one_search_does_not_find_is_no_document():
    assert fused(ranking([3, 1, 0]), ranking([-1, -1, -1])).nearest.tolist() == [[3, 1, 0]]
    assert fused(ranking([3, -1, -1]), ranking([1, 3, -1])).nearest.tolist() == [[3, 1, -1]]
    assert fused(ranking([3, -1, -1, -1]), ranking([1, 2])).nearest.tolist() == [[3, 1, 2, -1]]
