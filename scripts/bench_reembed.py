"""Compare the speed of re-embedding with that of a stock re-upload, which embeds one chunk per call.

    python scripts/bench_reembed.py --model models/tuned --chunks 20000 --words 120 --rounds 5 --whole

Each round embeds a slice of the chunks in both ways, one after the other, so that a busy machine slows both alike. The
ratio is that of the two medians. Stock is sentence-transformers in fp32, called as DocsGPT's own class calls it, with
the same folder. Re-embedding uses the folder's serving engine, or the one in EMBTUNE_ENGINE. With --whole, the
re-embedding of all chunks is timed, too.
"""

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics

from docsgpt_embtune.deployment.deployed_model import DeployedModel, load_deployed_model
from docsgpt_embtune.deployment.vector_journal import VectorJournal
from docsgpt_embtune.embeddings import StockEmbeddings


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--chunks", type=int, default=20_000, help="chunks of the source")
    parser.add_argument("--words", type=int, default=120, help="mean words of a chunk; they vary by half")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--slice", type=int, default=64, help="chunks that stock embeds in a round; we do eight times that"
    )
    parser.add_argument("--whole", action="store_true")
    arguments = parser.parse_args()
    model = load_deployed_model(arguments.model)
    stock_class = StockEmbeddings(model.folder)
    chunks = make_chunks(arguments.chunks, arguments.words)
    stock_class.embed_documents(chunks[:8])
    model.embed_many(chunks[:8])
    print(f"{model.folder}: serves with {getattr(model.embeddings, 'engine', 'torch')}")
    stock, ours = [], []
    for number in range(arguments.rounds):
        start = number * 9 * arguments.slice
        stock.append(one_a_call(stock_class, chunks[start : start + arguments.slice]))
        ours.append(in_batches(model, chunks[start + arguments.slice : start + 9 * arguments.slice]))
        print(f"round {number + 1}: stock {stock[-1]:.1f} chunks/s, re-embedding {ours[-1]:.1f} chunks/s")
    slow, fast = statistics.median(stock), statistics.median(ours)
    print(f"medians: stock {slow:.1f}, re-embedding {fast:.1f} chunks/s: {fast / slow:.1f} times faster")
    if arguments.whole:
        print(f"whole source: {arguments.chunks / in_batches(model, chunks):.0f} s for {arguments.chunks:,} chunks")


def make_chunks(count: int, words: int) -> list[str]:
    """Make distinct chunks of varying length from Python's reference."""
    text = " ".join(topics.values()).split()
    draw = random.Random(0)
    chunks = []
    for number in range(count):
        length = draw.randint(words // 2, words * 3 // 2)
        start = draw.randrange(len(text) - length)
        chunks.append(f"{number} {' '.join(text[start : start + length])}")
    return chunks


def one_a_call(stock_class: StockEmbeddings, chunks: list[str]) -> float:
    """Embed one chunk per call, as DocsGPT's ingestion does, and return chunks per second."""
    started = time.perf_counter()
    for chunk in chunks:
        stock_class.embed_documents([chunk])
    return len(chunks) / (time.perf_counter() - started)


def in_batches(model: DeployedModel, chunks: list[str]) -> float:
    """Embed as re-embedding does, journal included, and return chunks per second."""
    with tempfile.TemporaryDirectory() as folder, VectorJournal(Path(folder), model) as journal:
        started = time.perf_counter()
        journal.embed_missing(chunks)
        return len(chunks) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
