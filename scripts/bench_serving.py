"""Measure a tuned folder's speed against the stock class, and the effect of int8 and windows on retrieval.

    python scripts/bench_serving.py --data ../shared/data
    python scripts/bench_serving.py --data ../shared/data --model models/tuned --only questions,chunks --rounds 9
    python scripts/bench_serving.py --data ../shared/data --only questions,chunks --layers 3

Without --model, all-MiniLM-L6-v2 is written as a tuned folder and exported first. The engines take turns in each round,
so that a busy machine slows all alike. Medians are printed, with their ratio to stock.

The loss from int8 is measured for each --model and, if there are several (e.g. tuned on one dataset with different
seeds), for each question's mean score over the models. Rounding moves each model's vectors in its own way, so more
models can show or rule out a smaller loss when there are no more questions.

Exit code 1 if a vector is wrong or cannot be had while many threads ask.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click
import numpy as np
from measuring import seconds_of

from docsgpt_embtune.base_models import BaseModel, resolve_base
from docsgpt_embtune.data.dataset import RetrievalDataset, load_dataset
from docsgpt_embtune.data.split import groups_by_answer
from docsgpt_embtune.embeddings import StockEmbeddings, TunedEmbeddings
from docsgpt_embtune.evaluation.best_of_many import mean_ndcg
from docsgpt_embtune.evaluation.decision import Decision
from docsgpt_embtune.evaluation.metrics import QueryScores
from docsgpt_embtune.evaluation.verdict import DECIDING, judge
from docsgpt_embtune.exporting.export import export
from docsgpt_embtune.exporting.quality import decide_reading, graph_scores
from docsgpt_embtune.manifest import read_manifest
from docsgpt_embtune.model_writing import write_model_folder
from docsgpt_embtune.serving.graphs import graphs_of
from docsgpt_embtune.serving.reading import Reading
from docsgpt_embtune.tokenizer import load_tokenizer
from docsgpt_embtune.training.smaller.layered_students import evenly_spaced, layer_count, write_with_layers
from docsgpt_embtune.training.trainer import load_base

PARTS = ("questions", "chunks", "start", "threads", "int8", "windows")
ENGINES = ("onnx", "onnx-int8")
JOINED_TOKENS = 1250  # DocsGPT's largest chunk

START = """
import sys, time
folder, engine = sys.argv[1:]
if engine == "stock":
    from docsgpt_embtune.embeddings import StockEmbeddings
    embeddings = StockEmbeddings(folder)
else:
    from docsgpt_embtune.embeddings import TunedEmbeddings
    embeddings = TunedEmbeddings(folder, engine=engine)
embeddings.embed_query("How do I rotate the log files?")
status = open("/proc/self/status").read().split()
memory, peak = (int(status[status.index(name) + 1]) / 1024 for name in ("VmRSS:", "VmHWM:"))
print(memory, peak, "torch" in sys.modules, time.time())
"""


Embeddings = StockEmbeddings  # includes TunedEmbeddings, its subclass


def tuned_folder(out: Path) -> Path:
    """Write all-MiniLM-L6-v2 as a tuned folder."""
    base = resolve_base("bundled")
    write_model_folder(
        load_base(base, "cpu"), base.folder, out, {"base": {"name": base.name, "fingerprint": base.fingerprint}}
    )
    return out


def folder_with_layers(folder: Path, count: int, out: Path) -> Path:
    """Write a tuned folder with some of another's layers, without distillation, which would not change its speed."""
    model, cut = load_base(BaseModel(str(folder), folder), "cpu"), out.with_name(f"{out.name}, untaught")
    write_with_layers(folder, model, evenly_spaced(layer_count(model), count), cut)
    write_model_folder(load_base(BaseModel(str(cut), cut), "cpu"), cut, out, {})
    export(out)
    return out


def sides_of(folder: Path, others: Mapping[str, Path]) -> dict[str, Embeddings]:
    """Open what is timed: the stock class, then each engine of the folder and of the others.

    Args:
        folder: A tuned folder with graphs.
        others: Suffix of the engines' names -> another such folder.
    """
    sides: dict[str, Embeddings] = {"stock": StockEmbeddings(folder)}
    for name, each in {"": folder, **others}.items():
        sides |= {f"{engine}{name}": TunedEmbeddings(str(each), engine=engine, question_cache=0) for engine in ENGINES}
    return sides


