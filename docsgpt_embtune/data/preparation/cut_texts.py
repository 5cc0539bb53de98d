"""Texts that end where an export or a chunker ran out of room, not where their author stopped."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate

_SAME_LENGTH = 3  # so many texts of exactly the greatest length were cut there
# A last word is half of one if the words that it begins are so many times as frequent as it is itself.
_RARER = 20


def cut_texts(texts: Mapping[str, str]) -> dict[str, str]:
    """Find texts that were cut.

    A text was cut if it ends in dots of omission; if several end without a full stop at exactly the greatest
    length; or if it ends in what is hardly a word of these texts, but begins many. A cut between two words is not
    seen.

    Args:
        texts: id -> text.

    Returns:
        id -> how it ends: "dots", "length" or "word".
    """
    longest = max(map(len, texts.values()), default=0)
    at_limit = [text_id for text_id, text in texts.items() if len(text) == longest and text[-1:].isalnum()]
    found = {text_id: "dots" for text_id, text in texts.items() if text.rstrip().endswith(("...", "…"))}
    found |= dict.fromkeys(_ending_in_half_a_word(texts), "word")
    return found | (dict.fromkeys(at_limit, "length") if len(at_limit) >= _SAME_LENGTH else {})


def _ending_in_half_a_word(texts: Mapping[str, str]) -> list[str]:
    counts: Counter[str] = Counter()
    last: dict[str, str] = {}
    for text_id, text in texts.items():
        words = [word.strip("\"'“”‘’()[]{}*_.,:;!?-") for word in text.casefold().split()]
        if words and text[-1:].isalpha():
            last[text_id] = words.pop()
        counts.update(words)
    ordered = sorted(counts)
    up_to = [0, *accumulate(counts[word] for word in ordered)]

    def is_half(word: str) -> bool:
        start, end = bisect_left(ordered, word), bisect_left(ordered, word + chr(0x10FFFF))
        longer = up_to[end] - up_to[start] - counts[word]
        return word.isalpha() and longer > _RARER * counts[word]

    return [text_id for text_id, word in last.items() if is_half(word)]
