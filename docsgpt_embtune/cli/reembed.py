"""`embtune reembed` and `doctor`: the vectors in DocsGPT's stores."""

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from docsgpt_embtune.cli.common import EXIT_NO, EmbtuneCommand, hide_loading_bars
from docsgpt_embtune.errors import DeploymentError
from docsgpt_embtune.stopping import told_when_stopped
from docsgpt_embtune.urls import shown
from docsgpt_embtune.wording import clock, counted, megabytes

if TYPE_CHECKING:
    from docsgpt_embtune.deployment.deployed_model import DeployedModel


def store_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where stored chunks are."""
    for option in (
        click.option("--indexes", type=click.Path(path_type=Path), help="DocsGPT's indexes folder, or one source's."),
        click.option("--pgvector", metavar="URI", help="PostgreSQL with DocsGPT's vectors, e.g. postgresql://…"),
        click.option("--qdrant", metavar="URL|FOLDER", help="Qdrant with DocsGPT's collection; needs --env."),
        click.option("--milvus", metavar="URI|FILE", help="Milvus with DocsGPT's collection; needs --env."),
        click.option(
            "--env", "env_file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="DocsGPT's .env."
        ),
    ):
        function = option(function)
    return function


@click.command(cls=EmbtuneCommand)
@click.option("--model", help="Tuned folder, any other model folder, a hub name, `bundled`, or URL#MODEL.")
@store_options
@click.option("--served-at", metavar="URL#NAME", help="Where DocsGPT is to ask for it: `embtune serve`'s; for --env.")
@click.option("--dry-run", is_flag=True, help="Say what would happen, how long it takes and how much disk it needs.")
@click.option("--rollback", is_flag=True, help="Put back the vectors and the .env lines of before.")
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
    from docsgpt_embtune.deployment import reembed as steps
    from docsgpt_embtune.deployment.faiss_store import FaissStore

    if rollback and dry_run:
        raise click.UsageError("--dry-run is of a re-embedding, and not of a --rollback; leave one of them out")
    environment = _environment(env_file, indexes)
    hide_loading_bars()
    key = _secret(environment, "EMBEDDINGS_KEY")
    given = _given(faiss=indexes, **databases)
    _require_stores(environment, given, also_switched=rollback)
    if rollback:
        _roll_back(_stores(environment, indexes, **databases), environment, _opened(model, key=key) if model else None)
        return
    if model is None:
        raise click.UsageError("--model is needed, unless it is a --rollback")
    stores = _stores(environment, indexes, **databases)
    serving = _opened(model, key=key, served_at=served_at)
    if environment is not None:
        _require_known_address(environment, serving)
    if dry_run:
        settings = steps.settings_for(stores, serving)
        if environment is not None:
            environment.require_replaceable(settings)
        _print_plans(steps.plan(stores, serving))
        _print_changes(environment, settings)
        _print_what_it_needs(serving)
        return
    if indexes is not None:
        steps.require_disk([store for store in stores if isinstance(store, FaissStore)], serving, indexes)
    with told_when_stopped(_tell_how_to_go_on):
        swapped = steps.reembed(stores, serving, environment)
    for store in stores:
        click.echo(f"{store.label}: {'on the model now' if store in swapped else 'was on the model already'}")
    if environment is not None:
        environment.keep_stores(given)
    else:
        click.echo(f"\nset in DocsGPT's .env:  {serving.settings_in_words}")
    _print_what_it_needs(serving)
    _print_what_is_in_force(environment, stores)


def _tell_how_to_go_on(stop: BaseException) -> None:
    click.echo("stopped: no vector is lost, and the same command goes on from here", err=True)
    for note in getattr(stop, "__notes__", ()):
        click.echo(f"but {note}", err=True)


def _roll_back(stores: list[Any], environment: Any, model: "DeployedModel | None") -> None:
    from docsgpt_embtune.deployment.reembed import roll_back

    if environment is not None and model is None and environment.get_switched("EMBEDDINGS_BASE_URL"):
        click.echo("note: sources that were uploaded since are found with --model alone, or by doctor", err=True)
    rolled_back = roll_back(stores, environment, model)
    for store in stores:
        untouched = "nothing to take back; if it was uploaded since, embed it with the old model"
        click.echo(f"{store.label}: {'rolled back' if store in rolled_back else untouched}")
    if environment is None:
        click.echo("\nset EMBEDDINGS_NAME, and EMBEDDINGS_BASE_URL if any, in DocsGPT's .env back to what they were")
    _print_what_is_in_force(environment, stores)


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


def _print_what_is_in_force(environment: Any, stores: list[Any]) -> None:
    from docsgpt_embtune.deployment.collection_store import CollectionStore

    if environment is not None:
        collections = [store.setting for store in stores if isinstance(store, CollectionStore)]
        for name in ("EMBEDDINGS_BASE_URL", "EMBEDDINGS_NAME", *collections):
            if name != "EMBEDDINGS_BASE_URL" or environment.get(name):
                click.echo(f"{environment.path}: {name}={_setting(environment, name)}")
    click.echo("restart DocsGPT's web process and its Celery worker")


def _print_changes(environment: Any, settings: Mapping[str, str]) -> None:
    if environment is not None:
        for name, value in settings.items():
            click.echo(f"{environment.path}: {name}={shown(value)} instead of {_setting(environment, name)}")


def _environment(env_file: Path | None, indexes: Path | None) -> Any:
    """Open the `.env` that goes with all sources of these indexes; None if none is given."""
    from docsgpt_embtune.deployment.coverage import require_all_sources
    from docsgpt_embtune.deployment.environment_file import EnvironmentFile

    environment = EnvironmentFile(env_file) if env_file else None
    if environment is not None and indexes is not None:
        require_all_sources(environment, indexes)
    return environment


def _given(**stores: Any) -> list[str]:
    return [name for name, where in stores.items() if where is not None]


def _require_stores(environment: Any, given: list[str], *, also_switched: bool = False) -> None:
    from docsgpt_embtune.deployment.coverage import require_searched_store, require_switched_stores

    if environment is not None:
        require_searched_store(environment, given)
        if also_switched:
            require_switched_stores(environment, given)


def _stores(
    environment: Any,
    indexes: Path | None,
    pgvector: str | None,
    qdrant: str | None,
    milvus: str | None,
    *,
    indexes_may_be_none: bool = False,
) -> list[Any]:
    from docsgpt_embtune.deployment.faiss_folder import find_index_folders
    from docsgpt_embtune.deployment.faiss_store import FaissStore

    stores: list[Any] = []
    opened = click.get_current_context().with_resource
    if indexes is not None:
        folders = find_index_folders(indexes, may_be_none=indexes_may_be_none)
        stores += [FaissStore(folder) for folder in folders]
    if pgvector is not None:
        from docsgpt_embtune.deployment.pgvector_store import pgvector_stores

        stores += opened(pgvector_stores(pgvector))
    if (qdrant or milvus) and environment is None:
        raise click.UsageError("--qdrant and --milvus need --env: DocsGPT's .env names the collection that is in force")
    if qdrant is not None:
        from docsgpt_embtune.deployment.collection_store import CollectionStore
        from docsgpt_embtune.deployment.qdrant_collections import open_qdrant

        stores.append(CollectionStore(opened(open_qdrant(qdrant, _secret(environment, "QDRANT_API_KEY"))), environment))
    if milvus is not None:
        from docsgpt_embtune.deployment.collection_store import CollectionStore
        from docsgpt_embtune.deployment.milvus_collections import open_milvus

        stores.append(CollectionStore(opened(open_milvus(milvus, _secret(environment, "MILVUS_TOKEN"))), environment))
    if pgvector is None and environment is not None and _names_postgres(environment):
        click.echo("note: GraphRAG, if in use, has its entities' vectors in PostgreSQL: give --pgvector, too", err=True)
    if not stores and not indexes_may_be_none:
        raise click.UsageError("say where the chunks are: --indexes, --pgvector, --qdrant or --milvus")
    return stores


def _names_postgres(environment: Any) -> bool:
    return any(environment.get(name) for name in ("PGVECTOR_CONNECTION_STRING", "POSTGRES_URI"))


def _secret(environment: Any, name: str) -> str | None:
    return os.environ.get(name) or (environment.get(name) if environment is not None else None)


def _setting(environment: Any, name: str) -> str:
    return shown(environment.get(name) or "(not set)")


def _print_plans(plans: list[Any]) -> None:
    for plan in plans:
        if plan.done:
            click.echo(f"{plan.label}: {counted(plan.chunks, 'chunk')}, on the model already")
            continue
        width = (
            str(plan.width_after)
            if plan.width_before == plan.width_after
            else (f"{plan.width_before} to {plan.width_after}")
        )
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

    They take as much room as the new ones. In Qdrant and Milvus, texts stand beside them, of deleted sources, too.
    In --indexes, what is left of deleted sources goes with them. With --env, the record of its old lines goes as well.
    """
    from docsgpt_embtune.deployment import reembed as steps
    from docsgpt_embtune.deployment.faiss_folder import delete_remains, find_remains

    environment = _environment(env_file, indexes)
    _require_stores(environment, _given(faiss=indexes, **databases), also_switched=True)
    hide_loading_bars()
    remains = find_remains(indexes) if indexes is not None else []
    stores = _stores(environment, indexes, **databases, indexes_may_be_none=bool(remains))
    kept = {store.label: store.kept() for store in stores} | (
        {str(environment.path.parent): environment.kept()} if environment is not None else {}
    )
    kept |= {str(folder): "what is left of a source that was deleted" for folder in remains}
    for label, what in kept.items():
        if what:
            click.echo(f"{label}: {what}")
    if not any(kept.values()):
        click.echo("nothing is kept")
        return
    if not yes:
        click.confirm("delete it, and the way back?", abort=True)
    steps.forget(stores, environment)
    for folder in remains:
        delete_remains(folder)
    click.echo("deleted; embtune reembed --rollback has nothing to go back to now")


