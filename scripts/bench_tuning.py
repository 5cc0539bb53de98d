"""Compare the automatic recipe with common ways of tuning, on several datasets.

    python scripts/bench_tuning.py ../shared/data/emanual ../shared/data/zoomcamp_faq --json runs/tuning.json
    python scripts/bench_tuning.py DIR --methods base,bm25,plain,ours --seeds 13,14,15

With --json, every result is written as soon as it is there, and results that the file has already are not run again, so
that seeds can be added. With --keep FOLDER, the models are kept as FOLDER/DATASET-METHOD-SEED, for example to export
and compare them with bench_serving.py.

A dataset folder holds corpus.json, train.json, val.json and test.json. Or it holds LlamaIndex's train_dataset.json and
val_dataset.json: then the second is the test, over other chunks, and validation is held out of the first. Every method
trains in its own process on the same training questions, and methods that choose by validation get the same validation
questions. The test questions are used once, at the end, with the retrieval check's metrics and verdict.

Methods:
    base        the untuned model
    bm25        BM25, without a model
    hybrid      the untuned model and BM25, combined by rank fusion
    article     DocsGPT's article: OnlineContrastiveLoss, batch 10, one bad chunk per question (the base model's hardest
                negative, as none is given), evaluation on the whole corpus every ten steps with good and bad chunk both
                counted as relevant, best evaluation saved; the article itself has --article-epochs 10
    llamaindex  LlamaIndex's engine: MultipleNegativesRankingLoss, batch 10, 2 epochs, no bad chunks, not shuffled
    plain       a trainer loop: MultipleNegativesRankingLoss, batch 32, 1 epoch, the library's defaults
    first-try   OnlineContrastiveLoss, batch 10, one epoch, one mined bad chunk per question
    ours        the automatic recipe, which also gets the chunks of the test, as it would in a deployment
"""

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from measuring import in_own_process

from docsgpt_embtune.data.dataset import RetrievalDataset, load_dataset
from docsgpt_embtune.data.split import hold_out
from docsgpt_embtune.files import write_text_atomically

METHODS = ("base", "bm25", "hybrid", "article", "llamaindex", "plain", "first-try", "ours")
COLUMNS = ("ndcg@10", "recall@1", "recall@2", "recall@10")
KS = (1, 2, 3, 5, 10, 20)
VALIDATION_SHARE = 0.3


@dataclass(frozen=True)
class Splits:
    """The three parts of a dataset folder."""

    train: RetrievalDataset
    validation: RetrievalDataset
    test: RetrievalDataset


def main() -> None:
    """Run every method on every folder with every seed and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="13,14,15")
    parser.add_argument("--base", default="bundled")
    parser.add_argument("--article-epochs", type=int, default=2)
    parser.add_argument("--time-budget", type=float, default=20.0, help="minutes that ours may take")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="a folder in which the models stay")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        method, seed = arguments.one
        run_one(arguments.folders[0], method, int(seed), arguments)
        return
    results = read_results(arguments.json)
    for folder in arguments.folders:
        for method in arguments.methods.split(","):
            for seed in [13] if method in ("base", "bm25", "hybrid") else map(int, arguments.seeds.split(",")):
                if not any((r["dataset"], r["method"], r["seed"]) == (folder.name, method, seed) for r in results):
                    results.append(run_apart(folder, method, seed, arguments))
                    if arguments.json:
                        write_text_atomically(arguments.json, json.dumps(results, indent=1) + "\n")
        print(table(folder.name, results), flush=True)


def read_results(file: Path | None) -> list[dict[str, Any]]:
    """Read the results of earlier runs."""
    if file is None:
        return []
    file.parent.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    return results


def run_apart(folder: Path, method: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run a method in its own process, and return its result."""
    options = [str(folder), "--one", method, str(seed), "--base", arguments.base]
    options += ["--article-epochs", str(arguments.article_epochs), "--time-budget", str(arguments.time_budget)]
    options += ["--keep", str(arguments.keep)] if arguments.keep else []
    result: dict[str, Any] = in_own_process(__file__, *options)
    print(
        f"{folder.name} {method} seed {seed}: nDCG@10 {mean(result, 'ndcg@10'):.3f}, {result['seconds']:.0f} s",
        flush=True,
    )
    return result


def run_one(folder: Path, method: str, seed: int, arguments: argparse.Namespace) -> None:
    """Train and score in this process; the last line of stdout is the result as JSON."""
    splits = load_splits(folder)
    with tempfile.TemporaryDirectory(prefix="embtune-bench-") as scratch:
        out = arguments.keep / f"{folder.name}-{method}-{seed}" if arguments.keep else Path(scratch) / "model"
        started = time.monotonic()
        note = TRAINERS[method](splits, seed, out, arguments) if method in TRAINERS else ""
        seconds = time.monotonic() - started
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        scores = score(splits.test, method, out if out.exists() else None, arguments.base)
    result = {
        "dataset": folder.name,
        "method": method,
        "seed": seed,
        "seconds": seconds,
        "memory": memory,
        "note": note,
        "scores": scores,
    }
    print(json.dumps(result))


