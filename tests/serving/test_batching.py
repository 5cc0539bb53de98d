import random

from docsgpt_embtune.serving.batching import batches_with_little_padding, batches_within


def test_batches_hold_texts_of_like_length_and_no_more_tokens_than_allowed():
    draw = random.Random(0)
    lengths = [draw.randint(1, 300) for _ in range(500)] + [900]
    batches = list(batches_within(512, lengths))
    assert sorted(row for batch in batches for row in batch) == list(range(501))
    assert all(len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 512 for batch in batches)
    assert sum(len(batch) * max(lengths[row] for row in batch) for batch in batches) < 1.1 * sum(lengths)


def test_batches_with_little_padding_hold_texts_of_like_length():
    assert list(batches_with_little_padding([200, 10, 190, 12, 9, 120])) == [[0, 2, 5], [3, 1, 4]]


def test_no_texts_make_no_batches():
    assert list(batches_within(512, [])) == list(batches_with_little_padding([])) == []


def test_texts_without_tokens_take_a_row_each():
    assert list(batches_within(3, [0, 0, 0, 0, 3, 1])) == [[0, 1, 2], [3, 5], [4]]
