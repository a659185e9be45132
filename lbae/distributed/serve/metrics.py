"""The service's metrics as Ray metrics; the agent of each node exposes them to Prometheus."""

from ray.serve.metrics import Counter, Gauge, Histogram

from lbae.web.backend.backend import OnBatch
from lbae.web.middleware import Observe

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BUCKETS_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


def observe_requests() -> Observe:
    """Return a function that counts requests and records their latencies."""
    tags = ("route", "status")
    requests = Counter("lbae_requests", description="Requests answered.", tag_keys=tags)
    latency = Histogram(
        "lbae_request_seconds",
        description="Request latency in seconds.",
        boundaries=list(_BUCKETS_S),
        tag_keys=tags,
    )

    def observe(route: str, status: int, seconds: float) -> None:
        of = {"route": route, "status": str(status)}
        requests.inc(1, of)
        latency.observe(seconds, of)

    return observe


def observe_batches() -> OnBatch:
    """Return a function that records the codec's images, batch sizes and waiting requests."""
    images = Counter("lbae_images", description="Images encoded or decoded.", tag_keys=("verb",))
    rows_of = Histogram(
        "lbae_batch_rows",
        description="Rows per codec batch.",
        boundaries=list(_BUCKETS_ROWS),
        tag_keys=("verb",),
    )
    waiting_for = Gauge(
        "lbae_waiting", description="Requests waiting behind a codec batch.", tag_keys=("verb",)
    )

    def on_batch(verb: str, rows: int, waiting: int) -> None:
        of = {"verb": verb}
        images.inc(rows, of)
        rows_of.observe(rows, of)
        waiting_for.set(waiting, of)

    return on_batch
