from collections import Counter

import pytest

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.training.examples import GroupedBatchSampler, Question, build_examples, questions_of

MANY = [Question(f"q{n}", (f"good {n}", f"good {n + 1}"), (f"bad {n}", f"bad {n + 1}")) for n in range(40)]


def test_online_contrastive_gets_one_good_chunk_of_each_question_in_an_epoch_and_each_in_its_turn():
    four, one = Question("q", ("g1", "g2", "g3", "g4"), ("b1", "b2")), Question("r", ("h",), ("c1", "c2"))
    examples = build_examples([four, one], "online-contrastive")
    sampler = GroupedBatchSampler(examples, 10, in_batch_negatives=False, seed=0)
    seen = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        rows = [examples.rows[row] for batch in sampler for row in batch]
        seen.append(sorted((row["text"], row["label"]) for row in rows))
    always = [("c1", 0), ("c2", 0), ("h", 1)]
    assert sorted(seen) == [
        sorted([*always, ("b1", 0), ("g1", 1)]),
        sorted([*always, ("b1", 0), ("g3", 1)]),  # the two bad ones do not last: from the first again
        sorted([*always, ("b2", 0), ("g2", 1)]),
        sorted([*always, ("b2", 0), ("g4", 1)]),
    ]
    assert all(isinstance(label, int) for label in examples.rows["label"])


def test_not_all_questions_begin_with_their_first_good_chunk():
    examples = build_examples([Question(q, (f"{q} 1", f"{q} 2"), (f"{q} 3",)) for q in "pq"], "online-contrastive")
    sampler = GroupedBatchSampler(examples, 10, in_batch_negatives=False, seed=0)
    assert {examples.rows[row]["text"] for batch in sampler for row in batch} == {"p 1", "p 3", "q 2", "q 3"}


def test_cosine_similarity_gets_every_good_and_every_bad_chunk_in_an_epoch():
    examples = build_examples([Question("q", ("g1", "g2", "g3"), ("b1", "b2"))], "cosine-similarity")
    (batch,) = GroupedBatchSampler(examples, 10, in_batch_negatives=False, seed=0)
    assert sorted(examples.rows[row]["text"] for row in batch) == ["b1", "b2", "g1", "g2", "g3"]


def test_cosine_similarity_gets_good_ones_alone_where_there_are_no_bad_ones():
    rows = build_examples([Question("q", ("g",), ()), Question("r", ("h",), ("b",))], "cosine-similarity").rows
    assert [(row["text"], row["label"]) for row in rows] == [("g", 1.0), ("h", 1.0), ("b", 0.0)]
    assert all(isinstance(label, float) for label in rows["label"])


def test_ranking_gets_triplets_or_pairs():
    triplets = build_examples([Question("q", ("g1", "g2"), ("b1", "b2"))], "multiple-negatives-ranking").rows
    assert triplets.column_names == ["anchor", "positive", "negative_1", "negative_2"]
    assert [row["negative_1"] for row in triplets] == ["b1", "b2"]
    pairs = build_examples([Question("q", ("g",), ()), Question("r", ("h",), ())], "multiple-negatives-ranking")
    assert pairs.rows.column_names == ["anchor", "positive"]


def test_question_without_a_bad_chunk_borrows_one_that_does_not_answer_it():
    questions = [Question("p", ("g",), ("b",)), Question("q", ("h",), ()), Question("r", ("i",), ("h",))]
    rows = build_examples(questions, "multiple-negatives-ranking").rows
    assert [(row["anchor"], row["negative_1"]) for row in rows] == [("p", "b"), ("q", "b"), ("r", "h")]


def test_ranking_gets_as_many_bad_ones_as_the_median_question_has_and_all_that_are_short_borrow_others():
    given = [Question("p", ("g",), ("b1", "b2", "b3")), Question("q", ("h",), ("b4",)), Question("r", ("i",), ("b5",))]
    rows = build_examples(given, "multiple-negatives-ranking").rows
    assert [(row["anchor"], row["negative_1"]) for row in rows] == [("p", "b1"), ("q", "b4"), ("r", "b5")]
    assert "negative_2" not in rows.column_names
    full = [Question(f"q{n}", (f"g{n}",), ("b", f"b{n}")) for n in range(3)]
    short = [Question("p", ("g",), ()), Question("q", ("h",), ("own",))]
    rows = build_examples([*short, *full], "multiple-negatives-ranking").rows
    assert [(row["negative_1"], row["negative_2"]) for row in rows][:2] == [("own", "b"), ("own", "b0")]


def test_where_nothing_can_be_borrowed_no_question_has_bad_ones():
    given = [Question("p", ("g",), ("h",)), Question("q", ("h",), ()), Question("r", ("i",), ("h",))]
    assert build_examples(given, "multiple-negatives-ranking").rows.column_names == ["anchor", "positive"]


def test_question_under_two_ids_has_the_good_chunks_of_both_and_none_of_them_bad():
    dataset = RetrievalDataset(
        queries={"1": "same", "2": "same"},
        corpus={"a": "A", "b": "B", "c": "C", "d": "D"},
        relevant_docs={"1": ("a",), "2": ("b",)},
        irrelevant_docs={"1": ("b", "c")},
    )
    assert questions_of(dataset, {"2": ("a", "d")}) == [Question("same", ("A", "B"), ("C", "D"))]


