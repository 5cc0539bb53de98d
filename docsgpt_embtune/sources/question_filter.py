"""Faults of generated questions that can be found by rules, without understanding the text."""

import re
import unicodedata
from collections import Counter

LONGEST = 300  # characters; nobody types more into a search
QUOTED_WORDS = 5  # this many words in a row from the chunk make a quotation, if they are most of the question
_SHARE_OF_SCRIPT = 0.1  # of the chunk's letters; below it, the question's main script is not the chunk's
# Phrases about the text that a question was made from, in the languages of most documentation; the judge has to find
# those of other languages. "The text" alone is also what users center, search and split.
_NAMES_THE_TEXT = re.compile(
    r"\b(?:this|above|following|given|provided)\s+(?:text|passage|excerpt|snippet|paragraph|chunk)\b"
    r"|\b(?:does|do|did)\s+the\s+(?:text|passage|excerpt|snippet|paragraph|chunk|author)\s+"
    r"(?:say|state|mention|describe|explain|recommend|suggest)\b"
    r"|\b(?:according to|mentioned in|described in|discussed in|stated in)\s+(?:this|the)\s+"
    r"(?:text|passage|excerpt|snippet|paragraph|chunk|document|article|section|author|documentation|guide|page)\b"
    r"|\bbased on this\s+(?:document|article|section|documentation|guide|page)\b"
    r"|\b(?:dies(?:e[mnrs]?)?|(?:obige|folgende|vorliegende)[mnrs]?)\s+"
    r"(?:text|textabschnitt|abschnitt|auszug|absatz|passage)\b"
    r"|\b(?:laut|gemäß|steht\s+(?:\w+\s+)?im|sagt)\s+(?:(?:dem|der|des)\s+)?"
    r"(?:text|textabschnitt|abschnitt|auszug|absatz|passage)\b"
    r"|\bce(?:t|tte)?\s+(?:texte|passage|extrait|paragraphe)\b"
    r"|\b(?:selon|d['’]après|dit)\s+(?:le|l['’])\s*(?:texte|passage|extrait|paragraphe)\b"
    r"|\beste\s+(?:texto|pasaje|fragmento|extracto|párrafo)\b"
    r"|\b(?:según|dice|menciona)\s+el\s+(?:texto|pasaje|fragmento|extracto|párrafo)\b"
    r"|\bquesto\s+(?:testo|brano|passaggio|paragrafo)\b"
    r"|\b(?:secondo|dice)\s+il\s+(?:testo|brano|passaggio|paragrafo)\b"
    r"|\beste\s+(?:trecho|parágrafo)\b"
    r"|\b(?:segundo|diz|de acordo com)\s+o\s+(?:texto|trecho|parágrafo)\b",
    re.IGNORECASE,
)


def fault_of(question: str, chunk: str, *, in_any_script: bool = False) -> str | None:
    """Return what is wrong with a question about a chunk, or None.

    Args:
        question: The question.
        chunk: The text that it was made from.
        in_any_script: Whether the question may be in a script that is not the chunk's.

    Returns:
        "empty", "too long", "names the text", "copied from its chunk" or "in another script".
    """
    if not any(character.isalnum() for character in question):
        return "empty"
    if len(question) > LONGEST:
        return "too long"
    if _NAMES_THE_TEXT.search(question):
        return "names the text"
    if _is_quoted(_words(question), _words(chunk)):
        return "copied from its chunk"
    scripts = _scripts(chunk)
    main = _scripts(question).most_common(1)
    if main and not in_any_script and scripts[main[0][0]] < _SHARE_OF_SCRIPT * scripts.total():
        return "in another script"
    return None


def _is_quoted(words: list[str], of_chunk: list[str]) -> bool:
    """Tell whether more than half of a question's words, and at least five, stand in the chunk in a row."""
    length = max(QUOTED_WORDS, len(words) // 2 + 1)
    whole = f" {' '.join(of_chunk)} "
    return any(f" {' '.join(words[start : start + length])} " in whole for start in range(len(words) - length + 1))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _scripts(text: str) -> Counter[str]:
    # A letter's Unicode name begins with its script: LATIN SMALL LETTER A, CYRILLIC …, CJK UNIFIED IDEOGRAPH-…
    return Counter(unicodedata.name(letter, "").partition(" ")[0] for letter in text if letter.isalpha())
