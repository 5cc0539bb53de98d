"""Near-duplicate texts: MinHash finds candidates, the Jaccard index of their shingles decides."""

import itertools
from binascii import crc32
from collections.abc import Callable, Sequence

from datasketch import MinHash, MinHashLSH

from docsgpt_embtune.progress import Bar
from docsgpt_embtune.words import ONE_BY_ONE

Shingles = frozenset[str]
PERMUTATIONS = 64
MOST_REPEATED = 32
_MARGIN = 0.2  # MinHash finds half of the pairs at its threshold, and nearly all that are this far above it


def word_pairs(plain: str) -> Shingles:
    """Return pairs of neighbouring words (or characters, in scripts without spaces), the shingles of chunks."""
    words = ONE_BY_ONE.findall(plain)
    return frozenset(f"{first} {second}" for first, second in itertools.pairwise(words)) or frozenset(words)


def letter_triples(plain: str) -> Shingles:
    """Return letter trigrams, the shingles of questions, which have few words."""
    return frozenset(plain[start : start + 3] for start in range(max(1, len(plain) - 2)))


def near_duplicates(
    plain_texts: Sequence[str], shingle: Callable[[str], Shingles], threshold: float, *, label: str
) -> list[tuple[int, int]]:
    """Find pairs of texts whose shingles have at least this Jaccard index.

    Texts made from one template all pair up: 8,000 questions that differ only in an order number would make 32 million
    pairs, and take half an hour and gigabytes. A text that nearly repeats MOST_REPEATED earlier ones is therefore not
    indexed for the texts after it, which find the same earlier ones.

    Args:
        plain_texts: Texts in lower case, without punctuation.
        shingle: Cuts a text into the shingles to compare.
        threshold: Least Jaccard index of near-duplicates, 0 < threshold <= 1.
        label: Label of the progress bar.

    Returns:
        (earlier, later) positions, sorted, each pair once; every text that repeats an earlier one is in a pair. MinHash
        misses a few pairs just at the threshold; no pair below it is returned.

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
