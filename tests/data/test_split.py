import random

import numpy as np
import pytest

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.data.split import draw_groups, groups_by_answer, hold_out
from docsgpt_embtune.errors import DatasetError


def dataset_of(relevant_docs: dict[str, tuple[str, ...]]) -> RetrievalDataset:
    corpus = {doc_id: f"text {doc_id}" for ids in relevant_docs.values() for doc_id in ids}
    return RetrievalDataset({q: f"question {q}" for q in relevant_docs}, corpus, relevant_docs)


# Each question shares a chunk with the next of its ten, so only whole tens can be parted.
CHAINED = dataset_of({f"{g}-{n}": (f"{g}-{n}", f"{g}-{n + 1}") for g in range(20) for n in range(10)})


@pytest.mark.parametrize("seed", range(5))
def test_no_good_chunk_is_on_both_sides(seed):
    staying, held_out = hold_out(CHAINED, 0.15, seed)
    answers = [{d for ids in side.relevant_docs.values() for d in ids} for side in (staying, held_out)]
    assert answers[0].isdisjoint(answers[1])
    assert len(held_out) == 30
    assert set(staying.queries) | set(held_out.queries) == set(CHAINED.queries)


def test_same_seed_same_questions():
    assert hold_out(CHAINED, 0.15, 7)[1].queries == hold_out(CHAINED, 0.15, 7)[1].queries
    assert hold_out(CHAINED, 0.15, 7)[1].queries != hold_out(CHAINED, 0.15, 8)[1].queries


def test_groups_larger_than_the_share_give_the_smallest():
    dataset = dataset_of({"a": ("1",), "b": ("1",), "c": ("2",), "d": ("2",), "e": ("2",)})
    assert set(hold_out(dataset, 0.2, 0)[1].queries) == {"a", "b"}


def test_share_is_met_as_nearly_as_whole_groups_allow():
    dataset = dataset_of({f"q{n}": (f"{n}",) for n in range(9)})
    assert len(hold_out(dataset, 0.4, 0)[1]) == 4
    assert len(hold_out(dataset, 0.01, 0)[1]) == 1


def test_question_under_several_ids_is_one_piece_of_evidence_whatever_answers_it():
    dataset = dataset_of({"a": ("1",), "b": ("2",), "c": ("3",), "d": ("3",), "e": ("4",)})
    asked = {**dataset.queries, "a": "What is  it?", "b": "what is it?"}
    groups = groups_by_answer(RetrievalDataset(asked, dataset.corpus, dataset.relevant_docs))
    assert groups == [["a", "b"], ["c", "d"], ["e"]]


def test_one_group_cannot_be_parted():
    with pytest.raises(DatasetError, match="give --val"):
        hold_out(dataset_of({"a": ("1",), "b": ("1", "2"), "c": ("2",)}), 0.2, 0)
    with pytest.raises(DatasetError, match="there is one question, so none can be held out"):
        hold_out(dataset_of({"a": ("1",)}), 0.2, 0)


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_drawn_one_after_the_other_as_long_as_they_fit(seed):
    sizes = np.random.default_rng(seed).integers(1, 40, size=60)
    wanted = [200, 7, 150]
    order = list(range(len(sizes)))
    random.Random(seed).shuffle(order)
    for size, drawn in zip(wanted, draw_groups(sizes, wanted, seed), strict=True):
        expected = []
        for group in order:
            if sizes[[*expected, group]].sum() <= size:
                expected.append(group)
        order = [group for group in order if group not in expected]
        assert drawn.tolist() == expected
