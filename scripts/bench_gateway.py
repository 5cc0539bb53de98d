"""Measure `embtune serve` under load: throughput, latency and wrong vectors; then restart it with clients waiting.

    python scripts/bench_gateway.py --model bundled --clients 96 --seconds 60 --restarts 2

Every client sends one question after the other, as DocsGPT does, and compares the answer with the vector that the same
model gives in this process. In the second part, the server is stopped with SIGTERM while the clients go on. A client
that cannot connect tries again. At its end the server prints how many requests it accepted; as many answers must have
arrived. Clients and server share the machine. Exit code 1 if a vector is wrong or a request was lost.
"""

import argparse
import asyncio
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pydoc_data.topics import topics

import httpx
import numpy as np
import numpy.typing as npt

from docsgpt_embtune.deployment.deployed_model import load_deployed_model

WRONG = 1e-4  # difference in a component from which a vector counts as wrong
KNOCK_AGAIN = 1.0  # seconds before a new attempt; 96 clients that retry at once keep the server from starting
Expected = dict[str, npt.NDArray[np.float32]]


@dataclass
class Tally:
    """The clients' results.

    Attributes:
        seconds: Latency of each answer, in seconds.
        wrong: Number of answers with a wrong vector.
        errors: Responses other than a vector.
        closed: Number of requests that could not connect, or were not accepted.
    """

    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    errors: list[str] = field(default_factory=list)
    closed: int = 0


class Server:
    """`embtune serve` in a separate process, always on the same port."""

    def __init__(self, model: str) -> None:
        self.model = model
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.taken = 0
        self._start()

    @property
    def url(self) -> str:
        """URL of the embeddings endpoint."""
        return f"http://127.0.0.1:{self.port}/v1/embeddings"

    def _start(self) -> None:
        command = [sys.executable, "-u", "-m", "docsgpt_embtune", "serve", self.model, "--port", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if not any("EMBEDDINGS_BASE_URL" in line for line in iter(self._process.stdout.readline, "")):
            raise SystemExit(f"the server did not start (exit code {self._process.wait()})")

    def stop(self) -> float:
        """Stop the server with SIGTERM, add up the requests it accepted, and return the seconds that stopping took."""
        started = time.perf_counter()
        self._process.send_signal(signal.SIGTERM)
        said, _ = self._process.communicate()
        counted = re.search(r"stopped: ([\d,]+) requests taken", said)
        if counted is None or self._process.returncode != 0:
            raise SystemExit(f"the server did not end well: exit code {self._process.returncode}, {said!r}")
        self.taken += int(counted[1].replace(",", ""))
        return time.perf_counter() - started

    def kill(self) -> None:
        """Kill the server, so that no process is left behind."""
        self._process.kill()

    def restart(self) -> float:
        """Stop and start the server; return the seconds that stopping took."""
        needed = self.stop()
        self._start()
        return needed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--clients", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--restarts", type=int, default=2)
    parser.add_argument("--questions", type=int, default=300, help="different ones")
    arguments = parser.parse_args()
    embeddings = load_deployed_model(arguments.model).embeddings
    expected = {
        text: np.asarray(embeddings.embed_query(text), np.float32) for text in make_questions(arguments.questions)
    }
    server = Server(arguments.model)
    try:
        all_well = asyncio.run(measure(server, expected, arguments))
    finally:
        server.kill()
    sys.exit(0 if all_well else 1)


def make_questions(count: int) -> list[str]:
    """Take questions of 5 to 15 words from the texts of Python's help()."""
    words = " ".join(topics.values()).split()
    rng = random.Random(0)
    starts = [rng.randrange(len(words) - 15) for _ in range(count)]
    return list(dict.fromkeys(" ".join(words[start : start + rng.randint(5, 15)]) for start in starts))


async def measure(server: Server, expected: Expected, arguments: argparse.Namespace) -> bool:
    """Run both parts; return whether every vector was right and no request was lost."""
    tally = await load(server, expected, arguments.clients, until=lambda: asyncio.sleep(arguments.seconds))
    ranked = sorted(tally.seconds)
    print(
        f"{arguments.clients} clients, {arguments.seconds:g} s: {len(ranked):,} answers, "
        f"{len(ranked) / arguments.seconds:.0f} a second, p50 {statistics.median(ranked) * 1000:.0f} ms, "
        f"p99 {ranked[int(0.99 * len(ranked))] * 1000:.0f} ms; "
        f"{len(tally.errors)} errors {sorted(set(tally.errors))[:3]}, "
        f"{tally.wrong} wrong vectors, {tally.closed} closed"
    )
    stops: list[float] = []

    async def restarts() -> None:
        for _ in range(arguments.restarts):
            await asyncio.sleep(2)
            stops.append(await asyncio.to_thread(server.restart))
        await asyncio.sleep(2)

    again = await load(server, expected, arguments.clients, until=restarts)
    server.stop()
    answers = len(ranked) + len(tally.errors) + len(again.seconds) + len(again.errors)
    print(
        f"{arguments.restarts} restarts under load: {len(again.seconds):,} answers, {len(again.errors)} errors "
        f"{sorted(set(again.errors))[:3]}, {again.wrong} wrong vectors; the door was closed {again.closed:,} times; "
        f"stops took {', '.join(f'{needed:.1f}' for needed in stops)} s\n"
        f"requests taken by the servers: {server.taken:,}, answers that arrived: {answers:,}, "
        f"lost: {server.taken - answers:,}"
    )
    return server.taken == answers and not tally.wrong and not again.wrong


async def load(server: Server, expected: Expected, clients: int, until: Callable[[], Awaitable[None]]) -> Tally:
    """Let the clients send questions until `until()` ends, and wait for their last answers."""
    tally = Tally()
    over = asyncio.Event()
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(timeout=180, limits=limits, verify=False) as http:

        async def ask_on(number: int) -> None:
            questions = list(expected)
            random.Random(number).shuffle(questions)
            while not over.is_set():
                await ask(http, server.url, questions[0], expected, tally)
                questions.append(questions.pop(0))

        tasks = [asyncio.create_task(ask_on(number)) for number in range(clients)]
        await until()
        over.set()
        await asyncio.gather(*tasks)
    return tally


async def ask(http: httpx.AsyncClient, url: str, question: str, expected: Expected, tally: Tally) -> None:
    """Send one question and record the outcome."""
    started = time.perf_counter()
    try:
        answer = await http.post(url, json={"input": question})
    except httpx.TransportError:
        tally.closed += 1
        await asyncio.sleep(KNOCK_AGAIN)
        return
    if answer.status_code != 200:
        tally.errors.append(f"{answer.status_code} {answer.text[:100]}")
        return
    tally.seconds.append(time.perf_counter() - started)
    vector = np.asarray(answer.json()["data"][0]["embedding"], np.float32)
    tally.wrong += not np.allclose(vector, expected[question], atol=WRONG)


if __name__ == "__main__":
    main()
