"""Reporting what becomes of a run's work when it is interrupted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class ToldInterrupt(KeyboardInterrupt):
    """A Ctrl-C whose consequences have been reported already, so that nothing more need be reported."""


@contextmanager
def told_when_stopped(tell: Callable[[BaseException], None]) -> Iterator[None]:
    """Call a function if Ctrl-C or SIGTERM ends the block, then let the block end.

    Args:
        tell: Reports what becomes of the block's work; gets the exception, which may have notes.

    Raises:
        ToldInterrupt: On Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        tell(stop)
        raise ToldInterrupt from stop
    except SystemExit as stop:  # the commands' SIGTERM handler raises it
        tell(stop)
        raise
