"""Run the whole way through an unmodified DocsGPT: stock index, tuning, hook, re-embedding, search and rollback.

    python scripts/try_in_docsgpt.py CHECKOUT --python CHECKOUT/.venv/bin/python

CHECKOUT is DocsGPT's source at 0.19 or later, and --python an interpreter that has its requirements and
docsgpt-embtune. Without --tuned, a model is tuned on the bundled sample within --time-budget. Without --data, the
sample's test questions are searched for, which the training never sees. In the checkout only `indexes/embtune-try` is
written, and removed at the end. Every search goes through DocsGPT's own FaissStore, in a separate process.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from docsgpt_embtune.base_models import resolve_base
from docsgpt_embtune.data.dataset import RetrievalDataset, load_dataset
from docsgpt_embtune.data.sample import write_sample

SOURCE = "embtune-try"
SEARCHED = 20  # chunks per search; an answer that is not among them counts as rank 21

# Run by DocsGPT's interpreter in its checkout, with only DocsGPT's own code.
BUILD = """
import json, sys
from application.vectorstore.document_class import Document
from application.vectorstore.faiss import FaissStore
chunks = json.load(open(sys.argv[2]))
documents = [Document(page_content=text, metadata={"source": doc_id}) for doc_id, text in chunks.items()]
FaissStore(source_id=sys.argv[1], embeddings_key=None, docs_init=documents).save_local()
"""
SEARCH = """
import json, sys
from application.vectorstore.faiss import FaissStore
store = FaissStore(source_id=sys.argv[1], embeddings_key=None)
queries = json.load(open(sys.argv[2]))
found = {q: [hit.metadata["source"] for hit in store.search(text, k=int(sys.argv[3]))] for q, text in queries.items()}
print(json.dumps({"embeddings": type(store.embeddings).__name__, "found": found}))
"""


def main() -> None:
    """Run the steps in a temporary folder, and clean up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="interpreter that runs DocsGPT")
    parser.add_argument("--stock", default="bundled", help="the model that the index is first built with")
    parser.add_argument("--tuned", type=Path, help="a tuned folder; tuned here on the sample if not given")
    parser.add_argument("--time-budget", type=float, default=10, help="minutes for the tuning")
    parser.add_argument("--data", type=Path, help="questions to search for; the sample's test questions if not given")
    parser.add_argument("--corpus", type=Path, help="the chunks, where they are in a file of their own")
    parser.add_argument("--relevant-docs", choices=["good-bad", "all-good"])
    arguments = parser.parse_args()
    checkout = arguments.checkout.resolve()
    index = checkout / "indexes" / SOURCE
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_sample(work)
        tuned = arguments.tuned or tune(work, arguments.time_budget)
        dataset = load_dataset(
            arguments.data or work / "test.json",
            corpus=arguments.corpus if arguments.data else work / "corpus.json",
            relevant_docs=arguments.relevant_docs,
        )
        try:
            there_and_back(
                Host(checkout, arguments.python, work / ".env"), index, work, dataset, arguments.stock, tuned
            )
        finally:
            shutil.rmtree(index, ignore_errors=True)


def tune(work: Path, time_budget: float) -> Path:
    """Tune on the sample; exits if validation does not prefer the tuned model."""
    started = time.perf_counter()
    tuned = work / "tuned"
    files = ("--train", work / "train.json", "--val", work / "validation.json", "--corpus", work / "corpus.json")
    embtune("train", *files, "--base", "bundled", "--time-budget", time_budget, "--out", tuned)
    print(f"({time.perf_counter() - started:.0f} s)\n")
    return tuned


