"""Kill a synthesis with SIGKILL at random moments, with an unreliable server, and check that nothing is lost.

    PYTHONPATH=. python scripts/kill_synthesize.py --chunks 300 --kills 20

The server is the tests' own, on loopback. Before it answers a prompt, it returns 429, breaks off within an answer, and
answers in prose. After each kill, the answers on disk are recorded; none of them may ever be requested again. At the
end one run finishes, and every chunk must have its questions, each once.
"""

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from docsgpt_embtune.data.dataset import load_dataset
from tests.sources.chat_server import ChatServer, running

FAULTS = ("429", "cut", "prose")
CONCURRENCY = 8
MODEL = "tiny"


def main() -> None:
    """Kill runs and check after each kill; then let one run finish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=300)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    corpus = {f"c{number}": f"Item{number} lies on shelf {number}." for number in range(arguments.chunks)}
    with tempfile.TemporaryDirectory() as name, running(FAULTS) as server:
        folder = Path(name)
        (folder / "corpus.json").write_text(json.dumps(corpus), encoding="utf-8")
        journal = folder / "train.json.answers.jsonl"
        command = [sys.executable, "-m", "docsgpt_embtune", "synthesize", "--yes", "--first-wait", "0.01"]
        command += ["--corpus", str(folder / "corpus.json"), "--out", str(folder / "train.json")]
        command += ["--llm-base-url", server.url, "--llm-model", MODEL, "--concurrency", str(CONCURRENCY)]
        killed = 0
        tries_when_kept: dict[str, int] = {}
        each = 2 * arguments.chunks / (arguments.kills + 1)  # answers between two kills, on average
        while killed < arguments.kills:
            killed += kill_one(command, journal, server, tries_when_kept, answers=round(draw.uniform(1, 1.5 * each)))
        last = subprocess.run(command, capture_output=True, text=True, check=False)
        if last.returncode:
            sys.exit(f"FAILED: the last run ended with {last.returncode}: {last.stderr}")
        if any(server.tries[prompt] != tries for prompt, tries in tries_when_kept.items()):
            sys.exit("FAILED: the last run asked again for what was on the disk")
        check(folder, corpus)
    answered, tries = server.answered.total(), server.tries.total()
    twice = sum(count > 1 for count in server.answered.values())
    print(f"{killed} kills, {arguments.chunks} chunks: every chunk has its two questions once")
    print(
        f"{tries:,} requests, {answered:,} answers to {len(server.answered):,} prompts; {twice} prompts were answered "
        f"twice, all of them on their way when a process died (at most {killed * CONCURRENCY} can be)"
    )


def kill_one(
    command: list[str], journal: Path, server: ChatServer, tries_when_kept: dict[str, int], answers: int
) -> bool:
    """Kill a run after this many answers; return False if it finished first.

    Exits with a message if an answer that was on disk is requested again.
    """
    kept_before = journal.read_bytes().count(b"\n") if journal.exists() else 0
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") >= kept_before + answers:
            child.kill()
        time.sleep(0.002)
    kept = journal.read_bytes().rpartition(b"\n")[0].splitlines()
    keys = Counter(json.loads(line)["key"] for line in kept)
    if keys.total() != len(keys):
        sys.exit(f"FAILED: {keys.most_common(1)} stands twice in the journal")
    for prompt, tries in server.tries.items():
        if key_of(prompt) in keys and tries_when_kept.setdefault(prompt, tries) != tries:
            sys.exit(f"FAILED: asked again for what was on the disk: {prompt[-80:]!r}")
    return child.returncode < 0


def key_of(prompt: str) -> str:
    """Return the key under which the journal stores a prompt's answer."""
    return hashlib.sha256(f"{MODEL}\0{prompt}".encode()).hexdigest()


def check(folder: Path, corpus: dict[str, str]) -> None:
    """Exit with a message unless every chunk has its questions, each once."""
    dataset = load_dataset(folder / "train.json")
    found = defaultdict(list)
    for query_id, ids in dataset.relevant_docs.items():
        for doc_id in ids:
            found[doc_id].append(dataset.queries[query_id])
    for doc_id, text in corpus.items():
        word = text.split()[0]
        if found[doc_id] != [f"Where is {word}?", f"{word} location"]:
            sys.exit(f"FAILED: {doc_id} has {found[doc_id]}")


if __name__ == "__main__":
    main()
