"""`embtune train` and `embtune sample`."""

import sys
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from docsgpt_embtune.cli.common import EXIT_NO, EmbtuneCommand, hide_loading_bars, relevant_docs_option
from docsgpt_embtune.data.dataset import load_dataset
from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.training.config import TrainConfig

_DEFAULTS = TrainConfig()


@click.command(cls=EmbtuneCommand)
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

    from docsgpt_embtune.model_folder import zip_model_folder
    from docsgpt_embtune.training.pipeline import train as tune_and_write
    from docsgpt_embtune.training.summary import summary

    hide_loading_bars()
    datasets.disable_progress_bars()
    try:
        config = TrainConfig(**settings)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    training = load_dataset(train_path, corpus=corpus, relevant_docs=relevant_docs)
    validation = load_dataset(val_path, corpus=corpus, relevant_docs=relevant_docs) if val_path else None
    report = tune_and_write(training, validation, out, base=base, config=config, keep_worse=keep_worse, say=tqdm.write)
    click.echo(summary(report))
    if report.folder is None:
        sys.exit(EXIT_NO)
    if make_zip:
        click.echo(f"zip         {zip_model_folder(report.folder)}")


@click.command(cls=EmbtuneCommand)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write the files into.")
def sample(out: Path) -> None:
    """Write the bundled sample: people's questions over Python's language reference, in three splits."""
    from docsgpt_embtune.data.sample import write_sample

    for split, dataset in write_sample(out).items():
        click.echo(f"{out / split}.json: {dataset.describe()}")
