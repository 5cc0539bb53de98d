"""Group texts of similar length into batches, so that little time is spent on padding."""

from collections.abc import Iterator, Sequence

PADDING_PER_BATCH = 96  # padding tokens that cost as much as starting another batch, on a CPU


def batches_within(tokens_per_batch: int, lengths: Sequence[int]) -> Iterator[list[int]]:
    """Group texts of similar length, shortest first, with a limit on each batch's tokens, padding included.

    Args:
        tokens_per_batch: Limit of a batch; a longer text forms a batch of its own.
        lengths: Number of tokens of each text.

    Yields:
        Positions of the texts of one batch; each position is in exactly one batch.
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        # A text without tokens, which is possible for static models, still takes a row.
        if batch and (len(batch) + 1) * max(1, lengths[row]) > tokens_per_batch:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def batches_with_little_padding(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Group texts of similar length, longest first, so that each batch has less padding than a batch costs to start.

    Args:
        lengths: Number of tokens of each text.

    Yields:
        Positions of the texts of one batch, the longest first; each position is in exactly one batch.
    """
    batch: list[int] = []
    padding = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        padding += lengths[batch[0]] - lengths[row] if batch else 0
        if padding >= PADDING_PER_BATCH:
            yield batch
            batch, padding = [], 0
        batch.append(row)
    if batch:
        yield batch
