"""Questions out of the corpus itself: a run of words asks for the chunk that it was taken from."""

import random
from collections.abc import Iterable, Mapping

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.words import AS_WRITTEN

# As long as people's questions are. Longer ones are found by any model and teach nothing.
SHORTEST, LONGEST = 6, 12


def questions_from_corpus(
    corpus: Mapping[str, str], seed: int, *, doc_ids: Iterable[str] | None = None
) -> RetrievalDataset:
    """Take one run of 6 to 12 words from each chunk as a question that the chunk answers.

    It needs no labels and no language model, and teaches a model the words of these documents: the same idea
    as the cropping of Contriever (Izacard et al., 2021), with the crop left in its chunk, so that the model
    also learns to mind the exact words that people copy into a question.

    Args:
        corpus: doc_id -> text.
        seed: Of the drawing.
        doc_ids: Chunks to ask for; all of them if not given.

    Returns:
        A question for each chunk that has words enough for one, over the whole corpus.
    """
    drawn = random.Random(seed)
    queries: dict[str, str] = {}
    relevant_docs: dict[str, tuple[str, ...]] = {}
    for doc_id in corpus if doc_ids is None else doc_ids:
        text = corpus[doc_id]
        words = [match.span() for match in AS_WRITTEN.finditer(text)]
        length = min(drawn.randint(SHORTEST, LONGEST), len(words) // 2)  # a chunk must say more than its question
        if length == 0:
            continue
        first = drawn.randrange(len(words) - length + 1)
        query_id = f"words of {doc_id}"
        queries[query_id] = text[words[first][0] : words[first + length - 1][1]]
        relevant_docs[query_id] = (doc_id,)
    return RetrievalDataset(queries, corpus, relevant_docs, sources=("the corpus itself",))
