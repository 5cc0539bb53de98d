"""One chunk's questions before a judge who does not know which chunk they were made for."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from string import Template
from typing import Any

from docsgpt_embtune.embeddings import encodable
from docsgpt_embtune.sources.language_model import WrongFormError, json_in

RIVALS = 2  # chunks found by search that each question is judged against
MOST_PASSAGES = 6  # in one judgment


@dataclass(frozen=True)
class MadeQuestion:
    """A question that a model made.

    Attributes:
        text: The question.
        kind: What the model says it is, e.g. "symptom".
        doc_id: The chunk that it was shown.
    """

    text: str
    kind: str
    doc_id: str


class JudgedQuestions:
    """The questions of one chunk, before it and its rivals.

    Args:
        template: The judge's prompt.
        corpus: doc_id -> text.
        doc_id: The chunk.
        questions: Made for it.
        rivals: Chunks found for each of the questions, likeliest first.
    """

    def __init__(
        self,
        template: Template,
        corpus: Mapping[str, str],
        doc_id: str,
        questions: Sequence[MadeQuestion],
        rivals: Sequence[Sequence[str]],
    ) -> None:
        self.doc_id = doc_id
        self.questions = questions
        self._rivals = dict(zip(questions, rivals, strict=True))
        likeliest = (rival for rank in range(RIVALS) for found in rivals for rival in found[rank : rank + 1])
        shown = list(dict.fromkeys([doc_id, *likeliest]))[:MOST_PASSAGES]
        # Shuffled, so that the judge cannot know which passage the questions were made for; the same in every run.
        shown.sort(key=lambda other: hashlib.sha256(f"{doc_id}\0{other}".encode()).digest())
        self._letters = {chr(ord("A") + number): other for number, other in enumerate(shown)}
        self.prompt: str = template.substitute(
            passages="\n\n".join(f"[{letter}]\n{corpus[other]}" for letter, other in self._letters.items()),
            questions="\n".join(f"{number}. {question.text}" for number, question in enumerate(questions, start=1)),
        )

    @property
    def parse(self) -> Callable[[str], Any]:
        """What makes verdicts of the judge's answer."""
        return partial(parse_verdicts, questions=len(self.questions), letters=frozenset(self._letters))

    def answering(self, verdict: Mapping[str, Any]) -> list[str]:
        """Name the chunks that answer a question."""
        return [self._letters[letter] for letter in verdict["answered_by"]]

    def fault_of(self, verdict: Mapping[str, Any]) -> str | None:
        """Name what the judge holds against a question, or None."""
        if verdict["depends_on_passage"]:
            return "depends on its passage"
        if not verdict["best"]:
            return "not answered by its chunk"
        return None if self._letters[verdict["best"]] == self.doc_id else "answered better by another chunk"

    def near_miss(self, question: MadeQuestion, verdict: Mapping[str, Any]) -> str | None:
        """Name the likeliest chunk that the judge has seen and that does not answer."""
        shown, answering = set(self._letters.values()), self.answering(verdict)
        return next((rival for rival in self._rivals[question] if rival in shown and rival not in answering), None)


def parse_questions(text: str) -> list[dict[str, str]]:
    """Read the model's questions: [{"kind": …, "question": …}], none where it finds nothing to ask.

    Raises:
        WrongFormError: If the answer has another form.
    """
    content = json_in(text)
    questions = content.get("questions") if isinstance(content, dict) else None
    if not isinstance(questions, list) or not all(
        isinstance(row, dict) and isinstance(row.get("question"), str) for row in questions
    ):
        raise WrongFormError("no list of questions in the answer")
    return [
        {
            "kind": encodable(str(row.get("kind") or "other")),
            "question": " ".join(encodable(row["question"]).split()),
        }
        for row in questions
    ]


def parse_verdicts(text: str, *, questions: int, letters: frozenset[str]) -> list[dict[str, Any]]:
    """Read the judge's verdicts, one for each question in order.

    Returns:
        {"best": letter or "", "answered_by": letters, "depends_on_passage": bool} for each.

    Raises:
        WrongFormError: If the answer has another form, lacks a question, or names a passage that is not there.
    """
    content = json_in(text)
    rows = content.get("verdicts") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise WrongFormError("no list of verdicts in the answer")
    by_number = {str(row.get("question")): row for row in rows if isinstance(row, dict)}
    return [_verdict(by_number.get(str(number), {}), number, letters) for number in range(1, questions + 1)]


def _verdict(row: Mapping[str, Any], number: int, letters: frozenset[str]) -> dict[str, Any]:
    best, answered_by = row.get("best"), row.get("answered_by")
    if not isinstance(answered_by, list):
        raise WrongFormError(f"no verdict on question {number} in the answer")
    for letter in (best, *answered_by):
        if not isinstance(letter, str) or letter not in letters | {"none"}:
            raise WrongFormError(f"the verdict on question {number} names a passage {letter!r}")
    return {
        "best": "" if best == "none" else best,
        "answered_by": [letter for letter in answered_by if letter != "none"],
        "depends_on_passage": row.get("depends_on_passage") is True,
    }
