"""Detection of truncated texts, which an export or a chunker cut off."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate

_SAME_LENGTH = 3  # if this many texts have exactly the greatest length, they were cut there
_LEAST_LIMIT = 50  # characters; short texts share the greatest length by chance, and no export cuts there
_MARKS = "\"'“”‘’()[]{}*_.,:;!?-<>|`~#"
_STOPS = ".!?:;"
# Pseudo-counts for rare words: as if each was seen this many more times, ending texts as often as the average word.
_PRIOR_WORDS = 10
_UNSEEN = 0.1  # expected count of a word that stands nowhere else
# Pseudo-counts for small datasets: this many more texts, and this many of them cut.
_PRIOR_TEXTS, _PRIOR_CUTS = 10, 0.1
_ROUNDS = 50  # of EM; the share of cut texts changes by less than a thousandth long before


def cut_texts(texts: Mapping[str, str], *, dots_may_be_meant: bool = False) -> dict[str, str]:
    """Find texts that were cut off.

    A text counts as cut off in three cases. It ends in an ellipsis (where that may be meant: at the same length as
    others that do, as in the next case). It is one of several that end, without a full stop, at exactly the greatest
    length, and that is not short. Or it ends, without a full stop, in something that hardly ends these texts, such as
    half a word or "the". A cut after a word that also ends sentences is not found.

    Args:
        texts: id -> text.
        dots_may_be_meant: Whether an ellipsis may be the author's, as people end questions with one.

    Returns:
        id -> how it ends: "dots", "length" or "word".
    """
    cut = _at_greatest_length(texts, _ends_in_dots) if dots_may_be_meant else _ids_where(_ends_in_dots, texts)
    found = dict.fromkeys(cut, "dots") | dict.fromkeys(_ending_in_odd_words(texts), "word")
    return found | dict.fromkeys(_at_greatest_length(texts, lambda text: text[-1:].isalnum()), "length")


def _ends_in_dots(text: str) -> bool:
    return text.rstrip().endswith(("...", "…"))


def _ids_where(end: Callable[[str], bool], texts: Mapping[str, str]) -> list[str]:
    return [text_id for text_id, text in texts.items() if end(text)]


def _at_greatest_length(texts: Mapping[str, str], end: Callable[[str], bool]) -> list[str]:
    """Find the texts that end like this at the greatest length, if that looks like a limit."""
    longest = max(map(len, texts.values()), default=0)
    found = [text_id for text_id in _ids_where(end, texts) if len(texts[text_id]) == longest]
    return found if longest >= _LEAST_LIMIT and len(found) >= _SAME_LENGTH else []


@dataclass(frozen=True)
class _Words:
    """Counts of each word in the texts, and at the end of a sentence or a line.

    The last word of a text that ends without punctuation is in neither count, as it is the one in question.
    """

    counts: Counter[str]
    ends: Counter[str]
    last: Mapping[str, str]  # text id -> last word


def _ending_in_odd_words(texts: Mapping[str, str]) -> list[str]:
    """Find texts that, by their last words, were more likely cut than ended by their authors.

    The texts without a full stop are modelled as a mixture: some were cut at a random character, the others end as
    sentences, or the rest of these texts, end. EM finds the likeliest share of cut texts. So nothing is suspected
    where texts usually end without a full stop, and much where most such texts end in the middle.

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
    """Return the likelihood of each last word if a text is cut at a random character."""
    ordered = sorted(words.counts)
    up_to = [0, *accumulate(words.counts[word] for word in ordered)]
    # A cut can come after every letter, and after the blank that follows a word.
    characters = sum(count * (len(word) + 1) for word, count in words.counts.items())

    def likelihood(word: str) -> float:
        start, end = bisect_left(ordered, word), bisect_left(ordered, word + chr(0x10FFFF))
        # After these letters in a longer word; or before or after the blank that follows the whole word.
        return (up_to[end] - up_to[start] + words.counts[word]) / max(characters, 1)

    return {word: likelihood(word) for word in set(words.last.values())}


def _likelihood_of_ends(words: _Words, was_cut: Mapping[str, float]) -> dict[str, float]:
    """Return the likelihood of each text's last word if its author ended there.

    The last words of the other texts count with the probability that those were not cut.
    """
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