@click.command(cls=EmbtuneCommand)
@click.option("--model", required=True, help="What EMBEDDINGS_NAME is, or is to be; or a server's, as URL#MODEL.")
@store_options
@click.option("--docsgpt", type=click.Path(path_type=Path), help="DocsGPT's folder: read through its own store.")
@click.option("--source", "source_ids", multiple=True, help="Id of a source, with --docsgpt. Repeatable.")
@click.option("--sample", type=click.IntRange(min=1), default=64, show_default=True, help="Chunks compared per source.")
def doctor(
    model: str,
    env_file: Path | None,
    docsgpt: Path | None,
    source_ids: tuple[str, ...],
    sample: int,
    indexes: Path | None,
    **databases: Any,
) -> None:
    """Say what is wrong with stored vectors.

    A sample is embedded again. Exit code 1 if anything is wrong.
    With --env, DocsGPT's .env is examined, too. With --docsgpt, any store is examined from inside DocsGPT.
    The key of a server's model comes from EMBEDDINGS_KEY, in the environment or in the .env.
    """
    from docsgpt_embtune.deployment.doctor import examine, examine_in_host
    from docsgpt_embtune.deployment.environment_file import EnvironmentFile
    from docsgpt_embtune.deployment.host_source import open_host_sources

    if bool(docsgpt) != bool(source_ids):
        raise click.UsageError("--docsgpt and --source belong together")
    environment = EnvironmentFile(env_file) if env_file else None
    hide_loading_bars()
    serving = _opened(model, key=_secret(environment, "EMBEDDINGS_KEY"))
    if docsgpt is not None:
        sources = open_host_sources(docsgpt, source_ids)
        examined = [examine_in_host(source, serving, sample) for source in sources]
    else:
        _require_stores(environment, _given(faiss=indexes, **databases))
        examined = [examine(store, serving, sample) for store in _stores(environment, indexes, **databases)]
    findings = [finding for found in examined for finding in found]
    if environment is not None:
        findings += _findings_of_settings(environment, serving, model)
    for finding in findings:
        click.echo(f"{finding.problem:<11} {finding.where}\n            {finding.message}")
    click.echo(f"{counted(len(examined), 'source')} examined, {len(findings) or 'nothing'} wrong")
    if findings:
        sys.exit(EXIT_NO)


