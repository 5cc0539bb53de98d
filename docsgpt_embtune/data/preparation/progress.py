"""How far a statement is that DuckDB runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from docsgpt_embtune.progress import Bar

_PATIENCE = 1.0  # seconds that a statement may take before it gets a bar
_TICK = 0.5  # seconds between two looks
_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


@contextmanager
def shown(connection: duckdb.DuckDBPyConnection, label: str) -> Iterator[None]:
    """Show a bar while the block runs a statement on this connection, if that takes longer than a moment.

    Args:
        connection: One that computes its progress: `enable_progress_bar` is on, `enable_progress_bar_print` off.
        label: What the bar says.
    """
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(connection, label, ended), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _watch(connection: duckdb.DuckDBPyConnection, label: str, ended: threading.Event) -> None:
    if ended.wait(_PATIENCE):
        return
    with Bar(total=100, desc=label, bar_format=_FORMAT) as bar:
        while not ended.wait(_TICK):
            bar.n = max(bar.n, connection.query_progress())  # -1 where it is not known
            bar.refresh()
