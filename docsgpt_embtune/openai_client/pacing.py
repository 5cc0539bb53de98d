"""How many requests are sent at a time, and how fast, across the threads that share a client."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_ANSWERS_FOR_ONE_MORE = 20  # answers after which one more concurrent request is allowed again


class Gate:
    """Limits the number of requests in flight: fewer after one failed, then slowly more again.

    Args:
        narrows: Whether there is a limit at all.

    Attributes:
        under_way: Number of requests in flight.
    """

    def __init__(self, *, narrows: bool) -> None:
        self._narrows = narrows
        self._most = math.inf
        self.under_way = self._answered = 0
        self._changed = threading.Condition()

    @contextmanager
    def passed(self) -> Iterator[None]:
        """Wait until a request may be sent, and count it as in flight during the block."""
        with self._changed:
            self._changed.wait_for(lambda: self.under_way < self._most)
            self.under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self.under_way -= 1
                self._changed.notify_all()

    def narrow(self) -> int:
        """Allow half as many requests in flight as there are now, and return how many there are."""
        with self._changed:
            if self._narrows:
                self._most, self._answered = max(1, self.under_way // 2), 0
            return self.under_way

    def widen(self) -> None:
        """Count an answer, and allow one more request in flight after every 20."""
        with self._changed:
            self._answered += 1
            if self._answered % _ANSWERS_FOR_ONE_MORE == 0:
                self._most += 1
                self._changed.notify_all()

    def open(self) -> None:
        """Remove the limit for good."""
        with self._changed:
            self._narrows, self._most = False, math.inf
            self._changed.notify_all()


class Pace:
    """Spaces requests evenly over time, across threads.

    Args:
        per_minute: Most requests in a minute; None for no limit.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._interval = 60.0 / per_minute if per_minute else 0.0
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self, stopped: threading.Event) -> None:
        """Wait for this request's turn, or until `stopped` is set."""
        with self._lock:
            now = time.monotonic()
            mine = max(now, self._next)
            self._next = mine + self._interval
        stopped.wait(mine - now)

    def hold(self, seconds: float) -> None:
        """Send no request for so many seconds."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)
