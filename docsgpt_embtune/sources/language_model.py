"""A language model behind any server of OpenAI's chat protocol: vLLM, llama.cpp, Ollama, TGI, or a service.

A server under load says no, says nothing, or breaks off. What may pass is tried again, after the time that the
server names or a growing one; what will not is an error at once.
"""

import json
import operator
import threading
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar

from docsgpt_embtune.errors import GenerationError
from docsgpt_embtune.sources.urls import without_credentials
from docsgpt_embtune.wording import Say, silent

if TYPE_CHECKING:
    import tenacity

KEY_VARIABLE = "EMBTUNE_LLM_API_KEY"
ATTEMPTS = 8  # at one request, before the server counts as down
ANSWER_ATTEMPTS = 3  # at an answer of the right form
LONGEST_WAIT = 600.0  # seconds that a Retry-After can ask for
LONGEST_GROWN_WAIT = 60.0  # seconds, where the server names no time
_MAY_PASS = frozenset({408, 409, 425, 429})
_WRONG_SETTINGS = frozenset({*range(300, 400), 401, 402, 403, 404, 405})  # moved, no rights, no money, no such thing
_LONGEST_REASON = 200  # characters of what a server says about its refusal

Parsed = TypeVar("Parsed")


class UnanswerableError(Exception):
    """The model gave nothing usable for this prompt, while it answers others."""


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
        requests_per_minute: At most; no limit if None.
        timeout: Seconds that the server may be silent: httpx's limit for each read, and not for a whole answer.
        first_wait: Seconds before the second attempt; each further wait is twice as long.
        say: Takes a line of plain text where the server gives no answer and is asked again, once until it does.
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
        try:
            import httpx
        except ImportError as error:
            raise GenerationError("httpx is needed; run: pip install 'docsgpt-embtune[gather]'") from error
        self.name = name
        self._key = key
        self._first_wait = first_wait
        self._pace = _Pace(requests_per_minute)
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._spent = Spent()
        self._say = say
        self._said_that_it_waits = False
        try:
            self._url = httpx.URL(base_url.rstrip("/") + "/chat/completions")
            self._client = httpx.Client(headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=timeout)
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise GenerationError(f"--llm-base-url or {KEY_VARIABLE} is malformed ({type(error).__name__})") from error
        if self._url.scheme not in ("http", "https"):
            raise GenerationError(
                f"--llm-base-url {without_credentials(base_url)!r} does not begin with http:// or https://"
            )
        self.label = without_credentials(str(self._url))

    @property
    def spent(self) -> Spent:
        """What has been used so far."""
        return self._spent

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def __enter__(self) -> Self:
        """Use it as a context."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def stop(self) -> None:
        """Begin no further attempt; what is in flight is paid for and ends as it ends."""
        self._stopped.set()

    def ask(self, prompt: str, parse: Callable[[str], Parsed]) -> Parsed:
        """Ask until the answer has the right form.

        Args:
            prompt: The whole question.
            parse: Makes something of the answer, or raises WrongFormError.

        Raises:
            GenerationError: If the server is down, or refuses the key, the model or the URL.
            UnanswerableError: If it answers others, and this one not in the right form.
        """
        for attempt in range(1, ANSWER_ATTEMPTS + 1):
            text = self._request(prompt)
            try:
                return parse(text)
            except WrongFormError as error:
                if attempt == ANSWER_ATTEMPTS:
                    raise UnanswerableError(f"{error}: {' '.join(text.split())[:80]!r}") from error
        raise AssertionError("unreachable")

    def _request(self, prompt: str) -> str:
        import tenacity

        growing = tenacity.wait_combine(
            tenacity.wait_exponential(multiplier=self._first_wait, max=LONGEST_GROWN_WAIT),
            tenacity.wait_random(0, self._first_wait),  # or all who were refused together come back together
        )

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome and state.outcome.exception()
            return max(growing(state), error.wait if isinstance(error, _TryAgainError) else 0.0)

        answered_before = self._spent.answers
        try:
            for attempt in tenacity.Retrying(
                stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_when_event_set(self._stopped),
                sleep=tenacity.sleep_using_event(self._stopped),
                wait=wait,
                retry=tenacity.retry_if_exception_type(_TryAgainError),
                before_sleep=self._say_that_it_waits,
                reraise=True,
            ):
                with attempt:
                    return self._request_once(prompt)
        except _TryAgainError as error:
            if self._spent.answers > answered_before:
                raise UnanswerableError(f"{ATTEMPTS} attempts, the last: {error}") from error
            raise GenerationError(
                f"{self.label}: {ATTEMPTS} attempts, the last: {error}; what was answered is kept: see to the server "
                "and run the same command again"
            ) from error
        raise AssertionError("unreachable")

    def _request_once(self, prompt: str) -> str:
        import httpx

        self._pace.wait(self._stopped)
        if self._stopped.is_set():
            raise _TryAgainError("stopped before it was sent")
        self._count(Spent(requests=1))
        try:
            response = self._client.post(
                self._url, json={"model": self.name, "messages": [{"role": "user", "content": prompt}]}
            )
        except httpx.RequestError as error:  # no connection, too slow, or broken off within the body
            raise _TryAgainError(f"{type(error).__name__} {error}".strip()) from error
        self._refuse_status(response)
        try:
            content = response.json()
            text = content["choices"][0]["message"].get("content") or ""
            usage = content.get("usage") or {}
            tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise _TryAgainError(f"an answer that is not the protocol's ({type(error).__name__})") from error
        self._count(Spent(0, *tokens, answers=1, input_characters=len(prompt)))
        return str(text)

    def _refuse_status(self, response: Any) -> None:
        status = response.status_code
        if status == 200:
            return
        reason = self._reason(response)
        if status in _MAY_PASS or status >= 500:
            wait = _retry_after(response.headers.get("Retry-After"))
            if wait:
                self._pace.hold(wait)  # the others would be told the same
            raise _TryAgainError(f"HTTP {status}{reason}", wait)
        if status in _WRONG_SETTINGS:
            raise GenerationError(
                f"{self.label}: HTTP {status} for model {self.name!r}{reason}; check --llm-base-url (it ends in /v1 "
                f"mostly), --llm-model and the key in {KEY_VARIABLE}"
            )
        raise UnanswerableError(f"HTTP {status}{reason}")

    def _reason(self, response: Any) -> str:
        """Return what the server says of its refusal, without the key, which some servers repeat."""
        try:
            content = response.json()
        except (ValueError, RecursionError):
            return ""
        content = content if isinstance(content, dict) else {}
        error = content.get("error")
        said = error.get("message") if isinstance(error, dict) else error or content.get("detail")
        if not said:
            return ""
        text = str(said).replace(self._key, "[key]") if self._key else str(said)
        return f": {' '.join(text.split())[:_LONGEST_REASON]!r}"

    def _say_that_it_waits(self, state: "tenacity.RetryCallState") -> None:
        with self._lock:
            said, self._said_that_it_waits = self._said_that_it_waits, True
        if not said and state.outcome:
            self._say(f"{self.label}: {state.outcome.exception()}; trying again, {ATTEMPTS} times at most")

    def _count(self, more: Spent) -> None:
        with self._lock:
            self._spent += more
            self._said_that_it_waits &= not more.answers


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


class _TryAgainError(Exception):
    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


class _Pace:
    """Lets requests through at an even rate, whichever thread they come from."""

    def __init__(self, per_minute: float | None) -> None:
        self._interval = 60.0 / per_minute if per_minute else 0.0
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self, stopped: threading.Event) -> None:
        with self._lock:
            now = time.monotonic()
            mine = max(now, self._next)
            self._next = mine + self._interval
        stopped.wait(mine - now)

    def hold(self, seconds: float) -> None:
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


def _retry_after(header: str | None) -> float:
    """Read a Retry-After, which is a number of seconds or a date: seconds from now, 0 if there is none."""
    if not header:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT)
