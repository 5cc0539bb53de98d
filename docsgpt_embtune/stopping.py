"""Telling, when a run is stopped, what becomes of its work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class ToldInterrupt(KeyboardInterrupt):
    """A Ctrl-C whose consequences have been told already: whoever catches it tells nothing more."""


@contextmanager
def told_when_stopped(tell: Callable[[BaseException], None]) -> Iterator[None]:
    """Call a function where Ctrl-C or SIGTERM ends the block, and let it end.

    Args:
        tell: Says what becomes of what was done in the block, given what ends it, which may bring notes.

    Raises:
        ToldInterrupt: On Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        tell(stop)
        raise ToldInterrupt from stop
    except SystemExit as stop:  # SIGTERM, as a command hears it
        tell(stop)
        raise
