"""The words of a text in any language, without a dictionary or a stemmer."""

import re

K1, B = 1.2, 0.75  # of BM25: Lucene's defaults
WORD = re.compile(r"\w\w+")  # single characters are mostly what an apostrophe cuts off: they cost recall
# Scripts written without spaces between words, as a range for regular expressions: Thai, Lao, Khmer, kana, Han.
UNSPACED = r"\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
# Words as they stand in a text, signs included; where no spaces are written, two characters stand for one.
AS_WRITTEN = re.compile(rf"[{UNSPACED}]{{1,2}}|[^\s{UNSPACED}]+")
# The same with each such character for itself, for texts that are compared from any place on.
ONE_BY_ONE = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n")
_UNSPACED_RUN = re.compile(rf"[{UNSPACED}]+")


def plain_tokens(text: str) -> list[str]:
    """Cut into lower-case words as they stand, and text without spaces into pairs of characters."""
    words, pairs = words_and_pairs(text)
    return words + pairs


def words_and_pairs(text: str) -> tuple[list[str], list[str]]:
    """Cut into lower-case words, and apart from them the pairs of characters of text without spaces."""
    text = text.casefold()
    pairs = [run[i : i + 2] for run in _UNSPACED_RUN.findall(text) for i in range(max(1, len(run) - 1))]
    return WORD.findall(_UNSPACED_RUN.sub(" ", text)), pairs


def duckdb_pattern(pattern: re.Pattern[str]) -> str:
    """Write a pattern as DuckDB reads it, whose characters by number are x{0e00} where Python's are u0e00."""
    return re.sub(r"\\u(....)", r"\\x{\1}", pattern.pattern)