@pytest.mark.parametrize(("loss", "pairs"), [("online-contrastive", 40), ("cosine-similarity", 80)])
@pytest.mark.parametrize("epoch", [0, 1])
def test_good_chunk_and_its_bad_one_share_a_batch(loss, pairs, epoch):
    examples = build_examples(MANY, loss)
    sampler = GroupedBatchSampler(examples, 10, in_batch_negatives=False, seed=1)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(sampler) == len(batches)
    batch_of = {row: number for number, batch in enumerate(batches) for row in batch}
    assert len(batch_of) == sum(map(len, batches)) == 2 * pairs
    for group in examples.groups:
        assert len(group) == 2
        assert len({batch_of.get(row) for row in group}) == 1
    assert max(map(len, batches)) <= 10


def test_no_good_chunk_stands_as_a_negative_in_a_ranking_batch():
    examples = build_examples(MANY, "multiple-negatives-ranking")
    good_of = {question.text: set(question.good) for question in MANY}
    batches = list(GroupedBatchSampler(examples, 16, in_batch_negatives=True, seed=1))
    rows_in = Counter(row for batch in batches for row in batch)
    assert max(rows_in.values()) == 1
    assert len(rows_in) >= 72  # of 80
    assert min(map(len, batches)) >= 8
    for batch in batches:
        rows = [examples.rows[row] for row in batch]
        for own in rows:
            others = [text for row in rows if row is not own for key, text in row.items() if key != "anchor"]
            assert good_of[own["anchor"]].isdisjoint(others)


def test_epochs_are_shuffled_apart_and_seeds_repeat():
    examples = build_examples(MANY, "cosine-similarity")
    first, again, other = (GroupedBatchSampler(examples, 10, in_batch_negatives=False, seed=s) for s in (1, 1, 2))
    assert list(first) == list(again) != list(other)
    again.set_epoch(1)
    assert list(first) != list(again)


def test_group_larger_than_a_batch_is_cut():
    examples = build_examples([Question("q", ("g",), tuple(f"b{n}" for n in range(24)))], "online-contrastive")
    assert [len(batch) for batch in GroupedBatchSampler(examples, 10, in_batch_negatives=False, seed=0)] == [10, 10, 5]


def test_batches_that_are_all_small_are_kept():
    same_answer = [Question(f"q{n}", ("good",), (f"bad {n}",)) for n in range(3)]
    examples = build_examples(same_answer, "multiple-negatives-ranking")
    assert sorted(GroupedBatchSampler(examples, 16, in_batch_negatives=True, seed=0)) == [[0], [1], [2]]


def test_tail_of_questions_about_one_answer_is_left_out():
    different = [Question(f"q{n}", (f"good {n}",), ()) for n in range(8)]
    alike = [Question(f"r{n}", ("good",), ()) for n in range(12)]  # each needs a batch of its own
    examples = build_examples([*different, *alike], "multiple-negatives-ranking")
    assert [len(batch) for batch in GroupedBatchSampler(examples, 8, in_batch_negatives=True, seed=0)] == [8]


CONTRASTIVE = [
    Question(f"q{n}", tuple(f"g{n} {i}" for i in range(1 + n % 3)), tuple(f"b{n} {i}" for i in range(1 + n % 4)))
    for n in range(60)
]
RANKED = [Question(f"q{n}", (f"answer {n * n % 13}",), ()) for n in range(60)]


@pytest.mark.parametrize(
    ("loss", "questions"), [("online-contrastive", CONTRASTIVE), ("multiple-negatives-ranking", RANKED)]
)
def test_epochs_have_as_many_batches_each_as_the_trainer_takes_for_granted(loss, questions):
    examples = build_examples(questions, loss)
    for seed in range(10):
        sampler = GroupedBatchSampler(examples, 10, in_batch_negatives="ranking" in loss, seed=seed)
        lengths = []
        for epoch in range(4):
            sampler.set_epoch(epoch)
            assert len(list(sampler)) == len(sampler)
            lengths.append(len(sampler))
        assert len(set(lengths)) == 1


@pytest.mark.parametrize(("count", "learned_from"), [(47, 47), (79, 79), (642, 640)])
def test_of_few_questions_the_remainder_is_learned_from_too(count, learned_from):
    examples = build_examples([Question(f"q{n}", (f"g{n}",), ()) for n in range(count)], "multiple-negatives-ranking")
    assert sum(map(len, GroupedBatchSampler(examples, 32, in_batch_negatives=True, seed=0))) == learned_from


def test_rows_of_a_question_share_what_is_good_for_it():
    many_good = [Question(f"q{n}", tuple(f"g{n} {i}" for i in range(50)), (f"b{n}",)) for n in range(3)]
    examples = build_examples(many_good, "multiple-negatives-ranking")
    assert len(examples.good_texts) == 150
    assert len({id(texts) for texts in examples.good_texts}) == 3
