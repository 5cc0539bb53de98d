"""Progress of long work: a bar in a terminal, a line a minute in a log."""

import re
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 60.0
_NO_TEXT = re.compile(r"\x1b\[[A-Z]|[\r\n]")  # how a bar moves about in a terminal


class Bar(tqdm):  # type: ignore[type-arg]  # is not generic while it runs
    """tqdm's bar, which goes when it is done; where stderr is a file or a pipe, a line once in a minute.

    What is over within a minute leaves nothing in a log, and what takes hours is not silent there.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not sys.stderr.isatty():
            kwargs.setdefault("file", LinesNowAndThen(sys.stderr))
        super().__init__(*args, **{"leave": False, **kwargs})


class LinesNowAndThen:
    """A file for a bar to write to, which passes a line on to a log now and then.

    Args:
        log: Gets the lines.
        clock: Tells the time in seconds.
    """

    def __init__(self, log: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._last_line = clock()

    def write(self, text: str) -> None:
        """Take what the bar looks like now."""
        line = _NO_TEXT.sub("", text).strip()
        if line and self._clock() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = self._clock()
            self._log.write(f"{line}\n")
            self._log.flush()

    def flush(self) -> None:
        """Do nothing: a line that is due is written at once."""
