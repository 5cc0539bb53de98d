"""A guard set made from the corpus alone: a chunk's heading or first sentence should find its chunk."""

from collections import Counter
from collections.abc import Mapping

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.words import AS_WRITTEN, SENTENCE_END

QUESTIONS = 300
_MIN_WORDS, _MAX_WORDS = 3, 16


def smoke_test(corpus: Mapping[str, str], *, questions: int = QUESTIONS) -> RetrievalDataset | None:
    """Ask for chunks by their own opening words.

    It shows whether a model still finds plain wording that nobody tuned it on, and no more than that: the
    words stand in the chunk, so a model that does badly here is broken, and one that does well may not be good.

    Args:
        corpus: doc_id -> text.
        questions: How many at most, spread evenly over the corpus.

    Returns:
        The questions over the whole corpus; None where no chunk has an opening of three words that is its own.
    """
    openings = {doc_id: _opening(text) for doc_id, text in corpus.items()}
    counts = Counter(openings.values())
    usable = [doc_id for doc_id, opening in openings.items() if opening and counts[opening] == 1]
    if not usable:
        return None
    chosen = usable[:: -(-len(usable) // questions)]
    return RetrievalDataset(
        queries={doc_id: openings[doc_id] for doc_id in chosen},
        corpus=corpus,
        relevant_docs={doc_id: (doc_id,) for doc_id in chosen},
    )


def _opening(text: str) -> str:
    sentence = SENTENCE_END.split(text.strip(), maxsplit=1)[0]
    ends = [word.end() for word in AS_WRITTEN.finditer(sentence)]
    return " ".join(sentence[: ends[:_MAX_WORDS][-1]].split()) if len(ends) >= _MIN_WORDS else ""
