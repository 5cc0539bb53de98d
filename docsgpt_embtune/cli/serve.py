"""`embtune serve`."""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from docsgpt_embtune.cli.command import EmbtuneCommand
from docsgpt_embtune.errors import DeploymentError
from docsgpt_embtune.gateway.config import Limits, ServerConfig
from docsgpt_embtune.openai_client.client import fault_of_key
from docsgpt_embtune.wording import counted

if TYPE_CHECKING:
    from docsgpt_embtune.gateway.server import ServeReport


@click.command(cls=EmbtuneCommand)
@click.argument("model")
@click.option(
    "--host", default=ServerConfig.host, show_default=True, help="Address to listen on; 0.0.0.0 for containers."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=ServerConfig.port, show_default=True, help="0 takes a free one."
)
@click.option(
    "--name", help="What clients call the model; if not given, MODEL's last part, or its server's name of it."
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Questions embedded at once.  [default: 4, or 32 before another server]",
)
@click.option(
    "--pad-to", type=click.IntRange(min=1), help="Append zeros up to this width, for a host that has it fixed."
)
@click.option(
    "--max-requests",
    type=click.IntRange(min=1),
    default=Limits.max_requests,
    show_default=True,
    help="Requests that may wait at once; more get 429.",
)
@click.option(
    "--max-texts", type=click.IntRange(min=1), default=Limits.max_texts, show_default=True, help="Texts in one request."
)
@click.option(
    "--max-megabytes",
    type=click.IntRange(min=1),
    default=Limits.max_body // 1_000_000,
    show_default=True,
    help="Size of one request; larger ones get 413.",
)
@click.option(
    "--finish-seconds",
    type=click.IntRange(min=1),
    default=ServerConfig.finish,
    show_default=True,
    help="Time after SIGTERM to answer what was taken; less than the container is given to stop.",
)
def serve(
    model: str,
    host: str,
    port: int,
    name: str | None,
    threads: int | None,
    pad_to: int | None,
    max_requests: int,
    max_texts: int,
    max_megabytes: int,
    finish_seconds: int,
) -> None:
    """Serve MODEL to DocsGPT through OpenAI's /v1/embeddings.

    EMBEDDINGS_BASE_URL lets all of its processes use it.
    MODEL is a tuned folder, any other model folder, a hub name, or `bundled`; or the folder of an adapter or keywords
    for a server's model, which is then asked, with the key in EMBEDDINGS_KEY, if any, where it was or where
    EMBTUNE_UPSTREAM says. With EMBTUNE_API_KEY in the environment, clients must send it. SIGTERM ends the server after
    it has answered what it took.
    """
    if not model:
        raise DeploymentError("MODEL is empty; name a folder, a hub's model, or 'bundled'")
    key = os.environ.get("EMBTUNE_API_KEY")
    if key == "":
        raise DeploymentError("EMBTUNE_API_KEY is set and empty, which would leave the door open; give it a value")
    if key and (fault := fault_of_key(key)):
        raise DeploymentError(f"EMBTUNE_API_KEY {fault}, so that no client could send it; give it without that")
    try:
        from docsgpt_embtune.gateway.model import served_model
        from docsgpt_embtune.gateway.server import serve as serve_until_stopped
    except ModuleNotFoundError as error:
        raise DeploymentError(f"{error.name} is needed to serve; run: pip install 'docsgpt-embtune[serve]'") from error

    config = ServerConfig(
        host=host,
        port=port,
        name=name or _name_of(model),
        threads=threads,
        width=pad_to,
        api_key=key,
        limits=Limits(max_body=max_megabytes * 1_000_000, max_texts=max_texts, max_requests=max_requests),
        finish=finish_seconds,
    )
    with served_model(model, say=partial(click.echo, err=True)) as served:
        done = serve_until_stopped(served, config, say=click.echo)
    click.echo(_end_of(done, finish_seconds))
    os._exit(0)  # not sys.exit, which waits for all threads, and one may wait for a silent server


def _end_of(done: "ServeReport", finish_seconds: int) -> str:
    said = f"stopped: {counted(done.taken, 'request')} taken, {done.taken - done.cut_off:,} answered"
    if not done.cut_off:
        return said
    return f"{said}, {done.cut_off:,} cut off {'at once' if done.at_once else f'after {finish_seconds} s'}"


def _name_of(model: str) -> str | None:
    """Return a hub name's last part, because its folder is named by a commit hash; None for a folder."""
    return None if Path(model).expanduser().is_dir() else model.rpartition("/")[2]
