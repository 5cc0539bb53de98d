"""`embtune`: parse, call the library once, print. Exit codes: 0 done, 1 done but the answer is no, 2 bad input."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

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


def hide_loading_bars() -> None:
    """Keep the bars of what takes no time from standing among those that tell the time left."""
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


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

    hide_loading_bars()
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


PYTHON_OPTION = click.option(
    "--python",
    type=click.Path(path_type=Path),
    default=Path(sys.executable),
    show_default="this one",
    help="The interpreter that runs DocsGPT, e.g. /venv/bin/python.",
)


@main.command()
@PYTHON_OPTION
@click.option("--yes", is_flag=True, help="Write without asking.")
def install(python: Path, yes: bool) -> None:
    """Let an unmodified DocsGPT load tuned folders through the plugin, web process and worker alike."""
    from docsgpt_embtune.deployment.install import PTH_LINE, hook_status, install_hook

    status = hook_status(python)
    if status.current:
        click.echo(f"already installed: {status.pth}")
        return
    click.echo(f"to be written to {status.pth}:\n\n{PTH_LINE}")
    if not yes:
        click.confirm("write it?", abort=True)
    install_hook(python)
    click.echo("installed; restart DocsGPT's web process and its Celery worker (EMBTUNE_HOOK=off turns the hook off)")


@main.command()
@PYTHON_OPTION
def uninstall(python: Path) -> None:
    """Remove what `install` wrote."""
    from docsgpt_embtune.deployment.install import hook_status, uninstall_hook

    if not hook_status(python).installed:
        click.echo("not installed")
        return
    click.echo(f"removed {uninstall_hook(python).pth}; restart DocsGPT's web process and its Celery worker")


@main.command()
@PYTHON_OPTION
def status(python: Path) -> None:
    """Say whether the hook is in force; exit code 1 if it is not."""
    from docsgpt_embtune.deployment.install import hook_status

    found = hook_status(python)
    click.echo(f"environment   {python}")
    click.echo(f"hook          {'installed' if found.installed else 'not installed'}: {found.pth}")
    if found.installed and not found.current:
        click.echo("              of another version; run: embtune install")
    click.echo(f"package       {'importable' if found.importable else f'cannot be imported: {found.problem}'}")
    if not (found.current and found.importable):
        sys.exit(EXIT_NO)


MODEL_OPTION = click.option("--model", help="Tuned folder, any other model folder, a hub name, or `bundled`.")


def store_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where stored chunks are."""
    for option in (
        click.option("--indexes", type=click.Path(path_type=Path), help="DocsGPT's indexes folder, or one source's."),
        click.option("--pgvector", metavar="URI", help="PostgreSQL with DocsGPT's vectors, e.g. postgresql://…"),
    ):
        function = option(function)
    return function


@main.command()
@MODEL_OPTION
@store_options
@click.option("--env", "env_file", type=click.Path(path_type=Path), help="DocsGPT's .env: switched with the vectors.")
@click.option("--dry-run", is_flag=True, help="Say what would happen, how long it takes and how much disk it needs.")
@click.option("--rollback", is_flag=True, help="Put back the vectors and the .env line of before.")
def reembed(
    model: str | None, indexes: Path | None, pgvector: str | None, env_file: Path | None, dry_run: bool, rollback: bool
) -> None:
    """Embed stored chunks anew with the tuned model: built beside the old, verified, swapped, reversible."""
    from docsgpt_embtune.deployment import reembed as steps
    from docsgpt_embtune.deployment.environment_file import EnvironmentFile
    from docsgpt_embtune.deployment.serving import load_serving_model

    environment = EnvironmentFile(env_file) if env_file else None
    stores = _stores(indexes, pgvector)
    if rollback:
        steps.roll_back(stores, environment)
        click.echo(f"rolled back: {', '.join(store.label for store in stores)}")
        click.echo("restart DocsGPT's web process and its Celery worker")
        return
    if model is None:
        raise click.UsageError("--model is needed, unless it is a --rollback")
    serving = load_serving_model(model)
    if dry_run:
        _print_plans(steps.plan(stores, serving))
        return
    if indexes is not None:
        steps.require_disk(stores, serving, indexes)
    swapped = steps.reembed(stores, serving, environment)
    for store in stores:
        click.echo(f"{store.label}: {'on the model now' if store in swapped else 'was on the model already'}")
    if environment is None:
        click.echo(f"\nset in DocsGPT's .env:  EMBEDDINGS_NAME={serving.folder}")
    click.echo("restart DocsGPT's web process and its Celery worker")


def _stores(indexes: Path | None, pgvector: str | None) -> list[Any]:
    from docsgpt_embtune.deployment.faiss_folder import find_index_folders
    from docsgpt_embtune.deployment.faiss_store import FaissStore

    stores: list[Any] = []
    if indexes is not None:
        stores += [FaissStore(folder) for folder in find_index_folders(indexes)]
    if pgvector is not None:
        from docsgpt_embtune.deployment.pgvector_store import pgvector_stores

        stores += click.get_current_context().with_resource(pgvector_stores(pgvector))
    if not stores:
        raise click.UsageError("say where the chunks are: --indexes or --pgvector")
    return stores


def _print_plans(plans: list[Any]) -> None:
    for plan in plans:
        if plan.done:
            click.echo(f"{plan.label}: {plan.chunks:,} chunks, on the model already")
            continue
        minutes, seconds = divmod(round(plan.seconds), 60)
        width = (
            str(plan.width_after)
            if plan.width_before == plan.width_after
            else (f"{plan.width_before} to {plan.width_after}")
        )
        click.echo(
            f"{plan.label}: {plan.chunks:,} chunks, {plan.remaining:,} different texts to embed, width {width}, "
            f"about {minutes} min {seconds:02d} s, {plan.disk_bytes / 1e6:,.0f} MB of disk"
        )


@main.command()
@click.option("--model", required=True, help="What EMBEDDINGS_NAME is, or is to be.")
@store_options
@click.option("--env", "env_file", type=click.Path(path_type=Path), help="DocsGPT's .env: checked, too.")
@click.option("--sample", type=click.IntRange(min=1), default=64, show_default=True, help="Chunks compared per source.")
def doctor(model: str, indexes: Path | None, pgvector: str | None, env_file: Path | None, sample: int) -> None:
    """Say what is wrong with stored vectors, by embedding a sample again; exit code 1 if anything is."""
    from docsgpt_embtune.deployment.doctor import examine, examine_settings
    from docsgpt_embtune.deployment.environment_file import EnvironmentFile
    from docsgpt_embtune.deployment.serving import load_serving_model

    stores = _stores(indexes, pgvector)
    serving = load_serving_model(model)
    findings = [finding for store in stores for finding in examine(store, serving, sample)]
    if env_file is not None:
        findings += examine_settings(EnvironmentFile(env_file), serving)
    for finding in findings:
        click.echo(f"{finding.problem:<11} {finding.where}\n            {finding.message}")
    click.echo(f"{len(stores)} sources examined, {len(findings) or 'nothing'} wrong")
    if findings:
        sys.exit(EXIT_NO)
