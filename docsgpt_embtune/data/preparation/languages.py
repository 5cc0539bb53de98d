"""Detection of texts in another language than the dataset's."""

from collections import Counter
from collections.abc import Mapping
from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from docsgpt_embtune.progress import Bar

_MAIN_SHARE = 0.05  # a language of this share of the texts is one of the dataset's
_DOUBT = 0.01  # greatest probability of the dataset's languages, together, for an offender
_LETTERS = 20  # fewer are too few to tell the language
_READ = 400  # characters; they tell the language as well as the whole text


def in_other_languages(texts: Mapping[str, str], *, label: str) -> dict[str, str]:
    """Find the texts that are in none of the dataset's languages.

    Args:
        texts: id -> text.
        label: Label of the progress bar.

    Returns:
        id -> ISO 639 code of the likeliest language.
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
