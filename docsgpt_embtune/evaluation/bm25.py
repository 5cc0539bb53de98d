"""BM25 on the same questions: a search without any model, which a tuned model should beat."""

import logging
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

logging.getLogger("bm25s").setLevel(logging.WARNING)  # which it sets to DEBUG
Tokenizer = Callable[[str], list[str]]

# Share of English stop words above which a corpus counts as English. English prose has 20 % or more, related
# languages 5 %.
_ENGLISH_SHARE = 0.1
_SAMPLE = 1000  # chunks read to detect the language


def retrieve_bm25(dataset: RetrievalDataset, *, k: int = DEPTH) -> Ranking:
    """Rank the corpus by BM25.

    English words are stemmed and stop words dropped. In any other language, words are used as they are, and text
    written without spaces is split into character bigrams.

    Args:
        dataset: Queries (Q) and corpus (N).
        k: Documents kept per query.

    Returns:
        The ranking, without the documents that share no word with the query. Equal scores are in corpus order.
    """
    texts = list(dataset.corpus.values())
    tokenize = _tokenizer_for(texts)
    tokens = [tokenize(text) for text in texts]
    k = min(k, len(texts))
    nearest = np.full((len(dataset.queries), k), -1, dtype=np.int64)
    if any(tokens):  # bm25s rejects a corpus without a single word, e.g. of emoji only
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
    """Split a text into stemmed lower-case words, without English stop words."""
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
