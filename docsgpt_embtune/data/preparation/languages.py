"""Texts in another language than the dataset's."""

from collections import Counter
from collections.abc import Mapping
from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from docsgpt_embtune.progress import Bar

_MAIN_SHARE = 0.05  # a language of so many of the texts is one of the dataset's, not a mistake
_DOUBT = 0.01  # at most so likely is it that an offender is in one of the dataset's languages
_LETTERS = 20  # fewer tell no language
_READ = 400  # characters that tell a language as well as the whole


def in_other_languages(texts: Mapping[str, str], *, label: str) -> dict[str, str]:
    """Find the texts that are in none of the dataset's languages.

    Args:
        texts: id -> text.
        label: What the progress bar says.

    Returns:
        id -> ISO 639 code of the language that it seems to be in.
    """
    rank = _identifier().rank
    ranked = {
        text_id: dict(rank(text[:_READ]))
        for text_id, text in Bar(texts.items(), desc=label)
        if sum(map(str.isalpha, text)) >= _LETTERS
    }
    best = {text_id: max(likely, key=likely.__getitem__) for text_id, likely in ranked.items()}
    counts = Counter(best.values())
    main = [language for language, count in counts.items() if count >= _MAIN_SHARE * len(best)]
    return {
        text_id: language
        for text_id, language in best.items()
        if language not in main and sum(ranked[text_id][each] for each in main) < _DOUBT
    }


@cache  # unpacking the model takes a second
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
