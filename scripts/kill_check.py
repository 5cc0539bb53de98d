"""Kill the embedding of a corpus halfway, start it again, and compare the result with an uninterrupted run.

    python scripts/kill_check.py --model bundled --corpus data/corpus.json

The killed run is a separate process that gets SIGKILL in the middle of a block. Prints how many chunks the second run
embedded, and whether vectors and files are identical to the last bit; exit code 1 if anything differs.
"""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import click
import numpy as np

from docsgpt_embtune.base_models import resolve_base
from docsgpt_embtune.data.dataset import load_corpus
from docsgpt_embtune.embeddings import StockEmbeddings
from docsgpt_embtune.evaluation.vector_cache import ROWS_PER_BLOCK, VectorCache, embed_corpus
from docsgpt_embtune.model_folder import fingerprint
from docsgpt_embtune.vectors import Vectors


class CountingEmbeddings(StockEmbeddings):
    """Stock embeddings that count the chunks embedded."""

    embedded = 0

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed chunks, in order."""
        self.embedded += len(texts)
        return super().embed_documents(texts)


def embed(model: str, corpus: Path, chunks: int, cache: Path) -> tuple[Vectors, int]:
    """Embed the first `chunks` distinct chunks through the cache; return vectors (N, D) and the number embedded."""
    folder = resolve_base(model).folder
    embeddings = CountingEmbeddings(folder)
    texts = list(islice(dict.fromkeys(load_corpus(corpus).values()), chunks))
    vectors = embed_corpus(embeddings, texts, VectorCache(cache, fingerprint(folder), embeddings.dimension))
    return vectors.array(), embeddings.embedded


def embed_and_be_killed(arguments: list[str], cache: Path, blocks: int) -> None:
    """Start the embedding in another process, and kill it shortly after it has written this many blocks."""
    running = subprocess.Popen([sys.executable, __file__, *arguments, "--into", str(cache)])
    while len(blocks_in(cache)) < blocks and running.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)  # into the next block
    running.kill()
    if running.wait() != -signal.SIGKILL:
        raise click.ClickException("the run ended before it was killed; give more --chunks")


def blocks_in(cache: Path) -> list[Path]:
    """List the cache's block files."""
    return sorted(cache.rglob("*.npy"))


@click.command()
@click.option("--model", default="bundled", show_default=True)
@click.option("--corpus", required=True, type=click.Path(path_type=Path))
@click.option("--chunks", default=4 * ROWS_PER_BLOCK, show_default=True)
@click.option("--into", type=click.Path(path_type=Path), hidden=True, help="Embed into this cache, and no more.")
def main(model: str, corpus: Path, chunks: int, into: Path | None) -> None:
    """Embed twice, once with a kill at half."""
    if into:
        embed(model, corpus, chunks, into)
        return
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder, "whole"), Path(folder, "killed")
        vectors, embedded = embed(model, corpus, chunks, whole)
        click.echo(f"never stopped   {embedded:,} chunks embedded, {len(blocks_in(whole))} blocks")
        arguments = ["--model", model, "--corpus", str(corpus), "--chunks", str(chunks)]
        embed_and_be_killed(arguments, killed, len(blocks_in(whole)) // 2)
        kept = sum(len(np.load(path)) for path in blocks_in(killed))
        click.echo(f"killed          {kept:,} chunks kept")
        again, rest = embed(model, corpus, chunks, killed)
        click.echo(f"started again   {rest:,} chunks embedded")
        same = {
            "only the rest was embedded": rest == len(vectors) - kept and 0 < kept < len(vectors),
            "vectors are the same to the last bit": again.tobytes() == vectors.tobytes(),
            "files are the same to the last bit": [path.read_bytes() for path in blocks_in(killed)]
            == [path.read_bytes() for path in blocks_in(whole)],
        }
    for what, holds in same.items():
        click.echo(f"{'yes' if holds else 'NO ':<4} {what}")
    if not all(same.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
