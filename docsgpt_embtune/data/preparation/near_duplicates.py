"""Texts that are nearly the same: MinHash finds the candidates, their shingles decide."""

import itertools
from binascii import crc32
from collections.abc import Callable, Sequence

from datasketch import MinHash, MinHashLSH

from docsgpt_embtune.progress import Bar
from docsgpt_embtune.words import ONE_BY_ONE

Shingles = frozenset[str]
PERMUTATIONS = 64
MOST_REPEATED = 32
_MARGIN = 0.2  # MinHash finds half of the pairs at its own threshold, and nearly all of those so far above it


def word_pairs(plain: str) -> Shingles:
    """Take neighbouring words, or characters where no spaces are written: what a chunk is recognised by."""
    words = ONE_BY_ONE.findall(plain)
    return frozenset(f"{first} {second}" for first, second in itertools.pairwise(words)) or frozenset(words)


def letter_triples(plain: str) -> Shingles:
    """Take three letters at a time: what a question, of few words, is recognised by."""
    return frozenset(plain[start : start + 3] for start in range(max(1, len(plain) - 2)))


def near_duplicates(
    plain_texts: Sequence[str], shingle: Callable[[str], Shingles], threshold: float, *, label: str
) -> list[tuple[int, int]]:
    """Find pairs of texts whose shingles overlap by at least the threshold.

    Texts that are made by one pattern all make pairs: of 8,000 questions that differ by an order's number 32 million,
    half an hour and gigabytes. A text that nearly repeats MOST_REPEATED others is therefore not looked for by those
    that come after it, which find the same others.

    Args:
        plain_texts: Texts in small letters, without punctuation.
        shingle: Cuts a text into what is compared.
        threshold: Jaccard index from which on two texts are near-copies, 0 < threshold <= 1.
        label: What the progress bar says.

    Returns:
        (earlier, later) positions, each pair once, for each text with one before it that it repeats. Of pairs just at
        the threshold MinHash misses a few; none is returned that lies below it.

    Source:
        Broder (1997), "On the resemblance and containment of documents".
    """
    lsh = MinHashLSH(threshold=max(threshold - _MARGIN, 0.1), num_perm=PERMUTATIONS)
    shingles = [shingle(text) for text in plain_texts]
    pairs = []
    for position, found in enumerate(Bar(shingles, desc=label)):
        sketch = MinHash(num_perm=PERMUTATIONS, hashfunc=crc32)
        sketch.update_batch([piece.encode() for piece in found])
        near = [
            earlier
            for earlier in lsh.query(sketch)
            if len(found & shingles[earlier]) >= threshold * len(found | shingles[earlier])
        ]
        pairs += [(earlier, position) for earlier in near]
        if len(near) < MOST_REPEATED:
            lsh.insert(position, sketch)
    return sorted(pairs)
