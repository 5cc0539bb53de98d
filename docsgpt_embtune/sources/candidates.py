"""What rated answers say about chunks: weakly, with a weight, for a person to look at.

A thumb rates the answer, so a liked one speaks for the chunks behind it, most for the first, and less where the
question was a follow-up, which DocsGPT rephrases before it searches. A disliked one takes as much back and says no
more: the chunk may be fine and the answer not. The weights are a convention, not a measurement; 1 is kept for what a
person has said.
"""

import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from docsgpt_embtune.data.dataset import RetrievalDataset, query_digest
from docsgpt_embtune.embeddings import encodable
from docsgpt_embtune.sources.conversations import RatedAnswer

FIRST_SOURCE = 0.5  # of one liked answer to a first question
OTHER_SOURCE = 0.25
FOLLOW_UP = 0.5  # of either, where the question was not the conversation's first
HIGHEST = 0.9  # however many agree
SUGGESTED = 3  # chunks that a search finds for each question, beside those that were shown
_STORED_CHARACTERS = 1000  # what DocsGPT keeps of a source's text


@dataclass(frozen=True)
class Candidate:
    """A question and a chunk that may answer it.

    Attributes:
        query_id: Made from the masked question, so the same question has the same id in every harvest.
        question: As the user typed it, masked.
        doc_id: The chunk.
        chunk: Its text, for the person who reviews.
        weight: How much the ratings speak for the chunk, 0 to 0.9.
        why: What the weight is made of.
        asked_on: ISO date of the first time, empty where unknown.
        verdict: "good", "bad", or empty: nobody has looked.
    """

    query_id: str
    question: str
    doc_id: str
    chunk: str
    weight: float
    why: str
    asked_on: str
    verdict: str = ""


@dataclass(frozen=True)
class Harvest:
    """Candidates, and what became of the rest.

    Attributes:
        candidates: A question's together, in the order of its first asking, the likeliest first.
        answers: Rated answers that were read, to questions with text in them.
        questions: Distinct questions among them.
        sources: Retrieved texts that were read.
        unknown_sources: Those that no chunk of the corpus has; many mean that the corpus is another one's.
    """

    candidates: tuple[Candidate, ...]
    answers: int
    questions: int
    sources: int
    unknown_sources: int


@dataclass
class _Asked:
    """A distinct question: its text, when it came first, and what its answers say about each chunk."""

    question: str
    asked_on: str
    liked: int = 0
    disliked: int = 0
    evidence: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    found_by_search: list[str] = field(default_factory=list)


def find_candidates(
    answers: Iterable[RatedAnswer],
    corpus: Mapping[str, str],
    *,
    mask: Callable[[str], str],
    suggested: int = SUGGESTED,
) -> Harvest:
    """Turn rated answers into questions with chunks that may answer them.

    Args:
        answers: From a deployment.
        corpus: Its chunks: doc_id -> text.
        mask: Takes out of a question what must not leave the database.
        suggested: Chunks to add to each question that BM25 finds: where the answer was disliked, the right
            chunk is likely none of those that were shown.
    """
    chunks = ChunksByText(corpus)
    asked: dict[str, _Asked] = {}
    read = sources = unknown = 0
    for answer in answers:
        question = mask(answer.question).strip()
        if not question:
            continue
        read += 1
        entry = asked.setdefault(asked_id(question), _Asked(question, answer.asked_on))
        entry.liked += answer.liked
        entry.disliked += not answer.liked
        for rank, text in enumerate(answer.sources):
            found = chunks.find(text)
            sources += 1
            unknown += not found
            for doc_id in found:
                entry.evidence[doc_id] += _weight(answer, rank)
    _suggest(asked, corpus, suggested)
    candidates = [candidate for query_id, entry in asked.items() for candidate in _candidates(query_id, entry, corpus)]
    return Harvest(tuple(candidates), read, len(asked), sources, unknown)


def asked_id(question: str) -> str:
    """Make the id of a question that users asked, which tells whether its text was mended since."""
    return f"asked-{query_digest(question)}"


def _weight(answer: RatedAnswer, rank: int) -> float:
    weight = FIRST_SOURCE if rank == 0 else OTHER_SOURCE
    return (1 if answer.liked else -1) * weight * (1 if answer.is_first_turn else FOLLOW_UP)


def _suggest(asked: Mapping[str, _Asked], corpus: Mapping[str, str], suggested: int) -> None:
    from docsgpt_embtune.evaluation.bm25 import retrieve_bm25

    if not asked or not suggested:
        return
    questions = {query_id: entry.question for query_id, entry in asked.items()}
    ranking = retrieve_bm25(RetrievalDataset(questions, corpus, {}), k=suggested)
    for query_id, entry in asked.items():
        entry.found_by_search = ranking.top(query_id, suggested)


def _candidates(query_id: str, entry: _Asked, corpus: Mapping[str, str]) -> list[Candidate]:
    thumbs = f"shown with {entry.liked} liked and {entry.disliked} disliked answers"
    reasons = dict.fromkeys(sorted(entry.evidence, key=lambda doc_id: -entry.evidence[doc_id]), thumbs)
    for doc_id in entry.found_by_search:
        reasons.setdefault(doc_id, "found by search")
    return [
        Candidate(
            query_id,
            entry.question,
            doc_id,
            corpus[doc_id],
            weight=round(min(max(entry.evidence.get(doc_id, 0.0), 0.0), HIGHEST), 3),
            why=why,
            asked_on=entry.asked_on,
        )
        for doc_id, why in reasons.items()
    ]


class ChunksByText:
    """Finds the chunks that a stored source was, by their text: no release of DocsGPT stores their ids.

    Args:
        corpus: doc_id -> text.
    """

    def __init__(self, corpus: Mapping[str, str]) -> None:
        ids = defaultdict(list)
        for doc_id, text in corpus.items():
            ids[_plain(text)].append(doc_id)
        self._ids = dict(ids)
        self._texts = sorted(ids)

    def find(self, source: str) -> list[str]:
        """Return the ids of the chunks with this text, or that begin with it where it was cut at 1000 characters."""
        plain = _plain(source)
        if plain in self._ids:
            return self._ids[plain]
        if len(source) < _STORED_CHARACTERS:
            return []
        found = []
        for text in self._texts[bisect.bisect_left(self._texts, plain) :]:
            if not text.startswith(plain):
                break
            found += self._ids[text]
        return found


def _plain(text: str) -> str:
    return " ".join(encodable(text).replace("\0", "").split())
