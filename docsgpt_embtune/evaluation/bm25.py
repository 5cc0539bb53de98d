"""BM25 on the same questions: the search that needs no model, which a tuned model should beat."""

from collections.abc import Callable, Iterable
from functools import cache
from itertools import islice

import bm25s
import numpy as np
import numpy.typing as npt
import Stemmer
from bm25s.stopwords import STOPWORDS_EN

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.evaluation.ranking import DEPTH, Ranking
from docsgpt_embtune.words import K1, WORD, B, plain_tokens

Tokenizer = Callable[[str], list[str]]

_ENGLISH_SHARE = 0.1  # of all words; English prose has 20 % of these stop words and more, its neighbours 5 %
_SAMPLE = 1000  # chunks looked at to tell the language


def retrieve_bm25(dataset: RetrievalDataset, *, k: int = DEPTH) -> Ranking:
    """Rank the corpus by BM25.

    English is stemmed and loses its stop words. Any other language is cut into words as they stand, and into
    pairs of characters where it is written without spaces.

    Args:
        dataset: Queries (Q) and corpus (N).
        k: Documents kept per query.

    Returns:
        The ranking; documents that share no word with the query are not in it, equal scores are in corpus order.
    """
    texts = list(dataset.corpus.values())
    tokenize = _tokenizer_for(texts)
    tokens = [tokenize(text) for text in texts]
    k = min(k, len(texts))
    nearest = np.full((len(dataset.queries), k), -1, dtype=np.int64)
    if any(tokens):  # bm25s takes no corpus without a word, of emoji, say
        _fill(nearest, _index_of(tokens), tokenize, dataset.queries.values())
    return Ranking(query_ids=list(dataset.queries), doc_ids=list(dataset.corpus), nearest=nearest)


def _index_of(tokens: list[list[str]]) -> "bm25s.BM25":
    index = bm25s.BM25(k1=K1, b=B)
    index.index(tokens, show_progress=False)
    return index


def _fill(nearest: npt.NDArray[np.int64], index: "bm25s.BM25", tokenize: Tokenizer, queries: Iterable[str]) -> None:
    k = nearest.shape[1]
    for row, query in enumerate(queries):
        known = [token for token in tokenize(query) if token in index.vocab_dict]
        if known:
            found = _largest(index.get_scores(known), k)
            nearest[row, : len(found)] = found


def english_tokens(text: str) -> list[str]:
    """Cut into lower-case words without English stop words, each reduced to its stem."""
    words = (word for word in WORD.findall(text.lower()) if word not in _stop_words())
    stems: list[str] = _english_stemmer().stemWords(list(words))
    return stems


def _tokenizer_for(texts: Iterable[str]) -> Tokenizer:
    words = [word for text in islice(texts, _SAMPLE) for word in WORD.findall(text.lower())]
    stop_words = sum(word in _stop_words() for word in words)
    return english_tokens if stop_words > _ENGLISH_SHARE * len(words) else plain_tokens


def _largest(scores: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    threshold = np.partition(scores, -k)[-k]
    candidates = np.flatnonzero((scores >= threshold) & (scores > 0))
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k]


@cache
def _stop_words() -> frozenset[str]:
    return frozenset(STOPWORDS_EN)


@cache
def _english_stemmer() -> "Stemmer.Stemmer":
    return Stemmer.Stemmer("english")
