"""Progress bars for DuckDB statements."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

import duckdb

from docsgpt_embtune.progress import Bar

T = TypeVar("T")

_PATIENCE = 1.0  # seconds that a statement may take before it gets a bar
_TICK = 0.5  # seconds between two updates
_TRIES = 20  # attempts to interrupt a statement
_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


def with_a_bar(connection: duckdb.DuckDBPyConnection, label: str, run: Callable[[], T]) -> T:
    """Run a statement on this connection, with a progress bar if it takes longer than a moment.

    The statement runs in a thread, as Python handles Ctrl-C and SIGTERM only between its own instructions. Either of
    them interrupts the statement.

    Args:
        connection: Must compute its progress: `enable_progress_bar` on, `enable_progress_bar_print` off.
        label: Label of the bar.
        run: Runs the statement.

    Returns:
        What `run` returns.
    """
    running: Future[T] = Future()

    def work() -> None:
        try:
            running.set_result(run())
        except BaseException as error:
            running.set_exception(error)

    try:
        # Not a thread pool, which loses a thread if a signal arrives while it starts.
        threading.Thread(target=work, daemon=True).start()
        _watch(connection, label, running)
    except BaseException:
        _interrupt(connection, running)
        raise
    return running.result()


def _interrupt(connection: duckdb.DuckDBPyConnection, running: Future[T]) -> None:
    """Interrupt the statement, repeatedly, as one that is about to begin ignores it."""
    for _ in range(_TRIES):
        connection.interrupt()
        if wait([running], _TICK).done:
            return


def _watch(connection: duckdb.DuckDBPyConnection, label: str, running: Future[T]) -> None:
    if wait([running], _PATIENCE).done:
        return
    with Bar(total=100, desc=label, bar_format=_FORMAT) as bar:
        while not wait([running], _TICK).done:
            bar.n = max(bar.n, connection.query_progress())  # -1 if unknown
            bar.refresh()
