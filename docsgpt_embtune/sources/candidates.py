"""Candidate judgments from rated answers: weak labels, each with a weight, for a person to review.

Users rate answers, not chunks. A liked answer speaks for its source chunks: most for the first, and less if the
question was a follow-up, which DocsGPT rephrases before it searches. A disliked answer takes as much weight back, but
marks no chunk as bad: the chunk may be fine and the answer not. The weights are a convention, not a measurement; 1 is
reserved for a person's verdict.
"""

import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from docsgpt_embtune.data.dataset import RetrievalDataset, query_digest
from docsgpt_embtune.embeddings import encodable
from docsgpt_embtune.sources.conversations import RatedAnswer

FIRST_SOURCE = 0.5  # weight of the first chunk behind one liked answer to a first question
OTHER_SOURCE = 0.25  # for each of the others
FOLLOW_UP = 0.5  # factor for both, if the question was not the conversation's first
HIGHEST = 0.9  # upper bound, however many answers agree
SUGGESTED = 3  # chunks that a search adds to each question, besides those that were shown
_STORED_CHARACTERS = 1000  # of a source's text that DocsGPT stores


@dataclass(frozen=True)
class Candidate:
    """A question and a chunk that may answer it.

    Attributes:
        query_id: Derived from the masked question, so the same question has the same id in every harvest.
        question: As the user typed it, masked.
        doc_id: The chunk.
        chunk: Its text, for the person who reviews.
        weight: How much the ratings speak for the chunk, 0 to 0.9.
        why: What the weight is based on.
        asked_on: ISO date when it was first asked, empty if unknown.
        verdict: "good", "bad", or empty if nobody has judged.
        own: The reviewer's own columns, name -> value, as they were read.
    """

    query_id: str
    question: str
    doc_id: str
    chunk: str
    weight: float
    why: str
    asked_on: str
    verdict: str = ""
    own: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Harvest:
    """Candidates, and counts of what they were made from.

    Attributes:
        candidates: Grouped by question in the order of first asking, the likeliest chunk first.
        answers: Rated answers that were read; those to blank questions do not count.
        questions: Distinct questions among them.
        sources: Retrieved texts that were read.
        unknown_sources: Retrieved texts that match no chunk of the corpus; many mean that it is the wrong corpus.
    """

    candidates: tuple[Candidate, ...]
    answers: int
    questions: int
    sources: int
    unknown_sources: int


@dataclass
class _Asked:
    """A distinct question: its text, when it was first asked, and what its answers say about each chunk."""

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
        answers: Rated answers of a deployment.
        corpus: Its chunks: doc_id -> text.
        mask: Removes from a question what must not leave the database.
        suggested: Chunks to add to each question from a BM25 search: if an answer was disliked, the right chunk is
            probably none of those that were shown.
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
    """Derive the id of a question that users asked from its text, so that a later edit of the text shows."""
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
    """Finds the chunks of stored sources by text, as no release of DocsGPT stores chunk ids with an answer.

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
        """Return the ids of the chunks with this text or, if it was cut at 1000 characters, that begin with it."""
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
