"""A client for servers of OpenAI's protocol: vLLM, llama.cpp, Ollama, TGI, `embtune serve`, or a service.

A server under load may refuse a request, not answer, or break off. Transient failures are retried after the time that
the server names, or with exponential backoff. Any other failure is raised at once. A server that has not answered yet,
and cannot be reached or tells of a fault, is more likely down or elsewhere than busy: it is tried for seconds and not
for minutes.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from docsgpt_embtune.errors import EmbtuneError
from docsgpt_embtune.openai_client.answers import (
    cannot_agree_on_tls,
    content_of,
    error_code,
    joined,
    may_pass,
    moved_to,
    retry_after,
)
from docsgpt_embtune.openai_client.pacing import Gate, Pace
from docsgpt_embtune.urls import without_credentials
from docsgpt_embtune.wording import Say, clock, counted, silent

if TYPE_CHECKING:
    import httpx
    import tenacity

LONGEST_GROWN_WAIT = 60.0  # seconds; longest backoff if the server names no time
_WRONG_SETTINGS = frozenset({*range(300, 400), 401, 402, 403, 404, 405})  # moved, no rights, not paid, not found
SAID_EVERY = 60.0  # seconds
_LONGEST_TO_CONNECT = 10.0  # seconds, after which no host is there
_ATTEMPTS_TO_FIND = 3  # times that a request is sent to a server that has not answered yet and seems to be down
_LONGEST_REASON = 200  # characters of a server's reason that are shown

Read = TypeVar("Read")


def fault_of_key(key: str) -> str | None:
    """Return why a key cannot be sent or compared as a header, without showing the key; None if it can."""
    if key == key.strip() and key.isprintable() and key.isascii():
        return None
    return "has a line break in it, or a letter that is not ASCII, or a blank at an end"


class RefusedRequestError(Exception):
    """The server refuses this request, but answers others."""


class UnansweredRequestError(RefusedRequestError):
    """The server did not answer this request in any attempt, but answers others."""


@dataclass(frozen=True)
class Patience:
    """Limits on retries and waiting.

    Attributes:
        attempts: Times that a request is sent before the server counts as down.
        first_wait: Seconds before the second attempt; each further wait is twice as long.
        longest_wait: Most seconds of a Retry-After that are waited for; if it is longer, the request fails at once.
        silence: Seconds that the server may be silent: httpx's timeout per read, not for a whole answer.
    """

    attempts: int = 8
    first_wait: float = 1.0
    longest_wait: float = 600.0
    silence: float = 120.0


USUAL_PATIENCE = Patience()


class OpenAIClient:
    """Sends requests for one model to one server; safe to share between threads.

    Args:
        url: Address of the endpoint, e.g. http://localhost:8000/v1/embeddings.
        model: The server's name for the model.
        key: Sent as a bearer token; never shown.
        settings: Where URL, model and key are configured, for the message if one of them is wrong.
        error: Exception class to raise if the server cannot be used.
        requests_per_minute: Limit on the requests sent; none if None.
        patience: Limits on retries and waiting.
        harmless: Body of a request that any working server answers. It is sent once if all attempts at another request
            failed and nothing was answered meanwhile, to find out whether the server fails at that request only.
        timeout_option: Option that sets the allowed silence, for the message if that was too short.
        asks_fewer: Whether to send fewer requests at a time after one failed. A server that handles one request at a
            time lets the others wait, or (llama-cpp-python) breaks off an answer when the next request comes.
        say: Takes a line of plain text when a request is retried, the same one once a minute at most.

    Attributes:
        label: The URL without credentials.
        requests: Number of requests sent, including failed ones.

    Raises:
        EmbtuneError: The class given as `error`, if httpx is missing, or the URL or the key is malformed.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None,
        settings: str,
        error: type[EmbtuneError],
        requests_per_minute: float | None = None,
        patience: Patience = USUAL_PATIENCE,
        harmless: Mapping[str, Any] | None = None,
        timeout_option: str = "",
        asks_fewer: bool = False,
        say: Say = silent,
    ) -> None:
        try:
            import httpx
        except ImportError as missing:
            raise error("httpx is needed; run: pip install 'docsgpt-embtune[gather]'") from missing
        if key and (fault := fault_of_key(key)):
            # The library's own message would quote the whole header.
            raise error(f"the key {fault}; check {settings}")
        self.model = model
        self.requests = 0
        self._key = key
        self._settings = settings
        self._error = error
        self._patience = patience
        self._harmless = harmless
        self._timeout_option = timeout_option
        self._pace = Pace(requests_per_minute)
        self._gate = Gate(narrows=asks_fewer)
        self._stopped, self._left = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._answers = 0
        self._say = say
        self._said: dict[str, float] = {}  # why requests were retried -> when that was said
        try:
            self._url = httpx.URL(url)
            self._client = httpx.Client(
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=httpx.Timeout(patience.silence, connect=min(patience.silence, _LONGEST_TO_CONNECT)),
            )
        except (httpx.InvalidURL, UnicodeEncodeError) as malformed:
            raise error(f"something is malformed ({type(malformed).__name__}); check {settings}") from malformed
        self.label = without_credentials(str(self._url))
        if self._url.scheme not in ("http", "https"):
            raise error(f"{self.label!r} does not begin with http:// or https://; check {settings}")
        if not self._url.host:
            raise error(f"{self.label!r} names no server; check {settings}")

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def stop(self) -> None:
        """Start no further attempts; requests in flight are paid for and run to their end."""
        self._stopped.set()
        self._gate.open()

    @property
    def under_way(self) -> int:
        """Number of requests in flight."""
        return self._gate.under_way

    def leave(self) -> None:
        """Stop as `stop` does, and break off answers that are still streaming."""
        self.stop()
        self._left.set()

    def post(self, body: Mapping[str, Any], read: Callable[[Any], Read]) -> Read:
        """Send a request, with retries, and return what `read` makes of the answer.

        Args:
            body: The request, without the model's name.
            read: Parses an answer's JSON; if it raises because something is missing, the request is retried. A whole
                answer that is wrong in the same way twice is not asked for again.

        Raises:
            EmbtuneError: This client's `error`, if the server is down or refuses the key, the model or the URL.
            RefusedRequestError: If the server refuses this request only; an UnansweredRequestError if the failures
                were transient.
        """
        import tenacity

        growing = tenacity.wait_combine(
            tenacity.wait_exponential(multiplier=self._patience.first_wait, max=LONGEST_GROWN_WAIT),
            tenacity.wait_random(0, self._patience.first_wait),  # so that requests refused together spread out
        )

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome and state.outcome.exception()
            return max(growing(state), error.wait if isinstance(error, _TryAgainError) else 0.0)

        wrong: Counter[str] = Counter()

        def may_go_better(state: tenacity.RetryCallState) -> bool:
            error = state.outcome and state.outcome.exception()
            wrong[str(error)] += isinstance(error, _WrongAnswerError)
            return (
                isinstance(error, _TryAgainError)
                and wrong[str(error)] < 2
                and state.attempt_number < self._attempts_after(error)
            )

        answered_before, sent = self._answers, 0
        try:
            for attempt in tenacity.Retrying(
                stop=tenacity.stop_after_attempt(self._patience.attempts) | tenacity.stop_when_event_set(self._stopped),
                sleep=tenacity.sleep_using_event(self._stopped),
                wait=wait,
                retry=may_go_better,
                before_sleep=self._say_that_it_waits,
                reraise=True,
            ):
                sent = attempt.retry_state.attempt_number
                with attempt:
                    return self._post_once(body, read)
        except _TryAgainError as error:
            tried = f"{counted(sent, 'attempt')}, the last: {error}"
            if self._answers > answered_before or self._answers_another(read):
                raise UnansweredRequestError(tried) from error
            raise self._error(f"{self.label}: {tried}; {self._remedy(error)}, and run the same again") from error
        raise AssertionError("unreachable")

    def _attempts_after(self, error: "_TryAgainError") -> int:
        """Return how often a request is sent that fails like this."""
        is_lost = error.seems_down and not self._answers
        return min(self._patience.attempts, _ATTEMPTS_TO_FIND) if is_lost else self._patience.attempts

    def _remedy(self, error: "_TryAgainError") -> str:
        if isinstance(error, _WrongAnswerError) or (error.seems_down and not self._answers):
            return f"see to the server, or check {self._settings}"
        longer = f", or give it longer with {self._timeout_option}" if self._timeout_option and error.was_slow else ""
        return f"see to the server{longer}"

    def _answers_another(self, read: Callable[[Any], Any]) -> bool:
        if self._harmless is None:
            return False
        try:
            self._post_once(self._harmless, read)
        except (_TryAgainError, RefusedRequestError):
            return False
        return True

    def _post_once(self, body: Mapping[str, Any], read: Callable[[Any], Read]) -> Read:
        import httpx

        self._pace.wait(self._stopped)
        with self._gate.passed():
            if self._stopped.is_set():
                raise _TryAgainError("stopped before it was sent")
            with self._lock:
                self.requests += 1
            try:
                with self._client.stream("POST", self._url, json={"model": self.model, **body}) as response:
                    found = self._found(response, read)
            except httpx.RequestError as error:  # no connection, a timeout, or a body broken off
                raise self._as_failure(error) from error
            self._gate.widen()
        with self._lock:
            self._answers += 1
        return found

    def _as_failure(self, error: "httpx.RequestError") -> Exception:
        import httpx

        at_a_time = self._gate.narrow()
        if isinstance(error, httpx.ConnectError) and cannot_agree_on_tls(error):
            return self._error(
                f"{self.label}: {error}: it speaks no https, or shows a certificate that is not trusted here; check "
                f"{self._settings}"
            )
        lost = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        was_slow = isinstance(error, httpx.TimeoutException) and not lost
        what = f"no answer within {self._patience.silence:g} s" if was_slow else str(error)
        beside = f", {at_a_time} requests at a time" if at_a_time > 1 else ""
        return _TryAgainError(f"{what} ({type(error).__name__}{beside})".lstrip(), was_slow=was_slow, seems_down=lost)

    def _found(self, response: Any, read: Callable[[Any], Read]) -> Read:
        comes_in_pieces = response.headers.get("Content-Type", "").startswith("text/event-stream")
        if response.status_code != 200 or not comes_in_pieces:
            response.read()
            self._refuse_status(response)
        try:
            return read(joined(self._heard(response.iter_lines())) if comes_in_pieces else response.json())
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            what = f" ({self._without_key(f'{type(error).__name__} {error}')[:_LONGEST_REASON]})"
            reason = "" if comes_in_pieces else self._reason(response)
            # A stream may break off again and again; a whole answer tells what the server is.
            passes = comes_in_pieces or may_pass(error_code(response))
            kind = _TryAgainError if passes else _WrongAnswerError
            raise kind(f"an answer that is not the protocol's{reason or what}") from error

    def _heard(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            if self._left.is_set():
                raise _TryAgainError("left before it was at its end")
            yield line

    def _refuse_status(self, response: Any) -> None:
        status = response.status_code
        if status == 200:
            return
        reason = self._reason(response)
        if may_pass(status):
            wait = retry_after(response.headers.get("Retry-After"))
            if wait > self._patience.longest_wait:
                raise self._error(
                    f"{self.label}: HTTP {status}{reason}, and asks to wait {wait:,.0f} s; run the same again in "
                    f"{clock(wait)}"
                )
            if wait:
                self._pace.hold(wait)  # the other requests would be refused, too
            # Under load a server fails without a word, or with another status.
            tells_of_fault = status == HTTPStatus.INTERNAL_SERVER_ERROR and bool(reason)
            raise _TryAgainError(f"HTTP {status}{reason}", wait, seems_down=tells_of_fault)
        if status in _WRONG_SETTINGS:
            moved = moved_to(response.headers.get("Location"))
            raise self._error(
                f"{self.label}: HTTP {status} for model {self.model!r}{moved}{reason}; check {self._settings}"
            )
        raise RefusedRequestError(f"HTTP {status}{reason}")

    def _reason(self, response: Any) -> str:
        """Return the server's reason for a refusal."""
        content = content_of(response)
        error = content.get("error")
        said = error.get("message") if isinstance(error, dict) else error or content.get("detail")
        if not said:
            return ""
        return f": {' '.join(self._without_key(str(said)).split())[:_LONGEST_REASON]!r}"

    def _without_key(self, said: str) -> str:
        """Mask the key in what a server said, as some servers repeat it."""
        return said.replace(self._key, "[key]") if self._key else said

    def _say_that_it_waits(self, state: "tenacity.RetryCallState") -> None:
        error = state.outcome and state.outcome.exception()
        if not isinstance(error, _TryAgainError) or not self._is_news(str(error)):
            return
        when = f" in {error.wait:,.0f} s, as it asks" if error.wait >= 1 else ""
        most = "once" if isinstance(error, _WrongAnswerError) else f"{self._attempts_after(error)} times at most"
        self._say(f"{self.label}: {error}; trying again{when}, {most}")

    def _is_news(self, text: str) -> bool:
        """Tell whether a text was not said in the last minute, and note that it is said now."""
        now = time.monotonic()
        with self._lock:
            self._said = {said: at for said, at in self._said.items() if now < at + SAID_EVERY}
            return self._said.setdefault(text, now) == now


class _TryAgainError(Exception):
    def __init__(self, message: str, wait: float = 0.0, *, was_slow: bool = False, seems_down: bool = False) -> None:
        super().__init__(message)
        self.wait = wait
        self.was_slow = was_slow
        self.seems_down = seems_down


class _WrongAnswerError(_TryAgainError):
    """A whole answer that is not the protocol's."""
