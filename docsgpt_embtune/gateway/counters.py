"""The server's metrics for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 180)


class GatewayMetrics:
    """The metrics of one server, in a registry of its own, so that two servers in a process do not share them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "embtune_requests", "Answered requests for embeddings.", ["status"], registry=self._registry
        )
        self.texts = Counter("embtune_texts", "Texts that were embedded.", ["kind"], registry=self._registry)
        self.seconds = Histogram(
            "embtune_request_seconds",
            "From the last byte of a request to its answer.",
            ["kind"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.in_flight = Gauge("embtune_requests_in_flight", "Requests taken, unanswered.", registry=self._registry)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
