"""What the benches share: the time of an action, the memory of a process, and a measurement in a process of its own."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def seconds_of(action: Callable[[], object]) -> float:
    """Return how long an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def peak_memory() -> float:
    """Return this process's peak memory in GiB: not from getrusage, whose peak includes the parent process's."""
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 2**20


def in_own_process(script: str, *options: str) -> Any:
    """Run a script in its own process, so that memory and settings do not mix, and return the JSON of its last line."""
    done = subprocess.run([sys.executable, script, *options], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
