"""Texts that end where an export or a chunker ran out of room, not where their author stopped."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

_SAME_LENGTH = 3  # so many texts of exactly the greatest length were cut there
_LEAST_LIMIT = 50  # characters; of shorter texts several have the greatest length by chance, and no export cuts there
_MARKS = "\"'“”‘’()[]{}*_.,:;!?-<>|`~#"
_STOPS = ".!?:;"
# What a word that was seen seldom is taken to do: so many times, end as often as all words do.
_PRIOR_WORDS = 10
_UNSEEN = 0.1  # how often a word that stands nowhere else would have been expected
# What a dataset of few texts is taken to hold beside them: so many texts, so many of them cut.
_PRIOR_TEXTS, _PRIOR_CUTS = 10, 0.1
_ROUNDS = 50  # the share of cut texts changes by less than a thousandth long before


def cut_texts(texts: Mapping[str, str]) -> dict[str, str]:
    """Find texts that were cut.

    A text was cut if it ends in dots of omission; if several end without a full stop at exactly the greatest
    length, and that is not short; or if it ends, without a full stop, in what these texts hardly end in by
    themselves: half a word, or one such as "the". A cut after a word that ends sentences, too, is not seen.

    Args:
        texts: id -> text.

    Returns:
        id -> how it ends: "dots", "length" or "word".
    """
    longest = max(map(len, texts.values()), default=0)
    at_limit = [text_id for text_id, text in texts.items() if len(text) == longest and text[-1:].isalnum()]
    were_limited = longest >= _LEAST_LIMIT and len(at_limit) >= _SAME_LENGTH
    found = {text_id: "dots" for text_id, text in texts.items() if text.rstrip().endswith(("...", "…"))}
    found |= dict.fromkeys(_ending_in_odd_words(texts), "word")
    return found | (dict.fromkeys(at_limit, "length") if were_limited else {})


@dataclass(frozen=True)
class _Words:
    """How often each word stands in the texts, and how often it ends a sentence or a line.

    The last word of a text that ends without a mark is in neither: it is what is in question.
    """

    counts: Counter[str]
    ends: Counter[str]
    last: Mapping[str, str]  # text id -> last word


def _ending_in_odd_words(texts: Mapping[str, str]) -> list[str]:
    """Find texts that were likelier cut than ended by their authors, given their last words.

    The texts without a full stop are taken for a mixture of those that were cut at any character and those that end
    as sentences, or the rest of these texts, end; how many were cut is what makes the mixture likeliest. So nothing
    is suspected where the habit is to end without a full stop, and much where most such texts end in the middle.

    Source:
        Dempster, Laird and Rubin (1977), "Maximum likelihood from incomplete data via the EM algorithm".
    """
    words = _counted(texts)
    likely_where_cut = _likelihood_of_cuts(words)
    share = _PRIOR_CUTS / _PRIOR_TEXTS
    was_cut = dict.fromkeys(words.last, share)  # text id -> probability
    for _ in range(_ROUNDS if was_cut else 0):
        likely_where_ended = _likelihood_of_ends(words, was_cut)
        for text_id, word in words.last.items():
            cut, ended = share * likely_where_cut[word], (1 - share) * likely_where_ended[text_id]
            was_cut[text_id] = cut / (cut + ended)
        share = (sum(was_cut.values()) + _PRIOR_CUTS) / (len(was_cut) + _PRIOR_TEXTS)
    return [text_id for text_id, probability in was_cut.items() if probability > 0.5]


def _likelihood_of_cuts(words: _Words) -> dict[str, float]:
    """Say how likely each last word is where a text is cut at any character."""
    ordered = sorted(words.counts)
    up_to = [0, *accumulate(words.counts[word] for word in ordered)]
    # Every letter may be the last, and so may the blank after a word.
    characters = sum(count * (len(word) + 1) for word, count in words.counts.items())

    def likelihood(word: str) -> float:
        start, end = bisect_left(ordered, word), bisect_left(ordered, word + chr(0x10FFFF))
        # Before the next letter of a longer word; before or after the blank that follows the whole one.
        return (up_to[end] - up_to[start] + words.counts[word]) / max(characters, 1)

    return {word: likelihood(word) for word in set(words.last.values())}


def _likelihood_of_ends(words: _Words, was_cut: Mapping[str, float]) -> dict[str, float]:
    """Say how likely each text's last word is where an author stops; other texts count as far as they were not cut."""
    others: Counter[str] = Counter()
    for text_id, word in words.last.items():
        others[word] += 1 - was_cut[text_id]  # type: ignore[assignment]  # a Counter adds up fractions as well
    all_ends = max(words.ends.total() + others.total(), 1)
    all_words = max(words.counts.total() + others.total(), all_ends)

    def likelihood(text_id: str, word: str) -> float:
        rest = others[word] - (1 - was_cut[text_id])
        count = words.counts[word] + rest
        ends_there = (words.ends[word] + rest + _PRIOR_WORDS * all_ends / all_words) / (count + _PRIOR_WORDS)
        return ends_there * max(count, _UNSEEN) / all_ends

    return {text_id: likelihood(text_id, word) for text_id, word in words.last.items()}


def _counted(texts: Mapping[str, str]) -> _Words:
    words = _Words(Counter(), Counter(), last := dict[str, str]())
    for text_id, text in texts.items():
        bare: list[str] = []
        for line in filter(None, map(str.split, text.casefold().splitlines())):
            bare = [word.strip(_MARKS) for word in line]
            words.counts.update(bare)
            words.ends.update(word for word, written in zip(bare, line, strict=True) if written[-1] in _STOPS)
            words.ends[bare[-1]] += line[-1][-1] not in _STOPS
        if bare and text[-1].isalpha() and bare[-1].isalpha():
            last[text_id] = bare[-1]
            words.counts[bare[-1]] -= 1
            words.ends[bare[-1]] -= 1
    for counts in (words.counts, words.ends):
        for word in [word for word in counts if not word.isalpha()]:
            del counts[word]
    return words
