"""The options that say where stored chunks are, for the deployment commands, and the stores that they open."""

import os
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from docsgpt_embtune.cli.options import together

if TYPE_CHECKING:
    from docsgpt_embtune.deployment.deployed_model import DeployedModel
    from docsgpt_embtune.deployment.environment_file import EnvironmentFile
    from docsgpt_embtune.deployment.stores import ChunkStore


store_options = together(
    click.option("--indexes", type=click.Path(path_type=Path), help="DocsGPT's indexes folder, or one source's."),
    click.option("--pgvector", metavar="URI", help="PostgreSQL with DocsGPT's vectors, e.g. postgresql://…"),
    click.option("--qdrant", metavar="URL|FOLDER", help="Qdrant with DocsGPT's collection; needs --env."),
    click.option("--milvus", metavar="URI|FILE", help="Milvus with DocsGPT's collection; needs --env."),
    click.option(
        "--env", "env_file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="DocsGPT's .env."
    ),
)


def open_environment(env_file: Path | None, indexes: Path | None) -> "EnvironmentFile | None":
    """Open the `.env`, and check that the indexes given cover all sources; None if no `.env` is given."""
    from docsgpt_embtune.deployment.coverage import require_all_sources
    from docsgpt_embtune.deployment.environment_file import EnvironmentFile

    environment = EnvironmentFile(env_file) if env_file else None
    if environment is not None and indexes is not None:
        require_all_sources(environment, indexes)
    return environment


def names_given(**stores: Any) -> list[str]:
    """Return the names of the stores whose locations are given."""
    return [name for name, where in stores.items() if where is not None]


def require_stores(environment: "EnvironmentFile | None", given: list[str], *, also_switched: bool = False) -> None:
    """Check that no store is left out that `.env` names or, with `also_switched`, that was switched along with it."""
    from docsgpt_embtune.deployment.coverage import require_searched_store, require_switched_stores

    if environment is not None:
        require_searched_store(environment, given)
        if also_switched:
            require_switched_stores(environment, given)


def open_stores(
    environment: "EnvironmentFile | None",
    indexes: Path | None,
    pgvector: str | None,
    qdrant: str | None,
    milvus: str | None,
    *,
    indexes_may_be_none: bool = False,
) -> "list[ChunkStore]":
    """Open the given stores for as long as the command runs."""
    from docsgpt_embtune.deployment.faiss_folder import find_index_folders
    from docsgpt_embtune.deployment.faiss_store import FaissStore

    stores: list[ChunkStore] = []
    opened = click.get_current_context().with_resource
    if indexes is not None:
        folders = find_index_folders(indexes, may_be_none=indexes_may_be_none)
        stores += [FaissStore(folder) for folder in folders]
    if pgvector is not None:
        from docsgpt_embtune.deployment.pgvector_store import pgvector_stores

        stores += opened(pgvector_stores(pgvector))
    if qdrant is not None or milvus is not None:
        from docsgpt_embtune.deployment.collection_store import CollectionStore
        from docsgpt_embtune.deployment.milvus_collections import open_milvus
        from docsgpt_embtune.deployment.qdrant_collections import open_qdrant

        if environment is None:
            raise click.UsageError(
                "--qdrant and --milvus need --env: DocsGPT's .env names the collection that is in force"
            )
        if qdrant is not None:
            in_qdrant = opened(open_qdrant(qdrant, secret(environment, "QDRANT_API_KEY")))
            stores.append(CollectionStore(in_qdrant, environment))
        if milvus is not None:
            in_milvus = opened(open_milvus(milvus, secret(environment, "MILVUS_TOKEN")))
            stores.append(CollectionStore(in_milvus, environment))
    if pgvector is None and environment is not None and _names_postgres(environment):
        click.echo("note: GraphRAG, if in use, has its entities' vectors in PostgreSQL: give --pgvector, too", err=True)
    if not stores and not indexes_may_be_none:
        raise click.UsageError("say where the chunks are: --indexes, --pgvector, --qdrant or --milvus")
    return stores


def _names_postgres(environment: "EnvironmentFile") -> bool:
    return any(environment.get(name) for name in ("PGVECTOR_CONNECTION_STRING", "POSTGRES_URI"))


def secret(environment: "EnvironmentFile | None", name: str) -> str | None:
    """Return a key from the environment, or else from `.env`."""
    return os.environ.get(name) or (environment.get(name) if environment is not None else None)


def open_model(model: str, *, key: str | None = None, served_at: str | None = None) -> "DeployedModel":
    """Load a local model, or connect to a server's for as long as the command runs."""
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
