"""The server's configuration and limits; the command line takes its defaults from here."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on a single request, and on all requests together."""

    max_body: int = 8_000_000  # bytes per request
    max_texts: int = 2048  # per request; OpenAI's own limit
    max_requests: int = 256  # accepted and not yet answered; DocsGPT's web process asks with up to 96 threads


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Where and how to serve."""

    host: str = "127.0.0.1"
    port: int = 8765  # 0 takes a free port
    name: str | None = None  # the model's name for clients; its own if not given
    threads: int | None = None  # questions computed at once; as many as suit the model if not given
    width: int | None = None  # vectors are padded to this width with zeros
    api_key: str | None = None
    limits: Limits = field(default_factory=Limits)
    finish: int = 60  # seconds to answer accepted requests after a stop; bounded, since a client may never read
