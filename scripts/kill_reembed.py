"""Kill a re-embedding with SIGKILL at random moments, and see that the old vectors or the new are in force, whole.

    python scripts/kill_reembed.py --stock bundled --tuned models/tuned --kills 100
    python scripts/kill_reembed.py --stock bundled --tuned models/tuned --kills 100 --pgvector postgresql://…

Works on an index of its own, in a temporary folder or in a table `documents` that must not exist yet. After each kill
every stored vector is compared with the model's, and every text must be there once; after the last, one run finishes,
and a rollback must bring the first state back. A run that finishes before it is killed is rolled back, too.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from pydoc_data.topics import topics

import faiss
import numpy as np

from docsgpt_embtune.deployment import pgvector_store, reembed, vector_journal
from docsgpt_embtune.deployment.faiss_store import FaissStore
from docsgpt_embtune.deployment.serving import SAME_VECTOR, ServingModel, cosines, load_serving_model
from docsgpt_embtune.deployment.stores import ChunkStore

Opener = Callable[[], AbstractContextManager[list[ChunkStore]]]

CHUNKS = 200
SCHEMA = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE documents (id SERIAL PRIMARY KEY, text TEXT NOT NULL, embedding vector({}), metadata JSONB,
                        source_id TEXT NOT NULL, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP)
"""


def main() -> None:
    """Kill, look, kill again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stock", default="bundled")
    parser.add_argument("--tuned", required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--pgvector", metavar="URI")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    vector_journal.BLOCK = 8  # many writes to be killed between
    stock, tuned = load_serving_model(arguments.stock), load_serving_model(arguments.tuned)
    words = " ".join(topics.values()).split()
    texts = [f"{number} {' '.join(words[number * 30 : number * 30 + 20])}" for number in range(CHUNKS)]
    expected = {model.fingerprint: model.embed(texts) for model in (stock, tuned)}
    draw = random.Random(arguments.seed)
    outcomes: Counter[str] = Counter()
    with deployment(arguments.pgvector, texts, expected[stock.fingerprint]) as opened:
        with opened() as stores:
            started = time.perf_counter()
            reembed.reembed(stores, tuned)
            whole = time.perf_counter() - started
            reembed.roll_back(stores)
        for _ in range(arguments.kills):
            outcome = kill_one(opened, tuned, draw.uniform(0, 1.1 * whole))
            with opened() as stores:
                in_force = tuned if stores[0].is_on(tuned) else stock
                check(stores[0], texts, expected[in_force.fingerprint])
                if in_force is tuned:
                    reembed.roll_back(stores)
                    check(stores[0], texts, expected[stock.fingerprint])
            outcomes[f"{outcome}, {'new' if in_force is tuned else 'old'} vectors in force"] += 1
        with opened() as stores:
            reembed.reembed(stores, tuned)
            check(stores[0], texts, expected[tuned.fingerprint])
            reembed.roll_back(stores)
            check(stores[0], texts, expected[stock.fingerprint])
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:4} x {outcome}")
    print(f"{arguments.kills} runs: every one left all {CHUNKS} chunks whole; the last finished, and was rolled back")


@contextmanager
def deployment(uri: str | None, texts: list[str], vectors: np.ndarray) -> Iterator[Opener]:
    """Make a store with these chunks; yields what opens it anew, as each process must for itself."""
    if uri is None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            index = faiss.IndexFlatL2(vectors.shape[1])
            index.add(vectors)
            faiss.write_index(index, str(folder / "index.faiss"))
            documents = {f"chunk-{row}": {"page_content": text, "metadata": {}} for row, text in enumerate(texts)}
            rows = {str(row): doc_id for row, doc_id in enumerate(documents)}
            content = {"version": 1, "documents": documents, "index_to_docstore_id": rows}
            (folder / "index.json").write_text(json.dumps(content), encoding="utf-8")

            @contextmanager
            def open_folder() -> Iterator[list[ChunkStore]]:
                yield [FaissStore(folder)]

            yield open_folder
        return
    import psycopg

    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(SCHEMA.format(vectors.shape[1]))
        try:
            for text, vector in zip(texts, vectors, strict=True):
                row = [text, json.dumps(vector.tolist())]
                connection.execute("INSERT INTO documents (text, embedding, source_id) VALUES (%s, %s, 's')", row)
            yield lambda: pgvector_store.pgvector_stores(uri)
        finally:
            connection.execute("DROP TABLE documents")


def kill_one(opened: Opener, model: ServingModel, after: float) -> str:
    """Re-embed in a forked process and kill it after some seconds."""
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            with opened() as stores:
                reembed.reembed(stores, model)
        finally:
            os._exit(0)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return "killed" if os.WIFSIGNALED(status) else "finished first"


def check(store: ChunkStore, texts: list[str], expected: np.ndarray) -> None:
    """Stop unless every chunk is there once, with its vector."""
    found = store.sample(2 * len(texts))
    if sorted(found.texts) != sorted(texts):
        sys.exit(f"FAILED: {len(found.texts)} chunks in {store.label}, expected {len(texts)}")
    by_text = dict(zip(texts, expected, strict=True))
    agreement = cosines(found.vectors, np.array([by_text[text] for text in found.texts]))
    if not agreement.min() >= SAME_VECTOR:
        sys.exit(f"FAILED: a vector in {store.label} is not its text's (cosine {agreement.min():.4f})")


if __name__ == "__main__":
    main()