def load_splits(folder: Path) -> Splits:
    """Read a dataset folder; training and validation questions that are also in the test are left out."""
    if (folder / "train_dataset.json").is_file():
        whole = load_dataset(folder / "train_dataset.json", relevant_docs="all-good")
        train, validation = hold_out(whole, VALIDATION_SHARE, seed=13)
        return Splits(train, validation, load_dataset(folder / "val_dataset.json", relevant_docs="all-good"))
    parts = [
        load_dataset(folder / f"{split}.json", corpus=folder / "corpus.json", relevant_docs="all-good")
        for split in ("train", "val", "test")
    ]
    tested = set(parts[2].queries.values())
    kept = [part.subset(q for q, text in part.queries.items() if text not in tested) for part in parts[:2]]
    return Splits(kept[0], kept[1], parts[2])


def score(test: RetrievalDataset, method: str, tuned: Path | None, base: str) -> dict[str, dict[str, float]]:
    """Rank the corpus for each test question as DocsGPT does, and score the rankings."""
    from docsgpt_embtune.base_models import resolve_base
    from docsgpt_embtune.embeddings import StockEmbeddings, TunedEmbeddings
    from docsgpt_embtune.evaluation.bm25 import retrieve_bm25
    from docsgpt_embtune.evaluation.fusion import fused
    from docsgpt_embtune.evaluation.metrics import score_queries
    from docsgpt_embtune.evaluation.ranking import retrieve

    if method == "bm25":
        return score_queries(retrieve_bm25(test), test.qrels, KS)
    served = TunedEmbeddings if method == "ours" and tuned else StockEmbeddings
    ranking = retrieve(served(str(tuned or resolve_base(base).folder)), test)
    return score_queries(fused(ranking, retrieve_bm25(test)) if method == "hybrid" else ranking, test.qrels, KS)


def train_ours(splits: Splits, seed: int, out: Path, arguments: argparse.Namespace) -> str:
    """Run the automatic recipe as `embtune train` does."""
    from docsgpt_embtune.training.config import TrainConfig
    from docsgpt_embtune.training.recipe import Automatic
    from docsgpt_embtune.training.train import train

    corpus = {**splits.train.corpus, **splits.test.corpus}
    report = train(
        replace(splits.train, corpus=corpus),
        replace(splits.validation, corpus=corpus),
        out,
        base=arguments.base,
        config=TrainConfig(seed=seed),
        automatic=Automatic(arguments.time_budget),
        say=lambda line: print(line, file=sys.stderr),
    )
    return report.tuned.chosen.name if report.folder else "no model shipped: the base serves on"


def train_article(splits: Splits, seed: int, out: Path, arguments: argparse.Namespace) -> str:
    """Train as DocsGPT's article does, including the evaluation every ten steps."""
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    bad = hardest_others(splits, arguments.base)
    relevant = {query_id: {*ids, bad[query_id]} for query_id, ids in splits.train.relevant_docs.items()}
    evaluator = InformationRetrievalEvaluator(dict(splits.train.queries), dict(splits.train.corpus), relevant)
    fit_pairs(splits, bad, seed, out, arguments, epochs=arguments.article_epochs, evaluator=evaluator)
    return f"{arguments.article_epochs} epochs"


def train_first_try(splits: Splits, seed: int, out: Path, arguments: argparse.Namespace) -> str:
    """Train one epoch on a good and a mined bad chunk per question."""
    fit_pairs(splits, hardest_others(splits, arguments.base), seed, out, arguments, epochs=1, evaluator=None)
    return ""


def fit_pairs(
    splits: Splits,
    bad: dict[str, str],
    seed: int,
    out: Path,
    arguments: argparse.Namespace,
    *,
    epochs: int,
    evaluator: Any,
) -> None:
    """Fit OnlineContrastiveLoss on (question, chunk, 1 or 0), in batches of ten, through the library's `fit`."""
    from sentence_transformers import InputExample
    from sentence_transformers.sentence_transformer.losses import OnlineContrastiveLoss
    from torch.utils.data import DataLoader

    model = load_model(arguments.base, seed)
    train = splits.train
    examples = [
        example
        for query_id, text in train.queries.items()
        for example in (
            InputExample(texts=[text, train.corpus[train.relevant_docs[query_id][0]]], label=1),
            InputExample(texts=[text, train.corpus[bad[query_id]]], label=0),
        )
    ]
    loader: Any = DataLoader(examples, shuffle=True, batch_size=10)  # type: ignore[arg-type]
    model.fit(
        [(loader, OnlineContrastiveLoss(model))],
        evaluator=evaluator,
        epochs=epochs,
        evaluation_steps=10 if evaluator else 0,
        warmup_steps=int(0.1 * len(loader) * epochs),
        output_path=str(out),
        show_progress_bar=False,
    )
    if evaluator is None:
        model.save(str(out))


