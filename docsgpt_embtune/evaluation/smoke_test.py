"""A guard set made from the corpus alone: a chunk's heading or first sentence must retrieve that chunk."""

from collections import Counter
from collections.abc import Mapping

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.words import AS_WRITTEN, SENTENCE_END

QUESTIONS = 300
_MIN_WORDS, _MAX_WORDS = 3, 16


def smoke_test(corpus: Mapping[str, str], *, questions: int = QUESTIONS) -> RetrievalDataset | None:
    """Make questions of chunks' own opening words.

    They only show whether a model still finds plain wording that it was not tuned on. The words are in the chunk, so a
    model that fails here is broken, but one that succeeds need not be good.

    Args:
        corpus: doc_id -> text.
        questions: Most questions, spread evenly over the corpus.

    Returns:
        The questions over the whole corpus; None if no chunk has a unique opening of at least three words.
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
