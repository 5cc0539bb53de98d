"""A language model on any server that speaks OpenAI's chat protocol."""

import json
import operator
import threading
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from typing import Any, Self, TypeVar

from docsgpt_embtune.errors import GenerationError
from docsgpt_embtune.openai_client.client import USUAL_PATIENCE, OpenAIClient, Patience, RefusedRequestError
from docsgpt_embtune.wording import Say, silent

KEY_VARIABLE = "EMBTUNE_LLM_API_KEY"
ANSWER_ATTEMPTS = 3  # to get an answer in the right form
# Tokens: some models never end, and one that reasons before it answers takes a few thousand.
LONGEST_ANSWER = 4000
_LIMIT, _NEWER_LIMIT = "max_tokens", "max_completion_tokens"  # OpenAI's own models refuse the first
_USAGE, _STREAM = "stream_options", "stream"  # which some servers refuse

Parsed = TypeVar("Parsed")


class WrongFormError(ValueError):
    """An answer that is not in the form asked for: a refusal, prose, broken JSON."""


@dataclass(frozen=True)
class Spent:
    """Usage of a language model; tokens are counted by the server.

    Attributes:
        requests: Requests sent, including failed ones.
        input_tokens: Tokens in the answered requests.
        output_tokens: Tokens in their answers.
        answers: Answers received, in whatever form.
        input_characters: Characters in the answered requests.
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
    """Client of one model; can be shared between threads.

    Args:
        base_url: URL up to and including the version, e.g. http://localhost:8000/v1.
        name: The model, as the server calls it.
        key: Sent as a bearer token; never shown.
        longest_answer: Limit of an answer in tokens, including the model's reasoning.
        requests_per_minute: Rate limit; none if None.
        patience: How long to wait for the server, and to try again.
        say: Takes a line of plain text.
    """

    def __init__(
        self,
        base_url: str,
        name: str,
        *,
        key: str | None = None,
        longest_answer: int = LONGEST_ANSWER,
        requests_per_minute: float | None = None,
        patience: Patience = USUAL_PATIENCE,
        say: Say = silent,
    ) -> None:
        self._client = OpenAIClient(
            base_url.rstrip("/") + "/chat/completions",
            name,
            key=key,
            settings=f"--llm-base-url (it ends in /v1 mostly), --llm-model and the key in {KEY_VARIABLE}",
            error=GenerationError,
            requests_per_minute=requests_per_minute,
            patience=patience,
            harmless=_body("Answer with one word: yes."),
            timeout_option="--timeout",
            asks_fewer=True,
            say=say,
        )
        # Streamed: a long answer then does not look like silence, and the server notices when nobody listens any more.
        self._options: dict[str, Any] = {_STREAM: True, _USAGE: {"include_usage": True}, _LIMIT: longest_answer}
        self._longest_answer = longest_answer
        self._say = say
        self.name = name
        self.label = self._client.label
        self.leave = self._client.leave
        self.close = self._client.close
        self._lock = threading.Lock()
        self._spent = Spent()

    @property
    def spent(self) -> Spent:
        """The usage so far."""
        return replace(self._spent, requests=self._client.requests)

    def __enter__(self) -> Self:
        """Use it as a context."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def stop(self) -> None:
        """Start no further attempt."""
        self._client.stop()
        if self._client.under_way:
            self._say("waiting for the answers that are on their way; Ctrl-C leaves them")

    def ask(self, prompt: str, parse: Callable[[str], Parsed]) -> Parsed:
        """Ask until the answer has the right form.

        Args:
            prompt: The whole prompt.
            parse: Parses the answer, or raises WrongFormError.

        Raises:
            GenerationError: If the server is down, or refuses the key, the model or the URL.
            RefusedRequestError: If it refuses only this prompt, or never answers it in the right form.
        """
        for attempt in range(1, ANSWER_ATTEMPTS + 1):
            text, cut_off, spent = self._answer(prompt)
            with self._lock:
                self._spent += replace(spent, input_characters=len(prompt))
            try:
                return parse(text)
            except WrongFormError as error:
                if attempt == ANSWER_ATTEMPTS:
                    why = f"cut off after {self._longest_answer:,} tokens (--max-tokens), {error}" if cut_off else error
                    raise RefusedRequestError(f"{why}: {' '.join(text.split())[:80]!r}") from error
        raise AssertionError("unreachable")

    def _answer(self, prompt: str) -> tuple[str, bool, Spent]:
        """Ask once, dropping or renaming options that this server turns out to refuse."""
        options = self._options
        while True:
            try:
                return self._client.post({**_body(prompt), **options}, _answer_in)
            except RefusedRequestError as error:
                refused = str(error)
                limit = next((name for name in (_LIMIT, _NEWER_LIMIT) if name in options), None)
                if limit == _LIMIT and _NEWER_LIMIT in refused:
                    options = self._options = _without(_LIMIT, options) | {_NEWER_LIMIT: self._longest_answer}
                elif _USAGE in options and _USAGE in refused:
                    options = self._options = _without(_USAGE, options)
                elif _STREAM in options and _STREAM in refused:  # OpenAI's, to an organization that is not verified
                    options = self._options = _without(_STREAM, _without(_USAGE, options))
                elif limit:  # on some servers prompt and limit together must fit into the context
                    options = _without(limit, options)
                else:
                    raise


def _without(name: str, options: dict[str, Any]) -> dict[str, Any]:
    return {each: value for each, value in options.items() if each != name}


def _body(prompt: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}]}


def _answer_in(content: Any) -> tuple[str, bool, Spent]:
    """Return an answer's text, whether it was cut off, and its usage."""
    choice = content["choices"][0]
    text = choice["message"].get("content") or ""
    usage = content.get("usage") or {}
    tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    return str(text), choice.get("finish_reason") == "length", Spent(0, *tokens, answers=1)


def json_objects_in(text: str) -> list[dict[str, Any]]:
    """Find the JSON objects in an answer, which may have reasoning, prose or a code fence around them.

    Of an object that is broken or was cut off, the complete objects inside it are returned.
    """
    _, _, text = text.rpartition("</think>")
    found = []
    start = text.find("{")
    while start >= 0:
        try:
            content, end = json.JSONDecoder().raw_decode(text, start)
            found.append(content)
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)
    return found
