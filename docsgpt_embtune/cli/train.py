"""`embtune train` and `embtune sample`."""

from pathlib import Path
from typing import Any, get_args

import click
from tqdm import tqdm

from docsgpt_embtune.cli.command import EmbtuneCommand, end_with
from docsgpt_embtune.cli.options import load_guard, minutes, relevant_docs_option, whole_numbers
from docsgpt_embtune.data.dataset import load_corpus, load_dataset
from docsgpt_embtune.data.formats.options import RelevantDocs
from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.precision import Precision
from docsgpt_embtune.training.config import LossName, SettingError, TrainConfig
from docsgpt_embtune.training.processes import is_main_process
from docsgpt_embtune.wording import silent

_DEFAULTS = TrainConfig()


@click.command(cls=EmbtuneCommand)
@click.option("--train", "train_path", help="Questions to learn from, with their good chunks and perhaps bad ones.")
@click.option("--val", "val_path", help="Questions to choose by; if not given, some of --train, or all in folds.")
@click.option("--corpus", help="The chunks, where the question files do not hold them; alone, all there is to learn.")
@click.option("--base", default="bundled", show_default=True, help="A hub name, a model folder, or 'bundled'.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The model folder to write.")
@click.option(
    "--recipe",
    type=click.Choice(["auto", "explicit"]),
    help="auto: the chunks, then the questions, as far as validation prefers it. explicit: one loss with the settings "
    "given, and what any of --loss, --epochs, --batch-size, --learning-rate, --warmup and --negatives means.",
)
@click.option(
    "--time-budget",
    callback=minutes,
    help="Time that the automatic recipe may take, e.g. 90s, 10m or 1h30m; minutes without a unit.  [default: 20m]",
)
@click.option(
    "--guard",
    "guards",
    multiple=True,
    help="Questions of another source that must not get worse: FILE, or FILE,CORPUS. Repeatable.",
)
@click.option(
    "--windows",
    type=click.Choice(["auto", "off", "mean"]),
    help="mean: read a chunk that is too long for the model in windows, and store their mean. auto: where the "
    "questions show that it helps.  [default: auto]",
)
@click.option(
    "--keywords",
    type=click.Choice(["auto", "narrow", "off"]),
    help="auto: put keywords beside the model's numbers in each vector, where validation prefers that. Vectors become "
    "wider (768 numbers with a MiniLM, or 1,536 where that finds more still; narrow: never more than the first), and "
    "only the plugin's class makes them.  [default: auto]",
)
@click.option(
    "--loss",
    type=click.Choice(get_args(LossName)),
    help=f"What is minimised.  [default: {_DEFAULTS.loss}]",
)
@click.option("--epochs", type=int, help=f"Most epochs; the best is kept.  [default: {_DEFAULTS.epochs}]")
@click.option("--batch-size", type=int, help=f"Rows in a step.  [default: {_DEFAULTS.batch_size}]")
@click.option("--learning-rate", type=float, help=f"[default: {_DEFAULTS.learning_rate}]")
@click.option("--warmup", type=float, help=f"Share of the steps.  [default: {_DEFAULTS.warmup}]")
@click.option(
    "--negatives",
    type=int,
    help="Bad chunks for each good one, where the loss takes them; what is not given is mined from the corpus.  "
    f"[default: {_DEFAULTS.negatives}]",
)
@click.option(
    "--widths",
    callback=whole_numbers,
    help="Let vectors cut to these widths serve, too, e.g. 256,128,64; `embtune shrink` cuts.",
)
@click.option("--seed", type=int, default=_DEFAULTS.seed, show_default=True)
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    default=_DEFAULTS.precision,
    show_default=True,
    help="Of the arithmetic in training; what is written is fp32.",
)
@click.option("--device", help="torch's name, e.g. cpu or cuda; a GPU where there is one, if not given.")
@click.option("--report-to", multiple=True, help="Where the curves go, e.g. tensorboard. Repeatable.")
@click.option("--resume", is_flag=True, help="Go on with a run to this folder that was stopped.")
@click.option("--zip", "make_zip", is_flag=True, help="Also write model-embeddings.zip beside the folder.")
@click.option("--keep-worse", is_flag=True, help="Write the folder even if validation does not prefer it.")
@relevant_docs_option
def train(
    train_path: str | None,
    val_path: str | None,
    corpus: str | None,
    base: str,
    out: Path,
    recipe: str | None,
    time_budget: float | None,
    guards: tuple[str, ...],
    windows: Any,
    keywords: Any,
    widths: tuple[int, ...],
    seed: int,
    precision: Precision,
    device: str | None,
    report_to: tuple[str, ...],
    resume: bool,
    make_zip: bool,
    keep_worse: bool,
    relevant_docs: RelevantDocs | None,
    **settings: Any,
) -> None:
    """Tune an embedding model on questions and chunks.

    It is written if validation prefers it to the base.
    """
    import datasets

    from docsgpt_embtune.model_writing import take_zip_destination, zip_model_folder
    from docsgpt_embtune.training.recipe import Automatic
    from docsgpt_embtune.training.summary import summary
    from docsgpt_embtune.training.train import train as tune_and_write

    if widths and keywords not in (None, "off"):
        raise click.UsageError(f"--keywords {keywords} with --widths: a vector to be cut has no place for keywords")
    _refuse_unusable_device(device)
    _refuse_unknown_reports(report_to)
    datasets.disable_progress_bars()
    told = {"--time-budget": time_budget, "--guard": guards or None, "--windows": windows, "--keywords": keywords}
    explicit = _explicit_settings(recipe, settings, [option for option, value in told.items() if value is not None])
    try:
        config = TrainConfig(
            widths=widths, seed=seed, precision=precision, device=device, report_to=report_to, **(explicit or {})
        )
        automatic = None
        if explicit is None:
            guard_sets = {guard: load_guard(guard, relevant_docs) for guard in guards}
            budget = Automatic.minutes if time_budget is None else time_budget
            automatic = Automatic(budget, guard_sets, windows or Automatic.windows, keywords or Automatic.keywords)
    except SettingError as error:
        raise TrainingError(error.of_option) from error
    training = load_dataset(train_path, corpus=corpus, relevant_docs=relevant_docs) if train_path else None
    validation = load_dataset(val_path, corpus=corpus, relevant_docs=relevant_docs) if val_path else None
    say = tqdm.write if is_main_process() else silent
    if make_zip:
        take_zip_destination(out, say)
    report = tune_and_write(
        training,
        validation,
        out,
        base=base,
        config=config,
        automatic=automatic,
        corpus=load_corpus(corpus) if corpus and not (training or validation) else None,
        keep_worse=keep_worse,
        resume=resume,
        say=say,
    )
    if not is_main_process():
        return
    end_with(summary(report), report.folder)
    if make_zip:
        click.echo(f"zip         {zip_model_folder(out)}")