def train_llamaindex(splits: Splits, seed: int, out: Path, arguments: argparse.Namespace) -> str:
    """Train as LlamaIndex's SentenceTransformersFinetuneEngine does."""
    from sentence_transformers import InputExample
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from torch.utils.data import DataLoader

    model = load_model(arguments.base, seed)
    train = splits.train
    examples = [
        InputExample(texts=[text, train.corpus[train.relevant_docs[query_id][0]]])
        for query_id, text in train.queries.items()
    ]
    loader: Any = DataLoader(examples, batch_size=10)  # type: ignore[arg-type]
    warmup = int(0.1 * len(loader) * 2)
    loss = MultipleNegativesRankingLoss(model)
    model.fit([(loader, loss)], epochs=2, warmup_steps=warmup, output_path=str(out), show_progress_bar=False)
    return "2 epochs"


def train_plain(splits: Splits, seed: int, out: Path, arguments: argparse.Namespace) -> str:
    """Train with the trainer's defaults on every (question, good chunk)."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = load_model(arguments.base, seed)
    train = splits.train
    pairs = [
        (text, train.corpus[doc_id])
        for query_id, text in train.queries.items()
        for doc_id in train.relevant_docs[query_id]
    ]
    rows = Dataset.from_dict({"anchor": [pair[0] for pair in pairs], "positive": [pair[1] for pair in pairs]})
    settings = SentenceTransformerTrainingArguments(
        output_dir=str(out.with_name("trainer")),
        num_train_epochs=1,
        per_device_train_batch_size=32,
        seed=seed,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    SentenceTransformerTrainer(
        model=model, args=settings, train_dataset=rows, loss=MultipleNegativesRankingLoss(model)
    ).train()
    model.save(str(out))
    return ""


def load_model(base: str, seed: int) -> Any:
    """Load the base model for the methods other than ours."""
    from sentence_transformers import SentenceTransformer
    from transformers import set_seed

    from docsgpt_embtune.base_models import resolve_base

    set_seed(seed)
    return SentenceTransformer(str(resolve_base(base).folder))


def hardest_others(splits: Splits, base: str) -> dict[str, str]:
    """Mine a hard negative for each training question: the base model's highest-ranked chunk that is not good."""
    from docsgpt_embtune.base_models import resolve_base
    from docsgpt_embtune.embeddings import StockEmbeddings
    from docsgpt_embtune.evaluation.ranking import retrieve

    ranking = retrieve(StockEmbeddings(str(resolve_base(base).folder)), splits.train)
    return {
        query_id: next(
            doc for doc in ranking.top(query_id, ranking.depth) if doc not in splits.train.relevant_docs[query_id]
        )
        for query_id in splits.train.queries
    }


TRAINERS: dict[str, Callable[[Splits, int, Path, argparse.Namespace], str]] = {
    "article": train_article,
    "llamaindex": train_llamaindex,
    "plain": train_plain,
    "first-try": train_first_try,
    "ours": train_ours,
}


def mean(result: dict[str, Any], metric: str) -> float:
    """Average a metric over the test questions."""
    return statistics.fmean(result["scores"][metric].values())


def table(dataset: str, results: list[dict[str, Any]]) -> str:
    """Return a table of each method's median run, its interval and verdict against the base, and median seconds."""
    from docsgpt_embtune.evaluation.verdict import judge

    own = [result for result in results if result["dataset"] == dataset]
    base = next((result for result in own if result["method"] == "base"), None)
    lines = [f"\n{dataset}", f"{'method':<11} nDCG@10  recall@1  recall@2  recall@10  seconds   GiB  against the base"]
    for method in dict.fromkeys(result["method"] for result in own):
        runs = sorted((result for result in own if result["method"] == method), key=lambda run: mean(run, "ndcg@10"))
        middle = runs[len(runs) // 2]
        figures = "  ".join(f"{mean(middle, metric):.3f}    " for metric in COLUMNS)
        verdict = ""
        if base and method != "base":
            judgment = judge(base["scores"], middle["scores"])
            gain = judgment.differences["ndcg@10"]
            verdict = (
                f"{judgment.verdict}, nDCG@10 {gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}) {middle['note']}"
            )
        seconds = statistics.median(run["seconds"] for run in runs)
        lines.append(f"{method:<11} {figures}  {seconds:5.0f}  {middle['memory'] / 2**30:4.1f}  {verdict}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