def there_and_back(host: "Host", index: Path, work: Path, dataset: RetrievalDataset, stock: str, tuned: Path) -> None:
    """Run the steps, and exit at the first that fails."""
    chunks, queries = work / "chunks.json", work / "queries.json"
    chunks.write_text(json.dumps(dict(dataset.corpus)), encoding="utf-8")
    queries.write_text(json.dumps(dict(dataset.queries)), encoding="utf-8")
    host.environment.write_text(f"EMBEDDINGS_NAME={resolve_base(stock).folder}\n", encoding="utf-8")
    stored = ("--indexes", index, "--env", host.environment)

    print(f"DocsGPT builds an index of {len(dataset.corpus)} chunks with its stock model\n", flush=True)
    host.run(BUILD, SOURCE, chunks)
    before = hashes(index), hashes(host.checkout / "application"), host.environment.read_bytes()
    stock_answer = json.loads(host.run(SEARCH, SOURCE, queries, SEARCHED))
    stock_ranks = ranks(stock_answer, dataset.relevant_docs)

    embtune("install", "--python", host.python, "--yes")
    embtune("reembed", "--model", tuned, *stored, "--dry-run")
    embtune("reembed", "--model", tuned, *stored)
    embtune("doctor", "--model", tuned, *stored)
    answer = json.loads(host.run(SEARCH, SOURCE, queries, SEARCHED))
    require(answer["embeddings"] == "TunedEmbeddings", f"DocsGPT searched with {answer['embeddings']}")
    show(stock_ranks, ranks(answer, dataset.relevant_docs), dataset.queries)

    embtune("reembed", *stored, "--rollback")
    embtune("uninstall", "--python", host.python)
    after = hashes(index), hashes(host.checkout / "application"), host.environment.read_bytes()
    require(after == before, "the index, the .env or DocsGPT's own files are not what they were")
    again = json.loads(host.run(SEARCH, SOURCE, queries, SEARCHED))
    require(again == stock_answer, "the searches are not what they were")
    print("after the rollback: index, .env and DocsGPT's files the same to the byte, searches the same")


class Host:
    """A DocsGPT that is started anew for each step, as after a restart.

    Args:
        checkout: DocsGPT's source.
        python: DocsGPT's interpreter.
        environment: DocsGPT's `.env`.
    """

    def __init__(self, checkout: Path, python: Path, environment: Path) -> None:
        self.checkout = checkout
        self.python = python
        self.environment = environment

    def run(self, code: str, *words: object) -> str:
        """Run code in DocsGPT with the settings of its `.env`, and return what it printed."""
        lines = self.environment.read_text(encoding="utf-8").split()
        settings = dict(line.split("=", 1) for line in lines)
        finished = subprocess.run(
            [self.python, "-c", code, *map(str, words)],
            cwd=self.checkout,
            env={**os.environ, "VECTOR_STORE": "faiss", **settings},
            capture_output=True,
            text=True,
            check=False,
        )
        require(finished.returncode == 0, f"DocsGPT itself:\n{finished.stdout[-1000:]}{finished.stderr[-2000:]}")
        return finished.stdout


def embtune(*words: object) -> None:
    """Run an `embtune` command with its output shown, and exit if it fails."""
    print(f"$ embtune {' '.join(map(str, words))}", flush=True)
    finished = subprocess.run([sys.executable, "-m", "docsgpt_embtune", *map(str, words)], check=False)
    require(finished.returncode == 0, f"it ended with exit code {finished.returncode}")
    print()


def require(holds: bool, message: str) -> None:
    """Exit with a message unless a condition holds."""
    if not holds:
        sys.exit(f"FAILED: {message}")


def hashes(folder: Path) -> dict[str, str]:
    """Hash every file of a folder, except Python's caches."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def ranks(answer: dict[str, dict[str, list[str]]], good: Mapping[str, object]) -> dict[str, int]:
    """Return the rank of the first good chunk for each question; 21 if it was not found."""
    found: dict[str, int] = {}
    for query_id, doc_ids in answer["found"].items():
        places = [doc_ids.index(doc_id) + 1 for doc_id in good[query_id] if doc_id in doc_ids]  # type: ignore[attr-defined]
        found[query_id] = min(places, default=SEARCHED + 1)
    return found


def show(stock: dict[str, int], tuned: dict[str, int], queries: Mapping[str, str]) -> None:
    """Print how the ranks of the answers changed, up and down."""
    for k in (1, 2, 5):
        before, after = (sum(rank <= k for rank in found.values()) for found in (stock, tuned))
        print(f"questions with an answer among the first {k}: stock {before} of {len(stock)}, tuned {after}")
    nearer = sum(tuned[query_id] < stock[query_id] for query_id in stock)
    farther = sum(tuned[query_id] > stock[query_id] for query_id in stock)
    print(f"the answer came nearer to the front for {nearer} questions, and farther from it for {farther}; the most:")
    to_the_front = [query_id for query_id in stock if tuned[query_id] == 1]
    for query_id in sorted(to_the_front, key=lambda query_id: -stock[query_id])[:5]:
        rank = str(stock[query_id]) if stock[query_id] <= SEARCHED else f"beyond {SEARCHED}"
        print(f"  rank {rank} -> 1: {queries[query_id]}")
    print()


if __name__ == "__main__":
    main()