def read_split(data: Path, name: str, split: str) -> RetrievalDataset:
    """Read one split of one of the datasets."""
    folder = data / name
    return load_dataset(folder / f"{split}.json", corpus=folder / "corpus.json", relevant_docs="all-good")


def bench_questions(sides: Mapping[str, Embeddings], questions: Sequence[str], rounds: int) -> None:
    """Time single questions, each asked once per engine, so that no cache answers."""
    per_round = len(questions) // rounds
    expected = np.array([sides["stock"].embed_query(text) for text in questions[:50]])
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, embeddings in sides.items():
            for text in questions[number * per_round : (number + 1) * per_round]:
                times[name].append(seconds_of(lambda text=text, e=embeddings: e.embed_query(text)))  # type: ignore[misc]
    click.echo(f"\nquestions: one a call, {per_round * rounds} of them, median")
    for name, embeddings in sides.items():
        vectors = np.array([embeddings.embed_query(text) for text in questions[:50]])
        median = statistics.median(times[name])
        click.echo(
            f"  {name:22s} {1000 * median:7.2f} ms  {median / statistics.median(times['stock']):5.2f} of stock   "
            f"furthest number {np.abs(vectors - expected).max():.0e}, cosine at least "
            f"{(vectors * expected).sum(axis=1).min():.4f}"
        )


def bench_chunks(sides: Mapping[str, Embeddings], chunks: Sequence[str], rounds: int) -> None:
    """Time chunks embedded in one call, and one per call as in DocsGPT's ingestion."""
    ways: dict[str, Callable[[Sequence[str]], object]] = {
        "stock, one a call": lambda some: [sides["stock"].embed_documents([chunk]) for chunk in some]
    }
    ways |= {name: embeddings.embed_documents for name, embeddings in sides.items()}
    per_round = len(chunks) // rounds
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        some = chunks[number * per_round : (number + 1) * per_round]
        for name, embed in ways.items():
            rates[name].append(len(some) / seconds_of(lambda embed=embed, some=some: embed(some)))  # type: ignore[misc]
    medians = {name: statistics.median(values) for name, values in rates.items()}
    click.echo(f"\nchunks: {per_round} a round, {rounds} rounds, median")
    for name, rate in medians.items():
        click.echo(
            f"  {name:22s} {rate:7.1f} a second   {rate / medians['stock']:5.2f} times stock, "
            f"{rate / medians['stock, one a call']:5.2f} times one a call"
        )


def bench_start(folder: Path, rounds: int) -> None:
    """Time a new process up to its first vector, and measure its memory."""
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ("stock", *ENGINES)}
    torch: dict[str, bool] = {}
    for _ in range(rounds):
        for name, runs in found.items():
            started = time.time()
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", START, str(folder), name],
                capture_output=True,
                text=True,
                check=True,
            )
            memory, peak, has_torch, ended = done.stdout.split()
            runs.append((float(ended) - started, float(memory), float(peak)))
            torch[name] = has_torch == "True"
    click.echo(f"\nstart: a new process up to its first vector, {rounds} rounds, median")
    stock = [statistics.median(column) for column in zip(*found["stock"], strict=True)]
    for name, runs in found.items():
        first, memory, peak = (statistics.median(column) for column in zip(*runs, strict=True))
        click.echo(
            f"  {name:22s} {first:6.2f} s ({first / stock[0]:.2f} of stock)   {memory:5.0f} MiB resident "
            f"({memory / stock[1]:.2f}), {peak:5.0f} at most   torch imported: {'yes' if torch[name] else 'no'}"
        )


def bench_threads(sides: Mapping[str, Embeddings], questions: Sequence[str], threads: int, seconds: float) -> bool:
    """Embed questions from many threads at once, and tell whether every vector was right."""
    all_right = True
    click.echo(f"\nthreads: {threads} of them asking for {seconds:.0f} s")
    for name, embeddings in sides.items():
        expected = {text: np.array(embeddings.embed_query(text)) for text in questions}
        if isinstance(embeddings, TunedEmbeddings):
            embeddings = TunedEmbeddings(embeddings.model_name, engine=embeddings.engine, question_cache=0)
        latencies, wrong, errors = _ask_together(embeddings, expected, threads, seconds)
        all_right &= not (wrong or errors)
        p50, p99 = np.percentile(latencies, [50, 99]) * 1000
        click.echo(
            f"  {name:22s} {len(latencies) / seconds:7.0f} a second   p50 {p50:6.1f} ms, p99 {p99:6.1f} ms   "
            f"{len(errors)} errors, {wrong} wrong vectors{f' (first: {errors[0]!r})' if errors else ''}"
        )
    return all_right


