"""Where and how to serve, and how much; the command line takes its defaults from here."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one client, or all together, may ask of the server."""

    max_body: int = 8_000_000  # bytes of a request
    max_texts: int = 2048  # in a request: OpenAI's own limit
    max_requests: int = 256  # taken and unanswered; DocsGPT's web process asks with up to 96 threads


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Where and how to serve."""

    host: str = "127.0.0.1"
    port: int = 8765  # 0 takes a free one
    name: str | None = None  # of the model; its own if not given
    threads: int | None = None  # questions computed at once; as many as suit the model if not given
    width: int | None = None  # zeros are appended up to it
    api_key: str | None = None
    limits: Limits = field(default_factory=Limits)
    finish: int = 60  # seconds to answer what was taken, once told to stop: a client who never reads must not decide
