"""Run commands as if this were Windows: without what that lacks, and with no file moved that is in use.

python -m tests.other_systems train … -- export …
"""

import builtins
import os
import sys
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace

import psutil

from docsgpt_embtune.cli import main

LACKING = ("fcntl", "resource", "pwd", "grp", "termios")
PATHS = {"os.rename": 2, "os.remove": 1}  # audit event -> number of paths in its arguments


def without_modules(real):
    """Let imports by this package alone fail: other libraries go by the system's name."""

    def imported(name, globals=None, *rest, **more):
        if name in LACKING and (globals or {}).get("__name__", "").startswith("docsgpt_embtune"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, globals, *rest, **more)

    return imported


def in_use(path):
    """List the files at or below a path that this process has open or mapped, but for locks, which go otherwise."""
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    paths = {line.split(None, 5)[5] for line in mapped if len(line.split(None, 5)) == 6}
    for handle in os.listdir("/proc/self/fd"):
        try:
            paths.add(os.readlink(f"/proc/self/fd/{handle}"))
        except FileNotFoundError:  # that of the listing
            pass
    return [each for each in paths if Path(each).is_relative_to(path) and not each.endswith(".lock")]


def refuse_used(event, arguments):
    """Raise what Windows raises where a file that is open or mapped, or a folder with one, is renamed or removed."""
    for path in arguments[: PATHS.get(event, 0)]:
        if isinstance(path, str | Path) and (used := in_use(Path(path).resolve())):
            raise PermissionError(13, f"in use: {used}", str(path))


if __name__ == "__main__":
    builtins.__import__ = without_modules(builtins.__import__)
    memory = psutil.Process().memory_info()
    psutil.Process.memory_info = lambda process: SimpleNamespace(**memory._asdict(), peak_wset=memory.rss)
    del os.sched_getaffinity
    sys.addaudithook(refuse_used)
    for is_end, command in groupby(sys.argv[1:], "--".__eq__):
        if not is_end:
            main(list(command), standalone_mode=False)