def _ask_together(
    embeddings: Embeddings, expected: Mapping[str, np.ndarray], threads: int, seconds: float
) -> tuple[list[float], int, list[Exception]]:
    latencies: list[float] = []
    errors: list[Exception] = []
    wrong = [0] * threads
    end = time.monotonic() + seconds

    def ask(number: int) -> None:
        draw = random.Random(number)
        texts = list(expected)
        while time.monotonic() < end:
            text = draw.choice(texts)
            started = time.perf_counter()
            try:
                vector = embeddings.embed_query(text)
            except Exception as error:
                errors.append(error)
                continue
            latencies.append(time.perf_counter() - started)
            wrong[number] += not np.allclose(vector, expected[text], rtol=0, atol=1e-4)

    asking = [threading.Thread(target=ask, args=(number,)) for number in range(threads)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    return latencies, sum(wrong), errors


def bench_int8(folders: Sequence[Path], data: Path, names: Sequence[str]) -> None:
    """Measure the loss in retrieval from int8."""
    for name in names:
        dataset = read_split(data, name, "test")
        groups = groups_by_answer(dataset)
        click.echo(f"\nint8 on {name}, {len(dataset)} questions, nDCG@10")
        of_exact, of_rounded = [], []
        for folder in folders:
            exact, rounded = _scores_of_both(folder, dataset)
            click.echo(f"  {folder!s:40s} {_change(exact, rounded, groups)}")
            of_exact.append(exact)
            of_rounded.append(rounded)
        if len(folders) > 1:
            exact, rounded = _mean_of(of_exact), _mean_of(of_rounded)
            click.echo(f"  {f'mean of {len(folders)} models':40s} {_change(exact, rounded, groups)}")


def _scores_of_both(folder: Path, dataset: RetrievalDataset) -> tuple[QueryScores, QueryScores]:
    manifest = read_manifest(folder)
    graphs, reading = graphs_of(folder, manifest), Reading.of(manifest)
    with tempfile.TemporaryDirectory() as cache:
        exact, rounded = (graph_scores(folder, graphs[engine], reading, dataset, Path(cache)) for engine in ENGINES)
    return exact, rounded


def _mean_of(of_models: Sequence[QueryScores]) -> QueryScores:
    """Return each question's mean score over the models."""
    return {
        metric: {query_id: statistics.fmean(scores[metric][query_id] for scores in of_models) for query_id in queries}
        for metric, queries in of_models[0].items()
    }


def _change(exact: QueryScores, rounded: QueryScores, groups: Sequence[Sequence[str]]) -> str:
    found = judge(exact, rounded, groups=groups).differences[DECIDING]
    return f"{mean_ndcg(exact):.4f}  {found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def bench_windows(folder: Path, data: Path, count: int | None) -> None:
    """Measure the gain from reading long chunks to their end, over the whole corpus if no count is given."""
    manifest = read_manifest(folder)
    usual = Reading(manifest["max_seq_length"])
    others = [Reading(512, "off"), Reading(manifest["max_seq_length"], "mean"), Reading(512, "mean")]
    annual_reports = load_dataset(data / "llamaindex_10k" / "val_dataset.json", relevant_docs="all-good")
    for name, dataset in (
        ("llamaindex_10k", annual_reports),
        ("feedbackqa, joined", joined_pages(folder, data / "feedbackqa")),
    ):
        sample = dataset if count is None else first_chunks(dataset, count)
        exact = graphs_of(folder, manifest)["onnx"]
        with tempfile.TemporaryDirectory() as cache:
            _, decision = decide_reading(folder, exact, usual, others, sample, Path(cache))
        _show(f"windows on {name}, {len(sample.corpus)} chunks", decision)


def joined_pages(folder: Path, source: Path) -> RetrievalDataset:
    """Join the chunks of each page up to 1,250 tokens, DocsGPT's default limit."""
    tokenizer = load_tokenizer(folder)
    dataset = read_split(source.parent, source.name, "val")
    page_of = json.loads((source / "doc_of_chunk.json").read_text(encoding="utf-8"))
    corpus: dict[str, str] = {}
    joined_in: dict[str, str] = {}
    last_of: dict[str, tuple[str, int]] = {}  # page -> its last joined chunk, and the tokens in it
    for doc_id, text in dataset.corpus.items():
        length = len(tokenizer.encode(text))
        joined, tokens = last_of.get(page_of[doc_id], (doc_id, 0))
        if tokens + length > JOINED_TOKENS:
            joined, tokens = doc_id, 0
        corpus[joined] = f"{corpus.get(joined, '')}\n\n{text}".strip()
        last_of[page_of[doc_id]] = joined, tokens + length
        joined_in[doc_id] = joined
    relevant = {
        query_id: tuple(dict.fromkeys(joined_in[doc_id] for doc_id in doc_ids))
        for query_id, doc_ids in dataset.relevant_docs.items()
    }
    return RetrievalDataset(dataset.queries, corpus, relevant)


def first_chunks(dataset: RetrievalDataset, count: int) -> RetrievalDataset:
    """Keep the first `count` chunks that answer a question, and the questions that they answer completely."""
    answering = dict.fromkeys(doc_id for doc_ids in dataset.relevant_docs.values() for doc_id in doc_ids)
    kept = set(list(answering)[:count])
    relevant = {query_id: doc_ids for query_id, doc_ids in dataset.relevant_docs.items() if kept.issuperset(doc_ids)}
    return RetrievalDataset(
        queries={query_id: dataset.queries[query_id] for query_id in relevant},
        corpus={doc_id: text for doc_id, text in dataset.corpus.items() if doc_id in kept},
        relevant_docs=relevant,
    )


def _show(title: str, decision: Decision) -> None:
    click.echo(f"\n{title}, {decision.queries} questions: {decision.chosen} ({decision.reason})")
    for trial in decision.trials:
        click.echo(f"  {trial.line()}")


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="The folder of datasets.")
@click.option(
    "--model", "models", type=click.Path(exists=True, path_type=Path), multiple=True, help="A tuned folder. Repeatable."
)
@click.option("--only", default=",".join(PARTS), show_default=True)
@click.option("--rounds", type=int, default=5, show_default=True)
@click.option("--questions", "question_count", type=int, default=500, show_default=True)
@click.option("--chunks", "chunk_count", type=int, default=480, show_default=True)
@click.option("--threads", type=int, default=96, show_default=True)
@click.option("--seconds", type=float, default=60, show_default=True, help="How long the threads ask.")
@click.option("--sets", default="emanual,feedbackqa,zoomcamp_faq", show_default=True, help="That int8 is asked of.")
@click.option("--layers", type=int, help="Time a model with so many of the layers, too, as `embtune distill` makes it.")
@click.option("--long-chunks", type=int, help="In each measurement of windows; all of them if not given.")
def main(
    data: Path,
    models: tuple[Path, ...],
    only: str,
    rounds: int,
    question_count: int,
    chunk_count: int,
    threads: int,
    seconds: float,
    sets: str,
    layers: int | None,
    long_chunks: int | None,
) -> None:
    """Measure and print."""
    parts, all_right = set(only.split(",")), True
    with tempfile.TemporaryDirectory() as temporary:
        folders = models or (tuned_folder(Path(temporary) / "minilm"),)
        for each in folders:
            if not graphs_of(each, read_manifest(each)):
                export(each)
        folder = folders[0]
        texts = read_split(data, "feedbackqa", "test")
        questions = list(texts.queries.values())[:question_count]
        chunks = random.Random(0).sample(list(texts.corpus.values()), chunk_count)
        click.echo(f"{folder}, {os.cpu_count()} processors, onnxruntime")
        if parts & {"questions", "chunks", "threads"}:
            fewer = folder_with_layers(folder, layers, Path(temporary) / "fewer") if layers else None
            sides = sides_of(folder, {f", {layers} layers": fewer} if fewer else {})
        if "questions" in parts:
            bench_questions(sides, questions, rounds)
        if "chunks" in parts:
            bench_chunks(sides, chunks, rounds)
        if "start" in parts:
            bench_start(folder, rounds)
        if "threads" in parts:
            all_right = bench_threads(sides, questions, threads, seconds)
        if "int8" in parts:
            bench_int8(folders, data, sets.split(","))
        if "windows" in parts:
            bench_windows(folder, data, long_chunks)
    sys.exit(0 if all_right else 1)


if __name__ == "__main__":
    main()
