"""The server process: serve one model until told to stop, then finish the accepted requests."""

import signal
import socket
from dataclasses import dataclass

import uvicorn

from docsgpt_embtune.deployment.environment_file import setting_line
from docsgpt_embtune.errors import DeploymentError
from docsgpt_embtune.gateway.app import Gateway
from docsgpt_embtune.gateway.config import ServerConfig
from docsgpt_embtune.gateway.model import GatewayModel, ServedModel
from docsgpt_embtune.serving.keywords import HOST_WIDTH
from docsgpt_embtune.wording import Say, silent

_BACKLOG = 2048  # connections that may wait to be accepted
_KEEP_ALIVE = 75  # seconds; longer than clients keep an idle connection, so that it is not closed while they use it


@dataclass(frozen=True)
class ServeReport:
    """The summary of a server's run.

    Attributes:
        taken: Number of accepted requests for embeddings.
        cut_off: Number of those left unanswered, because the time to finish was over or the server stopped at once.
        at_once: Whether a second Ctrl-C told the server to stop at once.
    """

    taken: int
    cut_off: int
    at_once: bool


def serve(served: ServedModel, config: ServerConfig, say: Say = silent) -> ServeReport:
    """Serve a model until SIGTERM or SIGINT, then answer the accepted requests for at most `config.finish` seconds.

    Args:
        served: The model, loaded once for all client processes.
        config: The server's configuration.
        say: Takes the lines that tell an operator what to set.

    Raises:
        DeploymentError: If the server cannot listen on the address.
        ModelFolderError: If the model cannot be served with this configuration.
    """
    model = GatewayModel(served, config.threads, config.width)
    gateway = Gateway(model, config.name or served.name, served.fingerprint, config.limits, config.api_key)
    listening = _listen(config)
    for line in instructions(served, config, listening.getsockname()[1]):
        say(line)
    uvicorn_config = uvicorn.Config(
        gateway.app(),
        log_level="warning",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=config.finish,
        lifespan="off",  # with it, a second Ctrl-C would end in a traceback
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _done)  # for uvicorn, which raises the signal again once it has finished
    server = uvicorn.Server(uvicorn_config)
    try:
        server.run(sockets=[listening])
    finally:
        model.close()
    return ServeReport(gateway.taken, gateway.cut_off, server.force_exit)


def instructions(served: ServedModel, config: ServerConfig, port: int) -> list[str]:
    """Return lines that say what to set in DocsGPT's `.env`, and what its fixed width means for this model."""
    width, name = config.width or served.dimension, config.name or served.name
    before = f" before {served.upstream}" if served.upstream else ""
    lines = [
        f"serving {name} ({served.label}{before}), {width} wide; in DocsGPT's .env:",
        f"  EMBEDDINGS_BASE_URL=http://{_reachable(config.host)}:{port}",
        f"  {setting_line('EMBEDDINGS_NAME', name).rstrip()}",
    ]
    if config.api_key:
        lines.append("  EMBEDDINGS_KEY=the value of EMBTUNE_API_KEY")
    elif config.host not in ("127.0.0.1", "::1", "localhost"):
        lines.append("warning: no EMBTUNE_API_KEY is set, so whoever reaches this address may use the model")
    return lines + _what_chunks_need(served, width)


def _what_chunks_need(served: ServedModel, width: int) -> list[str]:
    if served.upstream and not served.needs_reembedding and width == served.dimension:
        return [f"chunks that were stored with {served.upstream} stay as they are"]
    lines = []
    if served.upstream:
        lines.append(f"chunks that were stored with {served.upstream} must be embedded again, or uploaded")
    if width != HOST_WIDTH:
        lines.append(
            f"note: DocsGPT takes every remote model for {HOST_WIDTH} wide. FAISS and Elasticsearch go by the vectors "
            f"and work with {width}; pgvector, Qdrant, Milvus and GraphRAG create tables of {HOST_WIDTH} and "
            f"refuse them. For those: {_remedy_for(served, width)}, or a model that is {HOST_WIDTH} wide"
        )
    return lines


def _remedy_for(served: ServedModel, width: int) -> str:
    if width < HOST_WIDTH:
        return (
            f"--pad-to {HOST_WIDTH} (appended zeros change no distance; chunks that are stored {width} wide must be "
            "uploaded again)"
        )
    if served.upstream:
        return f"embtune reembed --model {served.label} --pgvector, which makes the column as wide"
    return "a MiniLM that was tuned with --keywords narrow"


def _reachable(host: str) -> str:
    """Return the host for a URL that reaches a listening address from this machine."""
    if host == "0.0.0.0" or _takes_both_families(host):
        return "127.0.0.1"
    host = "::1" if host == "::" else host
    return f"[{host}]" if ":" in host else host


def _takes_both_families(host: str) -> bool:
    return host == "::" and socket.has_dualstack_ipv6()


def _listen(config: ServerConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    both = _takes_both_families(config.host)
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        raise DeploymentError(
            f"{config.host}:{config.port}: cannot listen there ({error.strerror or error}); choose another --port or "
            "--host"
        ) from error


def _done(_number: int, _frame: object) -> None:
    """Ignore the signal, so that the process ends normally with exit code 0."""
