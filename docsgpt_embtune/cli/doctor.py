"""`embtune doctor`: find what is wrong with stored vectors."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from docsgpt_embtune.cli.command import EXIT_NO, EmbtuneCommand
from docsgpt_embtune.cli.stores import names_given, open_model, open_stores, require_stores, secret, store_options
from docsgpt_embtune.wording import counted

if TYPE_CHECKING:
    from docsgpt_embtune.deployment.deployed_model import DeployedModel
    from docsgpt_embtune.deployment.doctor import Finding
    from docsgpt_embtune.deployment.environment_file import EnvironmentFile


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
    serving = open_model(model, key=secret(environment, "EMBEDDINGS_KEY"))
    if docsgpt is not None:
        sources = open_host_sources(docsgpt, source_ids)
        examined = [examine_in_host(source, serving, sample) for source in sources]
    else:
        require_stores(environment, names_given(faiss=indexes, **databases))
        examined = [examine(store, serving, sample) for store in open_stores(environment, indexes, **databases)]
    findings = [finding for found in examined for finding in found]
    if environment is not None:
        findings += _findings_of_settings(environment, serving, model)
    for finding in findings:
        click.echo(f"{finding.problem:<11} {finding.where}\n            {finding.message}")
    wrong = counted(len(findings), "thing") if findings else "nothing"
    click.echo(f"{counted(len(examined), 'source')} examined, {wrong} wrong")
    if findings:
        sys.exit(EXIT_NO)


def _findings_of_settings(environment: "EnvironmentFile", serving: "DeployedModel", model: str) -> "list[Finding]":
    from docsgpt_embtune.deployment.deployed_model import FolderModel
    from docsgpt_embtune.deployment.doctor import examine_settings, examine_settings_for_server
    from docsgpt_embtune.remote_model import RemoteModel

    if isinstance(serving, FolderModel):
        return examine_settings(environment, serving, called=model)
    remote = RemoteModel.found(model)
    return examine_settings_for_server(environment, remote) if remote else []
