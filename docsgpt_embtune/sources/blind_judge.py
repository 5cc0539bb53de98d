"""Judgment of one chunk's questions by a model that does not know which chunk they were made for."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from string import Template
from typing import Any

from docsgpt_embtune.embeddings import encodable
from docsgpt_embtune.sources.language_model import WrongFormError, json_objects_in

RIVALS = 2  # retrieved chunks that each question is judged against, besides its own
MOST_PASSAGES = 6  # in one judgment


@dataclass(frozen=True)
class MadeQuestion:
    """A question that a model made.

    Attributes:
        text: The question.
        kind: Its kind according to the model, e.g. "symptom".
        doc_id: The chunk that the model was shown.
    """

    text: str
    kind: str
    doc_id: str


class JudgedQuestions:
    """The questions of one chunk, to be judged against that chunk and its rivals.

    Args:
        template: The judge's prompt.
        corpus: doc_id -> text.
        doc_id: The chunk.
        questions: The questions made for it.
        rivals: For each question, the chunks that a search found for it, likeliest first.
        backwards: Whether the passages are in reverse order.
    """

    def __init__(
        self,
        template: Template,
        corpus: Mapping[str, str],
        doc_id: str,
        questions: Sequence[MadeQuestion],
        rivals: Sequence[Sequence[str]],
        *,
        backwards: bool = False,
    ) -> None:
        self.doc_id = doc_id
        self._template, self._corpus = template, corpus
        self.questions = questions
        self._rivals = dict(zip(questions, rivals, strict=True))
        likeliest = (rival for rank in range(RIVALS) for found in rivals for rival in found[rank : rank + 1])
        shown = list(dict.fromkeys([doc_id, *likeliest]))[:MOST_PASSAGES]
        # Shuffled, so that the judge cannot know which passage the questions were made for; the same in every run.
        shown.sort(key=lambda other: hashlib.sha256(f"{doc_id}\0{other}".encode()).digest(), reverse=backwards)
        self._letters = {chr(ord("A") + number): other for number, other in enumerate(shown)}
        self.prompt: str = template.substitute(
            passages="\n\n".join(f"[{letter}]\n{corpus[other]}" for letter, other in self._letters.items()),
            questions="\n".join(f"{number}. {question.text}" for number, question in enumerate(questions, start=1)),
        )

    @property
    def parse(self) -> Callable[[str], Any]:
        """The parser that turns the judge's answer into verdicts."""
        return partial(parse_verdicts, questions=len(self.questions), letters=frozenset(self._letters))

    def answering(self, verdict: Mapping[str, Any] | None) -> list[str]:
        """Return the chunks that answer a question according to its verdict."""
        return [self._letters[letter] for letter in verdict["answered_by"]] if verdict else []

    def fault_of(self, verdict: Mapping[str, Any] | None) -> str | None:
        """Return why a question is rejected, or None."""
        if verdict is None:
            return "not judged"
        if verdict["depends_on_passage"]:
            return "depends on its passage"
        if not verdict["best"]:
            return "not answered by its chunk"
        return None if self._letters[verdict["best"]] == self.doc_id else "answered better by another chunk"

    def near_miss(self, question: MadeQuestion, answering: Collection[str]) -> str | None:
        """Return the likeliest rival that the judge has seen and that is not in `answering`, or None."""
        shown = set(self._letters.values())
        return next((rival for rival in self._rivals[question] if rival in shown and rival not in answering), None)

    def turned(self, questions: Sequence[MadeQuestion]) -> "JudgedQuestions":
        """Make a second judgment of some of the questions, with the passages in reverse order."""
        rivals = [self._rivals[question] for question in questions]
        return JudgedQuestions(self._template, self._corpus, self.doc_id, questions, rivals, backwards=True)


def parse_questions(text: str) -> list[dict[str, str]]:
    """Parse the model's questions: [{"kind": …, "question": …}], empty if it found nothing to ask.

    Raises:
        WrongFormError: If the answer has another form.
    """
    rows = [row if isinstance(row, dict) else {"question": row} for row in _rows(text, "questions", "question")]
    asked = [row for row in rows if isinstance(row.get("question"), str)]
    if rows and not asked:
        raise WrongFormError("no list of questions in the answer")
    return [
        {
            "kind": encodable(str(row.get("kind") or "other")),
            "question": " ".join(encodable(row["question"]).split()),
        }
        for row in asked
    ]


def parse_verdicts(text: str, *, questions: int, letters: frozenset[str]) -> list[dict[str, Any] | None]:
    """Parse the judge's verdicts, one for each question in order.

    Returns:
        For each question {"best": letter or "", "answered_by": letters, "depends_on_passage": bool}; or None if there
        is no verdict on it, or one that contradicts itself or names a best passage that does not exist.

    Raises:
        WrongFormError: If the answer has another form, or no usable verdict.
    """
    rows = [row for row in _rows(text, "verdicts", "answered_by") if isinstance(row, dict)]
    by_number = {str(row.get("question")).strip(" ."): row for row in rows}
    numbers = [str(number) for number in range(1, questions + 1)]
    if len(rows) == questions and by_number.keys().isdisjoint(numbers):  # it gives the questions' text there
        by_number = dict(zip(numbers, rows, strict=True))
    verdicts = [_verdict(by_number[number], letters) if number in by_number else None for number in numbers]
    if not any(verdicts):
        raise WrongFormError("no verdict on any of the questions in the answer")
    return verdicts


def _rows(text: str, key: str, field: str) -> list[Any]:
    """Find the rows of an answer: the items of lists under `key`, or single objects that have `field`.

    Small models write a separate object for each row, or omit the end of the list.

    Raises:
        WrongFormError: If there is neither.
    """
    rows: list[Any] | None = None
    for content in json_objects_in(text):
        found = content.get(key)
        if not isinstance(found, list):
            found = [content] if field in content else None
        if found is not None:
            rows = [*(rows or []), *found]
    if rows is None:
        raise WrongFormError(f"no list of {key} in the answer")
    return rows


def _verdict(row: Mapping[str, Any], letters: frozenset[str]) -> dict[str, Any] | None:
    given = row.get("answered_by")
    answering = [_letter(letter) for letter in (given if isinstance(given, list) else [given])]
    answering = [letter for letter in answering if letter in letters]  # the judge may invent further letters
    best = _letter(row.get("best"))
    if best and (best not in letters or (answering and best not in answering)):
        return None
    depends = str(row.get("depends_on_passage")).lower() == "true"
    return {"best": best, "answered_by": answering, "depends_on_passage": depends}


def _letter(given: Any) -> str:
    """Parse the letter of a passage, written B, b or [B]; return "" for none."""
    letter = str(given or "").strip(" []().'").upper()
    return "" if letter in ("NONE", "NULL") else letter