def _opened(model: str, *, key: str | None = None, served_at: str | None = None) -> "DeployedModel":
    """Load a model of this machine, or open a server's for as long as the command runs."""
    from docsgpt_embtune.deployment.deployed_model import DeployedModel, load_deployed_model
    from docsgpt_embtune.remote_model import RemoteModel

    address = RemoteModel.named(served_at) if served_at else None
    remote = RemoteModel.found(model)
    if remote is None:
        serving: DeployedModel = load_deployed_model(model)
    else:
        server = remote.load(partial(click.echo, err=True), key=key)
        opened = click.get_current_context().with_resource(closing(server))
        serving = DeployedModel(remote.name, remote.document_fingerprint, opened)
    return replace(serving, served_as=address.settings) if address else serving


def _require_known_address(environment: Any, serving: "DeployedModel") -> None:
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


def _findings_of_settings(environment: Any, serving: "DeployedModel", model: str) -> list[Any]:
    from docsgpt_embtune.deployment.deployed_model import FolderModel
    from docsgpt_embtune.deployment.doctor import examine_settings, examine_settings_for_server
    from docsgpt_embtune.remote_model import RemoteModel

    if isinstance(serving, FolderModel):
        return examine_settings(environment, serving, called=model)
    remote = RemoteModel.found(model)
    return examine_settings_for_server(environment, remote) if remote else []
