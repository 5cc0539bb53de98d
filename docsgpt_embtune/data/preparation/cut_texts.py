"""Texts that end where an export or a chunker ran out of room, not where their author stopped."""

from bisect import bisect_right
from collections.abc import Mapping

_SAME_LENGTH = 3  # so many texts of exactly the greatest length were cut there
_SHORT_WORD = 2  # letters; what is shorter is as likely an abbreviation


def cut_texts(texts: Mapping[str, str]) -> dict[str, str]:
    """Find texts that were cut.

    A text was cut if it ends in dots of omission; if several end without a full stop at exactly the greatest
    length; or if its last word is in no other place of the texts and begins a longer word that is.

    Args:
        texts: id -> text.

    Returns:
        id -> how it ends: "dots", "length" or "word".
    """
    longest = max(map(len, texts.values()), default=0)
    at_limit = [text_id for text_id, text in texts.items() if len(text) == longest and text[-1:].isalnum()]
    found = {text_id: "dots" for text_id, text in texts.items() if text.rstrip().endswith(("...", "…"))}
    found |= _ending_in_half_a_word(texts)
    return found | (dict.fromkeys(at_limit, "length") if len(at_limit) >= _SAME_LENGTH else {})


def _ending_in_half_a_word(texts: Mapping[str, str]) -> dict[str, str]:
    known: set[str] = set()
    last: dict[str, str] = {}
    for text_id, text in texts.items():
        words = [word.strip("\"'“”‘’()[]{}*_.,:;!?-") for word in text.casefold().split()]
        if words and text[-1:].isalpha():
            last[text_id] = words.pop()
        known.update(words)
    ordered = sorted(known)

    def begins_a_longer_word(word: str) -> bool:
        next_word = bisect_right(ordered, word)
        return next_word < len(ordered) and ordered[next_word].startswith(word)

    return {
        text_id: "word"
        for text_id, word in last.items()
        if len(word) > _SHORT_WORD and word.isalpha() and word not in known and begins_a_longer_word(word)
    }
