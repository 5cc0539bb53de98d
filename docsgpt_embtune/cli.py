"""`embtune`: parse, call the library once, print. Exit codes: 0 done, 1 done but the answer is no, 2 bad input."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from docsgpt_embtune import __version__
from docsgpt_embtune.data.dataset import RetrievalDataset, load_dataset
from docsgpt_embtune.errors import EmbtuneError, TrainingError
from docsgpt_embtune.files import write_text_atomically
from docsgpt_embtune.training.config import TrainConfig

_DEFAULTS = TrainConfig()
EXIT_NO = 1  # done, and the answer is no: not proven, not better, not healthy


class EmbtuneCommand(click.Command):
    """A command in which an error that the user can mend is one line on stderr and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, turning what the library raises into one line."""
        try:
            return super().invoke(ctx)
        except EmbtuneError as error:
            click.echo(f"error: {' '.join(str(error).split())}", err=True)
            sys.exit(2)


class EmbtuneGroup(click.Group):
    """A group whose commands, called through it or by a script of their own, report errors alike."""

    command_class = EmbtuneCommand


def relevant_docs_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flag that settles what an ambiguous file means."""
    return click.option(
        "--relevant-docs",
        type=click.Choice(["good-bad", "all-good"]),
        help="What two ids of a question in relevant_docs are, where the file itself does not say.",
    )(function)


@click.group(cls=EmbtuneGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Tune DocsGPT's embeddings on your own questions, prove the gain, deploy it safely."""


@main.command()
@click.option("--train", "train_path", required=True, help="Questions to learn from, with their good and bad chunks.")
@click.option("--val", "val_path", help="Questions to choose the epoch by; held out of --train if not given.")
@click.option("--corpus", help="The chunks, where the question files do not hold them.")
@click.option("--base", default="bundled", show_default=True, help="A hub name, a model folder, or 'bundled'.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The model folder to write.")
@click.option(
    "--loss",
    type=click.Choice(["online-contrastive", "cosine-similarity", "multiple-negatives-ranking"]),
    default=_DEFAULTS.loss,
    show_default=True,
    help="What is minimised.",
)
@click.option("--epochs", type=int, default=_DEFAULTS.epochs, show_default=True, help="At most; the best is kept.")
@click.option("--batch-size", type=int, default=_DEFAULTS.batch_size, show_default=True, help="Rows in a step.")
@click.option("--learning-rate", type=float, default=_DEFAULTS.learning_rate, show_default=True)
@click.option("--warmup", type=float, default=_DEFAULTS.warmup, show_default=True, help="Share of the steps.")
@click.option(
    "--negatives",
    type=int,
    default=_DEFAULTS.negatives,
    show_default=True,
    help="Bad chunks for each good one, where the loss takes them; what is not given is mined from the corpus.",
)
@click.option("--seed", type=int, default=_DEFAULTS.seed, show_default=True)
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", help="While training.")
@click.option("--device", help="torch's name, e.g. cpu or cuda; a GPU where there is one, if not given.")
@click.option("--zip", "make_zip", is_flag=True, help="Also write model-embeddings.zip beside the folder.")
@click.option("--keep-worse", is_flag=True, help="Write the folder even if validation prefers the base model.")
@relevant_docs_option
def train(
    train_path: str,
    val_path: str | None,
    corpus: str | None,
    base: str,
    out: Path,
    make_zip: bool,
    keep_worse: bool,
    relevant_docs: Any,
    **settings: Any,
) -> None:
    """Tune an embedding model on questions with good and bad chunks, and write it if validation prefers it."""
    import datasets
    import transformers

    from docsgpt_embtune.model_folder import zip_model_folder
    from docsgpt_embtune.training.pipeline import train as tune_and_write
    from docsgpt_embtune.training.summary import summary

    # Bars for things that take no time, in between those that tell the time left.
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        config = TrainConfig(**settings)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    training = load_dataset(train_path, corpus=corpus, relevant_docs=relevant_docs)
    validation = load_dataset(val_path, corpus=corpus, relevant_docs=relevant_docs) if val_path else None
    report = tune_and_write(training, validation, out, base=base, config=config, keep_worse=keep_worse, say=click.echo)
    click.echo(summary(report))
    if report.folder is None:
        sys.exit(EXIT_NO)
    if make_zip:
        click.echo(f"zip         {zip_model_folder(report.folder)}")


@main.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write the files into.")
def sample(out: Path) -> None:
    """Write the bundled sample: people's questions over Python's language reference, in three splits."""
    from docsgpt_embtune.data.sample import write_sample

    for split, dataset in write_sample(out).items():
        click.echo(f"{out / split}.json: {dataset.describe()}")


def _cutoffs(_context: click.Context, _option: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(k) for k in value.split(",")}))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list of numbers like 1,2,3,5,10,20") from error


def _guard(option: str, relevant_docs: Any) -> RetrievalDataset:
    questions, _, corpus = option.partition(",")
    return load_dataset(questions, corpus=corpus or None, relevant_docs=relevant_docs)


@main.command()
@click.option("--baseline", required=True, help="The model to beat: a hub name, a folder, or 'bundled'.")
@click.option("--tuned", required=True, help="The tuned model's folder.")
@click.option("--data", required=True, help="Questions that the tuned model never saw, with their good chunks.")
@click.option("--corpus", help="The chunks, where --data does not hold them.")
@click.option("--k", "ks", default="1,2,3,5,10,20", show_default=True, callback=_cutoffs, help="Cutoffs.")
@click.option("--store", type=click.Choice(["faiss", "langchain"]), default="faiss", show_default=True, help="Ranks.")
@click.option("--guard", "guards", multiple=True, help="Questions of another source: FILE, or FILE,CORPUS. Repeatable.")
@relevant_docs_option
@click.option(
    "--cache", type=click.Path(path_type=Path), help="Folder that keeps vectors; your cache folder if not given."
)
@click.option("--no-cache", is_flag=True, help="Embed everything anew, and keep nothing.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write every number to this file.")
@click.option(
    "--report", "report_path", type=click.Path(path_type=Path), help="Write a report to look at: one HTML file."
)
def check(
    baseline: str,
    tuned: str,
    data: str,
    corpus: str | None,
    ks: tuple[int, ...],
    store: Any,
    guards: tuple[str, ...],
    relevant_docs: Any,
    cache: Path | None,
    no_cache: bool,
    json_path: Path | None,
    report_path: Path | None,
) -> None:
    """Prove that a tuned model finds more than its baseline, searched as DocsGPT searches."""
    from docsgpt_embtune.evaluation.check import check_retrieval
    from docsgpt_embtune.evaluation.summary import summary
    from docsgpt_embtune.evaluation.vectors import default_cache_folder

    report = check_retrieval(
        baseline,
        tuned,
        load_dataset(data, corpus=corpus, relevant_docs=relevant_docs),
        guards={guard: _guard(guard, relevant_docs) for guard in guards},
        ks=ks,
        store=store,
        cache=None if no_cache else cache or default_cache_folder(),
    )
    click.echo(summary(report))
    if json_path:
        write_text_atomically(json_path, json.dumps(report.to_json(), ensure_ascii=False, indent=1) + "\n")
    if report_path:
        from docsgpt_embtune.evaluation.report import write_report

        write_report(report, report_path)
    if not report.proven:
        sys.exit(EXIT_NO)


if __name__ == "__main__":
    main()