def _refuse_unknown_reports(report_to: tuple[str, ...]) -> None:
    from transformers.integrations.integration_utils import get_available_reporting_integrations

    usable: list[str] = get_available_reporting_integrations()  # type: ignore[no-untyped-call]
    if unknown := [name for name in report_to if name not in (*usable, "all", "none")]:
        raise TrainingError(f"--report-to {unknown[0]!r}: not installed, or unknown; here {', '.join(usable)} would do")


def _refuse_unusable_device(device: str | None) -> None:
    import torch

    if device is None:
        return
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError if torch was built without it
        raise TrainingError(
            f"--device {device!r}: nothing that torch can compute on here; give cpu, or leave it out"
        ) from error


def _explicit_settings(
    recipe: str | None, settings: dict[str, Any], automatic_options: list[str]
) -> dict[str, Any] | None:
    """Return the settings of an explicit run, or None for the automatic recipe; a mixture of both is refused.

    Args:
        recipe: Value of --recipe; None if not given.
        settings: Settings of an explicit run; None for those not given.
        automatic_options: Options given that belong to the automatic recipe.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
    if recipe == "auto" and given:
        raise click.UsageError(f"--recipe auto chooses {named} itself; leave that out, or --recipe")
    if not given and recipe != "explicit":
        return None
    if automatic_options:
        raise click.UsageError(
            f"{', '.join(automatic_options)}: only with --recipe auto, and {named or '--recipe explicit'} asks for an "
            "explicit run"
        )
    return given


@click.command(cls=EmbtuneCommand)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write the files into.")
def sample(out: Path) -> None:
    """Write the bundled sample, to try things with.

    It is people's questions over Python's language reference, in three splits.
    """
    from docsgpt_embtune.data.sample import write_sample

    for split, dataset in write_sample(out).items():
        click.echo(f"{out / split}.json: {dataset.describe()}")
