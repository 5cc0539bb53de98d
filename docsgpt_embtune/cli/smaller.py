"""`embtune shrink` and `embtune distill`."""

from pathlib import Path

import click
from tqdm import tqdm

from docsgpt_embtune.cli.command import EmbtuneCommand, end_with
from docsgpt_embtune.cli.options import cache_option, relevant_docs_option
from docsgpt_embtune.data.dataset import load_dataset
from docsgpt_embtune.data.formats.options import RelevantDocs
from docsgpt_embtune.training.config import SEED


@click.command(cls=EmbtuneCommand)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--data",
    required=True,
    help="Validation questions, to decide by: never the test questions. Any that the model learned from do not count.",
)
@click.option("--corpus", help="The chunks, where --data does not hold them.")
@click.option("--width", type=int, help="Numbers of a vector; the fewest that lose nothing on --data, if not given.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The model folder to write.")
@cache_option
@relevant_docs_option
def shrink(
    folder: Path,
    data: str,
    corpus: str | None,
    width: int | None,
    out: Path,
    cache: Path | None,
    relevant_docs: RelevantDocs | None,
) -> None:
    """Cut vectors to fewer numbers, and say what each width costs."""
    from docsgpt_embtune.training.smaller.shrinking import shrink as cut_and_write
    from docsgpt_embtune.training.smaller.shrinking import summary

    report = cut_and_write(
        folder,
        load_dataset(data, corpus=corpus, relevant_docs=relevant_docs),
        out,
        width=width,
        cache=cache,
        say=tqdm.write,
    )
    end_with(summary(report), report.folder)


@click.command(cls=EmbtuneCommand)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--train", "train_path", required=True, help="Questions to teach with, as the tuned model sees them.")
@click.option(
    "--val",
    "val_path",
    help="Questions to choose by, but for those that the tuned model learned from; held out of --train if not given.",
)
@click.option("--corpus", help="The chunks, where the question files do not hold them.")
@click.option("--layers", type=int, help="How many of the model's layers to keep; a table of tokens, if not given.")
@click.option("--baseline", default="bundled", show_default=True, help="The untuned model to compare with.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The model folder to write.")
@click.option("--seed", type=int, default=SEED, show_default=True)
@click.option("--keep-worse", is_flag=True, help="Write the folder even if it is worse than the untuned model.")
@relevant_docs_option
def distill(
    folder: Path,
    train_path: str,
    val_path: str | None,
    corpus: str | None,
    layers: int | None,
    baseline: str,
    out: Path,
    seed: int,
    keep_worse: bool,
    relevant_docs: RelevantDocs | None,
) -> None:
    """Make a smaller, quicker model of a tuned one.

    With --layers the new model keeps some of the tuned one's layers; without, none: it is a table of tokens, of which
    a text is the mean. Either is taught to put texts where the tuned model puts them.
    """
    from docsgpt_embtune.training.smaller.distillation import distill as teach_and_write
    from docsgpt_embtune.training.smaller.distillation import summary

    report = teach_and_write(
        folder,
        load_dataset(train_path, corpus=corpus, relevant_docs=relevant_docs),
        load_dataset(val_path, corpus=corpus, relevant_docs=relevant_docs) if val_path else None,
        out,
        layers=layers,
        baseline=baseline,
        keep_worse=keep_worse,
        seed=seed,
        say=tqdm.write,
    )
    end_with(summary(report), report.folder)
