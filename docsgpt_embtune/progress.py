"""Progress of long work: a bar in a terminal, one line per minute in a log."""

import re
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 60.0
_NO_TEXT = re.compile(r"\x1b\[[A-Z]|[\r\n]")  # a bar's control characters


class Bar(tqdm):  # type: ignore[type-arg]  # not generic at run time
    """tqdm's bar, removed when it is done; if stderr is not a terminal, one line per minute.

    So work of less than a minute leaves nothing in a log, and work of hours reports its progress there.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if sys.stderr is None:  # closed, or no console on Windows
            kwargs["disable"] = True
        elif not sys.stderr.isatty():
            kwargs.setdefault("file", LinesNowAndThen(sys.stderr))
        super().__init__(*args, **{"leave": False, **kwargs})


class LinesNowAndThen:
    """A file for a bar to write to, which passes at most one line per minute on to a log.

    Args:
        log: Receives the lines.
        clock: Returns the time in seconds.
    """

    def __init__(self, log: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._last_line = clock()

    def write(self, text: str) -> None:
        """Receive the bar's current text."""
        line = _NO_TEXT.sub("", text).strip()
        if line and self._clock() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = self._clock()
            self._log.write(f"{line}\n")
            self._log.flush()

    def flush(self) -> None:
        """Do nothing, as `write` flushes each line."""
