"""Questions out of the corpus itself: to learn from, words of a chunk; to choose by, sentences cut out of it, too."""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.words import AS_WRITTEN, SENTENCE_END

# As long as people's questions are. Longer ones are found by any model and teach nothing.
SHORTEST, LONGEST = 6, 12
LONGEST_SENTENCE = 30
# Of what stands between a question's spaces, so much is at least words or numbers, and so much words: what is cut from
# program text or of tables otherwise asks as nobody does.
PLAIN, OF_LETTERS = 0.9, 0.5
_MARKS = ".,;:!?()[]{}\"'“”‘’«»…"
_PLAIN = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*|[^\W_]*\d[\d.,:/-]*%?")
_OF_LETTERS = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")


def questions_from_corpus(corpus: Mapping[str, str], seed: int, *, of_prose: bool = False) -> RetrievalDataset:
    """Take one run of 6 to 12 words from each chunk as a question that the chunk answers.

    It needs no labels and no language model, and teaches a model the words of these documents: the same idea
    as the cropping of Contriever (Izacard et al., 2021), with the crop left in its chunk, so that the model
    also learns to mind the exact words that people copy into a question.

    Args:
        corpus: doc_id -> text.
        seed: Seed of the drawing.
        of_prose: Whether words that nobody would ask with are left alone, as is wanted where no person's questions
            tell whether they teach anything. Where these do, words of program text taught, too: without those in a
            language's reference, validation found .531 instead of .558 of nDCG@10 after the chunks.

    Returns:
        A question for each chunk that has words enough for one, over the whole corpus.
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
    """What a model is chosen by where nobody asked anything.

    Attributes:
        questions: Over the whole corpus, in which some chunks no longer have a sentence that asks for them.
        by_own_words: doc_ids of the chunks that are asked for by words that they still have.
    """

    questions: RetrievalDataset
    by_own_words: frozenset[str]


def questions_of_both_kinds(corpus: Mapping[str, str], seed: int, *, count: int) -> MadeQuestions:
    """Ask for some chunks by words of their own, and for as many others by a sentence that is cut out of them.

    People ask in the words of a text and in others. By words that still stand in their chunk a model is the better the
    more it minds exact words; by sentences that are gone (the inverse cloze task of Lee et al., 2019), the more it
    knows what belongs together. Changes in nDCG@10 after learning from the chunks alone, and halfway there:

    | chunks | own words | sentences cut out | both | people's questions |
    |---|---|---|---|---|
    | mostly program text | .09, half .09 | -.02, half .04 | .04, half .06 | -.01, half .01 |
    | a television's manual | .16, half .11 | -.04, half .02 | .06, half .07 | .08, half .09 |
    | a language's reference | .15, half .10 | .05, half .04 | .10, half .07 | .06, half .05 |

    On health agencies' pages half of the way brought +.13 by both, and people's questions -.03: hence no more than a
    quarter is taken of such a way (`recipe.SHARE_OF_CHUNKS_ALONE`), and another where there is one (`token_teaching`).

    Args:
        corpus: doc_id -> text.
        seed: Seed of the drawing.
        count: Chunks of either kind, at most. Sentences are cut out of chunks that have one of 6 to 30 words which
            stands in no other chunk and is no more than what is left, and runs of words where there are too few.
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
    """Yield doc_id and what is cut out of it: sentences first, then runs of words of the chunks that have none fit."""
    times = Counter(sentence for text in corpus.values() for sentence in _sentences(text))
    without = []
    for doc_id in doc_ids:
        longest = min(LONGEST_SENTENCE, len(_words(corpus[doc_id])) // 2)
        of_chunk = (s for s in _sentences(corpus[doc_id]) if times[s] == corpus[doc_id].count(s) == 1 and _is_prose(s))
        # In order, as the seed decides and not how Python hashes.
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
    """Draw a run of 6 to 12 words, of half the words where there are few; nothing where there is none to be had."""
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
    """Tell whether `count` words are prose: of them `plain` are words or numbers, and `of_letters` of letters alone."""
    return plain >= PLAIN * count and of_letters >= OF_LETTERS * count


def _marked(text: str, words: Sequence[tuple[int, int]]) -> tuple[list[bool], list[bool]]:
    """Mark the words that are words or numbers, and those that are of letters, whatever marks are around them."""
    bare = [text[start:end].strip(_MARKS) for start, end in words]
    plain, of_letters = ([bool(form.fullmatch(word)) for word in bare] for form in (_PLAIN, _OF_LETTERS))
    return plain, of_letters


def _words(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in AS_WRITTEN.finditer(text)]
