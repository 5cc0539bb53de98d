"""Questions made from the corpus itself: runs of a chunk's words, and sentences cut out of chunks.

Training uses the runs of words. Choosing a model without people's questions uses both.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.words import AS_WRITTEN, SENTENCE_END

# Words in a question: as many as people type. Any model finds longer ones, so they teach nothing.
SHORTEST, LONGEST = 6, 12
LONGEST_SENTENCE = 30
# Least shares of a question's space-separated tokens: PLAIN are words or numbers, OF_LETTERS consist of letters alone.
# Text cut from programs or tables has less of both, and nobody asks like that.
PLAIN, OF_LETTERS = 0.9, 0.5
_MARKS = ".,;:!?()[]{}\"'“”‘’«»…"
_PLAIN = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*|[^\W_]*\d[\d.,:/-]*%?")
_OF_LETTERS = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")


def questions_from_corpus(corpus: Mapping[str, str], seed: int, *, of_prose: bool = False) -> RetrievalDataset:
    """Take one run of 6 to 12 words from each chunk as a question that the chunk answers.

    This needs no labels and no language model, and teaches a model the words of these documents. The idea is
    Contriever's random cropping (Izacard et al., 2021), but the crop also stays in its chunk, so that the model
    learns to match the exact words that people copy into a question.

    Args:
        corpus: doc_id -> text.
        seed: Random seed.
        of_prose: Whether to take prose alone, for data without people's questions, where nothing shows whether
            other words teach anything. With people's questions, words of program text helped: without them, on a
            language's reference, validation nDCG@10 after training on the chunks was .531 instead of .558.

    Returns:
        One question for each chunk that has enough words, over the whole corpus.
    """
    drawn = random.Random(seed)
    queries: dict[str, str] = {}
    relevant_docs: dict[str, tuple[str, ...]] = {}
    for doc_id, text in corpus.items():
        if run := _run_of_words(text, drawn, of_prose=of_prose):
            queries[f"words of {doc_id}"] = run
            relevant_docs[f"words of {doc_id}"] = (doc_id,)
    return RetrievalDataset(queries, corpus, relevant_docs, sources=("the corpus itself",))


@dataclass(frozen=True)
class MadeQuestions:
    """Validation questions made from the corpus, to choose a model by where nobody asked anything.

    Attributes:
        questions: The questions over the whole corpus, where text cut out as a question is missing from its chunk.
        by_own_words: doc_ids of the chunks drawn to be asked for by words that they still have.
    """

    questions: RetrievalDataset
    by_own_words: frozenset[str]


def questions_of_both_kinds(corpus: Mapping[str, str], seed: int, *, count: int) -> MadeQuestions:
    """Ask for some chunks by words that stay in them, and for as many others by sentences cut out of them.

    People ask in the words of a text and in others. Questions whose words are still in their chunk favour a model that
    matches exact words. Questions whose sentence is gone (the inverse cloze task of Lee et al., 2019) favour one that
    knows what belongs together. Changes in nDCG@10 after training on the chunks alone, and (half) with weights halfway
    between the base model's and the trained ones:

    | chunks | own words | sentences cut out | both | people's questions |
    |---|---|---|---|---|
    | mostly program text | .09, half .09 | -.02, half .04 | .04, half .06 | -.01, half .01 |
    | a television's manual | .16, half .11 | -.04, half .02 | .06, half .07 | .08, half .09 |
    | a language's reference | .15, half .10 | .05, half .04 | .10, half .07 | .06, half .05 |

    On health agencies' pages, halfway weights gained .13 on both kinds and lost .03 on people's questions. Training
    therefore goes only a quarter of the way (`recipe.SHARE_OF_CHUNKS_ALONE`), and uses another method where it can
    (`token_teaching`).

    Args:
        corpus: doc_id -> text.
        seed: Random seed.
        count: Most chunks of each kind. A sentence can be cut out if it is prose of 6 to 30 words, stands in no other
            chunk, and is no longer than what is left of its chunk. If too few chunks have one, runs of words are cut
            out instead.
    """
    drawn = random.Random(seed)
    by_own_words = frozenset(drawn.sample(sorted(corpus), k=count))
    asked = {doc_id: corpus[doc_id] for doc_id in sorted(by_own_words)}
    spans = questions_from_corpus(asked, seed + 1, of_prose=True)
    others = [doc_id for doc_id in corpus if doc_id not in by_own_words]
    drawn.shuffle(others)
    cuts = dict(islice(_cuts(corpus, others, drawn), count))
    questions = RetrievalDataset(
        queries={**spans.queries, **{f"cut from {doc_id}": cut for doc_id, cut in cuts.items()}},
        corpus={**corpus, **{doc_id: corpus[doc_id].replace(cut, " ", 1) for doc_id, cut in cuts.items()}},
        relevant_docs={**spans.relevant_docs, **{f"cut from {doc_id}": (doc_id,) for doc_id in cuts}},
        sources=spans.sources,
    )
    return MadeQuestions(questions, by_own_words)


def _cuts(corpus: Mapping[str, str], doc_ids: Iterable[str], drawn: random.Random) -> Iterator[tuple[str, str]]:
    """Yield (doc_id, text to cut out): sentences first, then runs of words from chunks with no usable sentence."""
    times = Counter(sentence for text in corpus.values() for sentence in _sentences(text))
    without = []
    for doc_id in doc_ids:
        longest = min(LONGEST_SENTENCE, len(_words(corpus[doc_id])) // 2)
        of_chunk = (s for s in _sentences(corpus[doc_id]) if times[s] == corpus[doc_id].count(s) == 1 and _is_prose(s))
        # Sorted, so that the draw depends on the seed alone and not on the order of a set.
        if usable := sorted(sentence for sentence in of_chunk if SHORTEST <= len(_words(sentence)) <= longest):
            yield doc_id, drawn.choice(usable)
        else:
            without.append(doc_id)
    for doc_id in without:
        run = _run_of_words(corpus[doc_id], drawn, of_prose=True)
        if run and corpus[doc_id].count(run) == 1:
            yield doc_id, run


def _sentences(text: str) -> set[str]:
    return {sentence.strip() for sentence in SENTENCE_END.split(text)}


def _run_of_words(text: str, drawn: random.Random, *, of_prose: bool) -> str:
    """Draw a run of 6 to 12 words, at most half of the text; return "" if there is none."""
    words = _words(text)
    length = min(drawn.randint(SHORTEST, LONGEST), len(words) // 2)  # a chunk must say more than its question
    if length == 0:
        return ""
    firsts: Sequence[int] = range(len(words) - length + 1)
    if of_prose:
        plain, of_letters = (list(accumulate(marked, initial=0)) for marked in _marked(text, words))
        firsts = [
            n
            for n in firsts
            if _are_prose(plain[n + length] - plain[n], of_letters[n + length] - of_letters[n], length)
        ]
    if not firsts:
        return ""
    first = drawn.choice(firsts)
    return text[words[first][0] : words[first + length - 1][1]]


def _is_prose(text: str) -> bool:
    words = _words(text)
    plain, of_letters = _marked(text, words)
    return _are_prose(sum(plain), sum(of_letters), len(words))


def _are_prose(plain: int, of_letters: int, count: int) -> bool:
    """Tell whether `count` tokens are prose: `plain` are words or numbers, `of_letters` consist of letters alone."""
    return plain >= PLAIN * count and of_letters >= OF_LETTERS * count


def _marked(text: str, words: Sequence[tuple[int, int]]) -> tuple[list[bool], list[bool]]:
    """Mark the tokens that are words or numbers, and those of letters alone, ignoring punctuation around them."""
    bare = [text[start:end].strip(_MARKS) for start, end in words]
    plain, of_letters = ([bool(form.fullmatch(word)) for word in bare] for form in (_PLAIN, _OF_LETTERS))
    return plain, of_letters


def _words(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in AS_WRITTEN.finditer(text)]
