"""Cut documents into chunks the way DocsGPT's `recursive` strategy does."""

from bisect import bisect_left
from collections.abc import Callable, Iterator

# DocsGPT's order of preference: a paragraph break, then a line break, then the end of a sentence.
SEPARATORS = ("\n\n", "\n", ". ")
MAX_TOKENS, MIN_TOKENS = 1250, 150  # defaults of DocsGPT's worker


def chunk_text(
    text: str, *, count_tokens: Callable[[str], int], max_tokens: int = MAX_TOKENS, min_tokens: int = MIN_TOKENS
) -> list[str]:
    """Cut a document into chunks of `min_tokens` to `max_tokens`, between paragraphs, lines or sentences if possible.

    Neighbouring pieces are merged until they hold `min_tokens`, so only the last chunk of a document
    (or one before a large piece) may be shorter. Concatenated, the chunks give the document again, except
    for white space between pieces.

    Args:
        text: The document.
        count_tokens: Number of tokens in a text. DocsGPT counts in cl100k; pass the embedding model's
            own tokenizer to be sure that the model reads every chunk to its end.
        max_tokens: Upper bound, in tokens; only a single character may exceed it.
        min_tokens: Size at which merging stops, in tokens.

    Returns:
        Chunks in document order, none of them blank.

    Raises:
        ValueError: Unless 0 <= min_tokens <= max_tokens and max_tokens >= 1; the message gives both values.

    Source:
        DocsGPT's application/parser/chunking_strategies.py, `RecursiveChunker`; the defaults are its worker's.
    """
    if not 0 <= min_tokens <= max_tokens or max_tokens < 1:
        raise ValueError(f"chunk bounds must satisfy 0 <= min_tokens <= max_tokens, got {min_tokens} and {max_tokens}")
    chunks = []
    pending = ""
    for piece in _pieces(text, SEPARATORS, count_tokens, max_tokens):
        if pending and count_tokens(pending + piece) > max_tokens:
            chunks.append(pending)
            pending = ""
        pending += piece
        if count_tokens(pending) >= min_tokens:
            chunks.append(pending)
            pending = ""
    if pending:
        chunks.append(pending)
    return [chunk.strip() for chunk in chunks]


def _pieces(
    text: str, separators: tuple[str, ...], count_tokens: Callable[[str], int], max_tokens: int
) -> Iterator[str]:
    if not text.strip():
        return
    if count_tokens(text) <= max_tokens:
        yield text
        return
    if not separators:
        yield from _word_windows(text, count_tokens, max_tokens)
        return
    separator, finer = separators[0], separators[1:]
    parts = text.split(separator)
    for part in [part + separator for part in parts[:-1]] + parts[-1:]:
        yield from _pieces(part, finer, count_tokens, max_tokens)


def _word_windows(text: str, count_tokens: Callable[[str], int], max_tokens: int) -> Iterator[str]:
    words = text.split()
    start = 0

    def fits(end: int) -> bool:
        return count_tokens(" ".join(words[start:end]) + " ") <= max_tokens

    while start < len(words):
        end = _window_end(start, len(words), fits)
        if end == start + 1 and count_tokens(words[start]) > max_tokens:
            yield from _letter_windows(words[start], count_tokens, max_tokens)
        else:
            yield " ".join(words[start:end]) + " "
        start = end


def _letter_windows(word: str, count_tokens: Callable[[str], int], max_tokens: int) -> Iterator[str]:
    """Cut a word that is too long, such as a paragraph of Chinese or Thai, between any two characters."""
    start = 0

    def fits(end: int) -> bool:
        return count_tokens(word[start:end]) <= max_tokens

    while start < len(word):
        end = _window_end(start, len(word), fits)
        yield word[start:end] + ("" if end < len(word) else " ")
        start = end


def _window_end(start: int, length: int, fits: Callable[[int], bool]) -> int:
    """Return the end of the longest window that fits, but of one part at least, in a dozen counts.

    Args:
        start: The window's first part.
        length: Number of all parts: words or letters.
        fits: Tells whether the window may end before a part.
    """
    # Exponential search from the start, then bisection: a window is short compared with the text.
    longest, step = start + 1, 1
    while longest + step <= length and fits(longest + step):
        longest += step
        step *= 2
    beyond = min(longest + step, length + 1)
    return longest + bisect_left(range(longest + 1, beyond), True, key=lambda end: not fits(end))
