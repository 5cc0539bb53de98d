"""Measure rows per second and peak memory of `embtune prepare` on many rows.

    python scripts/bench_prepare.py --rows 1000000,10000000

Each size runs in its own process. The rows are synthetic: a question with a good and a bad chunk. One row in a hundred
repeats another row's question, and one in a thousand has a chunk that is both good and bad. The time covers reading,
checking, fixing, splitting and writing. Exit code 1 if `prepare` fails.
"""

import contextlib
import io
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from measuring import in_own_process, peak_memory

from docsgpt_embtune.cli import main as embtune
from docsgpt_embtune.data.formats.content import Row, chunks, text_id
from docsgpt_embtune.data.formats.format import RowFormat
from docsgpt_embtune.data.formats.registry import FORMATS
from docsgpt_embtune.progress import Bar

QUESTION_WORDS, CHUNK_WORDS = 8, 40
_BLOCK = 10_000  # rows drawn at a time
SUFFIXES = {"jsonl": ".jsonl", "csv": ".csv", "parquet": ".parquet"}


def made_up_rows(number: int) -> Iterator[Row]:
    """Yield rows of random words from a vocabulary of 32,400."""
    words = np.array([f"{first}{second}" for first in _SYLLABLES for second in _SYLLABLES], dtype=object)
    random = np.random.default_rng(0)
    return itertools.islice(_endless_rows(words, random), number)


def _endless_rows(words: npt.NDArray[np.object_], random: np.random.Generator) -> Iterator[Row]:
    for _ in itertools.count():
        drawn = random.integers(len(words), size=(_BLOCK, QUESTION_WORDS + 2 * CHUNK_WORDS))
        drawn[::100, :QUESTION_WORDS] = drawn[50::100, :QUESTION_WORDS]
        for place, row in enumerate(words[drawn].tolist()):
            question = " ".join(row[:QUESTION_WORDS]) + "?"
            good = " ".join(row[QUESTION_WORDS:-CHUNK_WORDS])
            bad = " ".join(row[-CHUNK_WORDS:])
            yield Row(text_id(question), question, chunks([good]), chunks([bad, good] if place % 1000 == 1 else [bad]))


_SYLLABLES = [f"{first}{second}{third}" for first in "bdfgklmnprst" for second in "aeiou" for third in "lnr"]


def measure(rows: int, format_name: str) -> dict[str, float | str]:
    """Write rows, prepare them, and return the time and memory that it took."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        source = Path(name) / f"rows{SUFFIXES[format_name]}"
        target = FORMATS[format_name]
        assert isinstance(target, RowFormat)
        target.write_rows(Bar(made_up_rows(rows), "making up", rows, unit=" rows", unit_scale=True), source)
        before = peak_memory()
        start = time.perf_counter()
        arguments = ["prepare", str(source), "--out", str(Path(name) / "out"), "--fix", "--model", "none"]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exit_code = _run(arguments)
        seconds = time.perf_counter() - start
        return {
            "seconds": seconds,
            "memory": peak_memory(),
            "before": before,
            "bytes": source.stat().st_size,
            "exit": exit_code,
            "output": printed.getvalue(),
        }


def _run(arguments: list[str]) -> int:
    try:
        embtune(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@click.command()
@click.option("--rows", default="100000,1000000", show_default=True)
@click.option("--format", "format_name", type=click.Choice(list(SUFFIXES)), default="jsonl", show_default=True)
@click.option("--one", type=int, hidden=True, help="Measure this size here, and print JSON.")
def main(rows: str, format_name: str, one: int | None) -> None:
    """Print rows per second and peak memory for each size."""
    if one:
        click.echo(json.dumps(measure(one, format_name)))
        return
    for size in map(int, rows.split(",")):
        found = in_own_process(__file__, "--one", str(size), "--format", format_name)
        click.echo(
            f"{size:,} rows of {format_name}, {found['bytes'] / 1e9:.2f} GB: {found['seconds']:,.0f} s, "
            f"{size / found['seconds']:,.0f} rows/s, {found['memory']:.2f} GiB at the peak "
            f"({found['before']:.2f} before), exit code {found['exit']}"
        )
        click.echo(found["output"])
        if found["exit"]:
            sys.exit(1)


if __name__ == "__main__":
    main()
