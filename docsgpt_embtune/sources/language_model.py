"""A language model behind any server of OpenAI's chat protocol."""

import json
import operator
import threading
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from typing import Any, Self, TypeVar

from docsgpt_embtune.errors import GenerationError
from docsgpt_embtune.openai_client import OpenAIClient, RefusedRequestError
from docsgpt_embtune.wording import Say, silent

KEY_VARIABLE = "EMBTUNE_LLM_API_KEY"
ANSWER_ATTEMPTS = 3  # at an answer of the right form

Parsed = TypeVar("Parsed")


class WrongFormError(ValueError):
    """An answer that is not what was asked for: a refusal, prose, broken JSON."""


@dataclass(frozen=True)
class Spent:
    """What was used, by the server's own count.

    Attributes:
        requests: Sent, the failed ones included.
        input_tokens: Of the answered ones.
        output_tokens: Of the answered ones.
        answers: To requests; not each has the form that was asked for.
        input_characters: Of the answered ones.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    answers: int = 0
    input_characters: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        """Add field by field."""
        return Spent(*map(operator.add, astuple(self), astuple(other)))


class LanguageModel:
    """Asks one model; safe to share between threads.

    Args:
        base_url: Up to and with the version, e.g. http://localhost:8000/v1.
        name: The model, as the server calls it.
        key: Sent as a bearer token; never shown.
        requests_per_minute: As of `OpenAIClient`, like all that follow.
        timeout: Seconds.
        first_wait: Seconds.
        say: Takes a line of plain text.
    """

    def __init__(
        self,
        base_url: str,
        name: str,
        *,
        key: str | None = None,
        requests_per_minute: float | None = None,
        timeout: float = 120.0,
        first_wait: float = 1.0,
        say: Say = silent,
    ) -> None:
        self._client = OpenAIClient(
            base_url.rstrip("/") + "/chat/completions",
            name,
            key=key,
            settings=f"--llm-base-url (it ends in /v1 mostly), --llm-model and the key in {KEY_VARIABLE}",
            error=GenerationError,
            requests_per_minute=requests_per_minute,
            timeout=timeout,
            first_wait=first_wait,
            harmless=_body("Answer with one word: yes."),
            timeout_option="--timeout",
            say=say,
        )
        self.name = name
        self.label = self._client.label
        self.stop = self._client.stop
        self.close = self._client.close
        self._lock = threading.Lock()
        self._spent = Spent()

    @property
    def spent(self) -> Spent:
        """What has been used so far."""
        return replace(self._spent, requests=self._client.requests)

    def __enter__(self) -> Self:
        """Use it as a context."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def ask(self, prompt: str, parse: Callable[[str], Parsed]) -> Parsed:
        """Ask until the answer has the right form.

        Args:
            prompt: The whole question.
            parse: Makes something of the answer, or raises WrongFormError.

        Raises:
            GenerationError: If the server is down, or refuses the key, the model or the URL.
            RefusedRequestError: If it answers others, and this one not in the right form.
        """
        for attempt in range(1, ANSWER_ATTEMPTS + 1):
            text, spent = self._client.post(_body(prompt), _answer_in)
            with self._lock:
                self._spent += replace(spent, input_characters=len(prompt))
            try:
                return parse(text)
            except WrongFormError as error:
                if attempt == ANSWER_ATTEMPTS:
                    raise RefusedRequestError(f"{error}: {' '.join(text.split())[:80]!r}") from error
        raise AssertionError("unreachable")


def _body(prompt: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}]}


def _answer_in(content: Any) -> tuple[str, Spent]:
    text = content["choices"][0]["message"].get("content") or ""
    usage = content.get("usage") or {}
    tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    return str(text), Spent(0, *tokens, answers=1)


def json_in(text: str) -> Any:
    """Take the last JSON object out of an answer, which may have thoughts, prose or a fence around it.

    Raises:
        WrongFormError: If there is none.
    """
    found = None
    start = text.find("{")
    while start >= 0:
        try:
            found, end = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)
    if found is None:
        raise WrongFormError("no JSON in the answer")
    return found
