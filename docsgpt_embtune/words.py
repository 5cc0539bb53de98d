"""Tokenization into words for any language, without a dictionary or a stemmer."""

import re

K1, B = 1.2, 0.75  # BM25's parameters, with Lucene's defaults
WORD = re.compile(r"\w\w+")  # single characters are mostly fragments after an apostrophe, and cost recall
# Scripts written without spaces between words, as regular expression ranges: Thai, Lao, Khmer, kana, Han.
UNSPACED = r"\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
# Words as written, punctuation included; in scripts without spaces, up to two characters count as a word.
AS_WRITTEN = re.compile(rf"[{UNSPACED}]{{1,2}}|[^\s{UNSPACED}]+")
# The same with single characters in those scripts, for comparing texts from any position.
ONE_BY_ONE = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n")
_UNSPACED_RUN = re.compile(rf"[{UNSPACED}]+")


def plain_tokens(text: str) -> list[str]:
    """Split a text into lower-case words, and scripts without spaces into character bigrams."""
    words, pairs = words_and_pairs(text)
    return words + pairs


def words_and_pairs(text: str) -> tuple[list[str], list[str]]:
    """Split a text into lower-case words and, as a separate list, the character bigrams of scripts without spaces."""
    text = text.casefold()
    pairs = [run[i : i + 2] for run in _UNSPACED_RUN.findall(text) for i in range(max(1, len(run) - 1))]
    return WORD.findall(_UNSPACED_RUN.sub(" ", text)), pairs


def duckdb_pattern(pattern: re.Pattern[str]) -> str:
    """Convert a pattern to DuckDB's syntax, in which a code point is x{0e00} instead of u0e00, after a backslash."""
    return re.sub(r"\\u(....)", r"\\x{\1}", pattern.pattern)
