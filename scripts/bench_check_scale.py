"""Measure time and memory of the retrieval check on many chunks, with synthetic vectors.

    python scripts/bench_check_scale.py --chunks 100000,1000000

Each size runs in its own process. It generates vectors from the chunks' numbers, writes the cache, searches and judges,
for two models. Also printed are the search alone, relative to the machine's matrix multiplication, and the reading of
the shards, relative to its memory bandwidth.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from measuring import in_own_process, peak_memory, seconds_of

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.evaluation.comparison import Side, compare
from docsgpt_embtune.evaluation.ranking import search_exact
from docsgpt_embtune.evaluation.vector_cache import VectorCache, embed_corpus, embed_queries

DIMENSION = 384
QUESTIONS = 1000


class MadeUpEmbeddings:
    """A unit vector for each chunk number; question vectors add noise that depends on the model."""

    dimension = DIMENSION

    def __init__(self, seed: int, blur: float) -> None:
        self.seed, self.blur = seed, blur

    def embed_query(self, text: str) -> list[float]:
        """Return the good chunk's vector with noise, normalised."""
        chunk = self._vector(text, 0)
        vector = chunk + self.blur * self._vector(text, self.seed)
        unit: list[float] = (vector / np.linalg.norm(vector)).tolist()
        return unit

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Return each chunk's vector."""
        return [self._vector(text, 0).tolist() for text in texts]

    def _vector(self, text: str, seed: int) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
        random = np.random.Generator(np.random.SFC64([int(text.split()[1]), seed]))
        vector = random.standard_normal(DIMENSION, dtype=np.float32)
        return vector / np.linalg.norm(vector)


def made_up_dataset(chunks: int) -> RetrievalDataset:
    """Make a dataset with a question for every n-th chunk."""
    asked = range(0, chunks, chunks // QUESTIONS)
    return RetrievalDataset(
        queries={f"q{number}": f"question {number}" for number in asked},
        corpus={f"d{number}": f"chunk {number}" for number in range(chunks)},
        relevant_docs={f"q{number}": (f"d{number}",) for number in asked},
    )


def measure(chunks: int) -> dict[str, float]:
    """Compare two models on this many chunks in this process, with an empty cache."""
    interpreter = peak_memory()
    dataset = made_up_dataset(chunks)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        sides = [Side(MadeUpEmbeddings(s, b), f"{s:064x}", cache) for s, b in ((1, 2.2), (2, 2.0))]
        processor = time.process_time()
        check = seconds_of(lambda: compare(sides[0], sides[1], dataset))
        processor = time.process_time() - processor
        memory = peak_memory() - interpreter
        vectors = VectorCache(cache, f"{1:064x}", DIMENSION)
        queries = embed_queries(sides[0].model, list(dataset.queries.values()), vectors)
        corpus = embed_corpus(sides[0].model, list(dataset.corpus.values()), vectors)
        search = seconds_of(lambda: search_exact(queries, corpus.shards(), 100))
        read = seconds_of(lambda: [shard.sum() for _, shard in corpus.shards()])
    return {"check": check, "processor": processor, "memory": memory, "search": search, "read": read}


def memory_bandwidth() -> float:
    """Measure the bytes per second at which this machine reads an array larger than its caches."""
    array = np.ones(2**27, dtype=np.float32)  # 512 MiB
    return array.nbytes / min(seconds_of(lambda: array.max()) for _ in range(5))


def matrix_multiplication() -> float:
    """Measure the floating-point operations per second of a matrix product of 1,000 questions and 8,192 chunks."""
    random = np.random.default_rng(0)
    queries = random.standard_normal((QUESTIONS, DIMENSION), dtype=np.float32)
    shard = random.standard_normal((8192, DIMENSION), dtype=np.float32)
    return 2 * QUESTIONS * 8192 * DIMENSION / min(seconds_of(lambda: queries @ shard.T) for _ in range(5))


@click.command()
@click.option("--chunks", default="100000,1000000", show_default=True)
@click.option("--one", type=int, hidden=True, help="Measure this size here, and print JSON.")
def main(chunks: str, one: int | None) -> None:
    """Print time and memory for each size."""
    if one:
        click.echo(json.dumps(measure(one)))
        return
    bandwidth, product = memory_bandwidth(), matrix_multiplication()
    click.echo(f"memory bandwidth {bandwidth / 1e9:.1f} GB/s, matrix product {product / 1e9:.0f} GFLOP/s")
    for size in map(int, chunks.split(",")):
        found = in_own_process(__file__, "--one", str(size))
        gigabytes, operations = size * DIMENSION * 4 / 1e9, 2 * size * DIMENSION * QUESTIONS
        click.echo(
            f"\n{size:,} chunks x {DIMENSION}, {QUESTIONS:,} questions, two models\n"
            f"  check            {found['check']:.1f} s, {found['processor']:.1f} s of processor time; "
            f"{found['memory']:.2f} GiB above the interpreter\n"
            f"  one search       {found['search']:.1f} s, {operations / found['search'] / 1e9:.0f} GFLOP/s: "
            f"{operations / found['search'] / product:.0%} of the matrix product\n"
            f"  reading shards   {found['read']:.2f} s, {gigabytes / found['read']:.1f} GB/s: "
            f"{gigabytes / found['read'] / bandwidth * 1e9:.0%} of the memory bandwidth"
        )


if __name__ == "__main__":
    main()
