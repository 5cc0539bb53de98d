"""Run `embtune serve` in a separate process, on a loopback port."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager

import pytest

KEY = "sk-gateway"


@contextmanager
def server(folder, *options, key=KEY):
    with serving("-m", "docsgpt_embtune", "serve", str(folder), "--port", "0", *options, key=key) as process:
        yield process


@contextmanager
def serving(*command, key=KEY):
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "EMBTUNE_API_KEY": key, "PYTHONUNBUFFERED": "1"},
    )
    try:
        for line in process.stdout:
            if address := re.search(r"EMBEDDINGS_BASE_URL=(\S+)", line):
                process.address = address[1]
                yield process
                break
        else:
            pytest.fail(process.stderr.read())
    finally:
        process.kill()
        process.communicate()
