"""`embtune reembed` and `forget`: replace the vectors in DocsGPT's stores, roll back, and delete the old vectors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from docsgpt_embtune.cli.command import EmbtuneCommand
from docsgpt_embtune.cli.stores import (
    names_given,
    open_environment,
    open_model,
    open_stores,
    require_stores,
    secret,
    store_options,
)
from docsgpt_embtune.errors import DeploymentError
from docsgpt_embtune.stopping import told_when_stopped
from docsgpt_embtune.urls import shown
from docsgpt_embtune.wording import clock, counted, megabytes

if TYPE_CHECKING:
    from docsgpt_embtune.deployment.deployed_model import DeployedModel
    from docsgpt_embtune.deployment.environment_file import EnvironmentFile
    from docsgpt_embtune.deployment.reembed import ReembedPlan
    from docsgpt_embtune.deployment.stores import ChunkStore


@click.command(cls=EmbtuneCommand)
@click.option("--model", help="Tuned folder, any other model folder, a hub name, `bundled`, or URL#MODEL.")
@store_options
@click.option("--served-at", metavar="URL#NAME", help="Where DocsGPT is to ask for it: `embtune serve`'s; for --env.")
@click.option("--dry-run", is_flag=True, help="Say what would happen, how long it takes and how much disk it needs.")
@click.option(
    "--rollback",
    is_flag=True,
    help="Put back the vectors and the .env lines of before; with --dry-run, only say what would go back.",
)
def reembed(
    model: str | None,
    env_file: Path | None,
    served_at: str | None,
    dry_run: bool,
    rollback: bool,
    indexes: Path | None,
    **databases: Any,
) -> None:
    """Embed stored chunks anew with the tuned model, reversibly.

    The new vectors are built beside the old, verified, and swapped.
    With --env, DocsGPT's .env is switched with the vectors: to the model's folder, or to the server that has it.
    The key of a server's model comes from EMBEDDINGS_KEY, in the environment or in the .env.
    """
    environment = open_environment(env_file, indexes)
    if environment is not None and not dry_run:
        click.get_current_context().with_resource(environment.alone())
    key = secret(environment, "EMBEDDINGS_KEY")
    given = names_given(faiss=indexes, **databases)
    require_stores(environment, given, also_switched=rollback)
    if model is None and not rollback:
        raise click.UsageError("--model is needed, unless it is a --rollback")
    stores = open_stores(environment, indexes, **databases)
    serving = open_model(model, key=key, served_at=served_at) if model else None
    if serving is None or rollback:
        _roll_back(stores, environment, serving, dry_run=dry_run)
        return
    if environment is not None:
        _require_known_address(environment, serving)
    if dry_run:
        _tell_the_plan(stores, environment, serving)
        return
    _switch(stores, environment, serving, indexes)
    if environment is not None:
        environment.keep_stores(given)
    else:
        click.echo(f"\nset in DocsGPT's .env:  {serving.settings_in_words}")
    _print_what_it_needs(serving)
    _print_what_is_in_force(environment, stores)


def _tell_the_plan(stores: "list[ChunkStore]", environment: "EnvironmentFile | None", serving: "DeployedModel") -> None:
    from docsgpt_embtune.deployment import reembed as steps
    from docsgpt_embtune.deployment.file_lock import refuse_windows

    refuse_windows()
    settings = steps.settings_for(stores, serving)
    if environment is not None:
        environment.require_replaceable(settings)
    _print_plans(steps.plan(stores, serving))
    _print_what_gives_way(stores, serving)
    _print_changes(environment, settings)
    _print_what_it_needs(serving)


def _switch(
    stores: "list[ChunkStore]",
    environment: "EnvironmentFile | None",
    serving: "DeployedModel",
    indexes: Path | None,
) -> None:
    from docsgpt_embtune.deployment import reembed as steps
    from docsgpt_embtune.deployment.faiss_store import FaissStore

    if indexes is not None:
        steps.require_disk([store for store in stores if isinstance(store, FaissStore)], serving, indexes)
    _print_what_gives_way(stores, serving)
    with told_when_stopped(_tell_how_to_go_on):
        swapped = steps.reembed(stores, serving, environment)
    for store in stores:
        click.echo(f"{store.label}: {'on the model now' if store in swapped else 'was on the model already'}")


def _tell_how_to_go_on(stop: BaseException) -> None:
    click.echo("stopped: no vector is lost, and the same command goes on from here", err=True)
    for note in getattr(stop, "__notes__", ()):
        click.echo(f"but {note}", err=True)


def _roll_back(
    stores: "list[ChunkStore]",
    environment: "EnvironmentFile | None",
    model: "DeployedModel | None",
    *,
    dry_run: bool,
) -> None:
    from docsgpt_embtune.deployment.reembed import plan_rollback, roll_back

    if environment is not None and model is None and environment.get_switched("EMBEDDINGS_BASE_URL"):
        click.echo("note: sources that were uploaded since are found with --model alone, or by doctor", err=True)
    if dry_run:
        rollback = plan_rollback(stores, environment, model)
        _print_rolled_back(stores, rollback.stores, "would go back")
        _print_changes(environment, rollback.settings)
        return
    _print_rolled_back(stores, roll_back(stores, environment, model), "rolled back")
    if environment is None:
        click.echo("\nset EMBEDDINGS_NAME, and EMBEDDINGS_BASE_URL if any, in DocsGPT's .env back to what they were")
    _print_what_is_in_force(environment, stores)


def _print_rolled_back(stores: "Sequence[ChunkStore]", rolled_back: "Sequence[ChunkStore]", what: str) -> None:
    untouched = "nothing to take back; if it was uploaded since, embed it with the old model"
    for store in stores:
        click.echo(f"{store.label}: {what if store in rolled_back else untouched}")


def _print_what_gives_way(stores: "list[ChunkStore]", serving: "DeployedModel") -> None:
    from docsgpt_embtune.deployment.faiss_store import FaissStore

    if labels := [store.label for store in stores if store.replaces_kept(serving)]:
        click.echo(
            f"{', '.join(labels)}: the vectors that are kept from before the last switch give way to those in force "
            "now; a rollback goes back to these, and no farther"
        )
    for store in stores:
        if isinstance(store, FaissStore) and not store.is_on(serving) and (kind := store.other_kind()):
            click.echo(
                f"{store.label}: the {kind} gives way to an IndexFlatL2, as DocsGPT makes it, which compares questions "
                "with every chunk; a rollback brings it back"
            )


def _print_what_it_needs(serving: "DeployedModel") -> None:
    from docsgpt_embtune.deployment.deployed_model import FolderModel
    from docsgpt_embtune.serving.keywords import load_keywords

    if not isinstance(serving, FolderModel) or serving.served_as:
        return
    if load_keywords(serving.folder):
        click.echo("keywords in the vectors: DocsGPT's Python needs the plugin (embtune install), or searches fail")
    elif reading := serving.exported_reading:
        click.echo(
            f"chunks are read otherwise than by DocsGPT itself ({reading}): its Python needs the plugin (embtune "
            "install), or what is uploaded from now on gets other vectors"
        )


def _print_what_is_in_force(environment: "EnvironmentFile | None", stores: "list[ChunkStore]") -> None:
    from docsgpt_embtune.deployment.collection_store import CollectionStore

    if environment is not None:
        collections = [store.setting for store in stores if isinstance(store, CollectionStore)]
        for name in ("EMBEDDINGS_BASE_URL", "EMBEDDINGS_NAME", *collections):
            if name != "EMBEDDINGS_BASE_URL" or environment.get(name):
                click.echo(f"{environment.path}: {name}={_shown(environment.get(name))}")
    click.echo("restart DocsGPT's web process and its Celery worker")


def _print_changes(environment: "EnvironmentFile | None", settings: Mapping[str, str | None]) -> None:
    if environment is not None:
        for name, value in settings.items():
            before = environment.get(name)
            change = "as it is" if value == before else f"instead of {_shown(before)}"
            click.echo(f"{environment.path}: {name}={_shown(value)} {change}")


def _shown(value: str | None) -> str:
    return shown(value or "(not set)")


def _print_plans(plans: "Sequence[ReembedPlan]") -> None:
    for plan in plans:
        if plan.done:
            click.echo(f"{plan.label}: {counted(plan.chunks, 'chunk')}, on the model already")
            continue
        width = f"{plan.width_before} to {plan.width_after}"
        if plan.width_before == plan.width_after:
            width = str(plan.width_after)
        click.echo(
            f"{plan.label}: {counted(plan.chunks, 'chunk')}, {counted(plan.remaining, 'different text')} to embed, "
            f"width {width}, about {clock(plan.seconds)}, {megabytes(plan.disk_bytes)} of disk"
        )
    if len(plans) > 1:
        seconds, disk_bytes = sum(plan.seconds for plan in plans), sum(plan.disk_bytes for plan in plans)
        click.echo(f"in all about {clock(seconds)}, {megabytes(disk_bytes)} of disk")


@click.command(cls=EmbtuneCommand)
@store_options
@click.option("--yes", is_flag=True, help="Delete without asking.")
def forget(env_file: Path | None, yes: bool, indexes: Path | None, **databases: Any) -> None:
    """Delete the old vectors that are kept for a rollback.

    They take as much room as the new ones. In Qdrant and Milvus, texts stand beside them, of deleted sources, too, and
    the collections of all earlier switches go with them.
    In --indexes, what is left of deleted sources goes with them. With --env, the record of its old lines goes as well.
    """
    from docsgpt_embtune.deployment import reembed as steps
    from docsgpt_embtune.deployment.faiss_folder import delete_remains, find_remains

    environment = open_environment(env_file, indexes)
    if environment is not None:
        click.get_current_context().with_resource(environment.alone())
    require_stores(environment, names_given(faiss=indexes, **databases), also_switched=True)
    remains = find_remains(indexes) if indexes is not None else []
    stores = open_stores(environment, indexes, **databases, indexes_may_be_none=bool(remains))
    kept = {store.label: store.kept() for store in stores} | (
        {str(environment.path.parent): environment.kept()} if environment is not None else {}
    )
    kept |= {str(folder): "what is left of a source that was deleted" for folder in remains}
    for label, what in kept.items():
        if what:
            click.echo(f"{label}: {what}")
    for store in stores:
        if left := store.unfinished():
            click.echo(
                f"{store.label}: {left}: of a run that did not finish, or another DocsGPT's, and not deleted here; "
                "delete it in the database if nothing uses it"
            )
    if not any(kept.values()):
        click.echo("nothing is kept")
        return
    if not yes:
        click.confirm("delete it, and the way back?", abort=True)
    steps.forget(stores, environment)
    for folder in remains:
        delete_remains(folder)
    click.echo("deleted; embtune reembed --rollback has nothing to go back to now")


def _require_known_address(environment: "EnvironmentFile", serving: "DeployedModel") -> None:
    if not serving.settings:
        raise DeploymentError(
            f"{serving.name}: a server's model, and DocsGPT may reach that server, or `embtune serve`, under another "
            "address; give it with --served-at URL#NAME, or leave out --env"
        )
    if (url := environment.get("EMBEDDINGS_BASE_URL")) and not serving.served_as:
        raise DeploymentError(
            f"{environment.path}: EMBEDDINGS_BASE_URL={shown(url)}, so that DocsGPT asks that server and goes by no "
            "folder; give --served-at URL#NAME where `embtune serve` has the new model, or leave out --env"
        )
