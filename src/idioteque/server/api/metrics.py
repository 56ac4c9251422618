"""`/metrics`: what the server counts, as Prometheus reads it. Open to whoever has a token, under `--dev` to all."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from idioteque.database import Database, SqliteDatabase
from idioteque.histogram import Histogram
from idioteque.server.api.services import admit, services_of
from idioteque.server.core.deliverer import Deliverer
from idioteque.server.core.metrics import Metrics
from idioteque.server.core.status import sizes

# Shown from the start: Prometheus takes no rise from nothing to the first value of a series for an increase.
ANSWERS = dict.fromkeys((0, 2, 3, 4, 5), 0)
REFUSALS = dict.fromkeys((400, 401, 507), 0)


class ServerCollector(Collector):
    """Turns plain numbers into metrics when it is asked; every label has a fixed, small set of values."""

    def __init__(self, metrics: Metrics, deliverer: Deliverer, database: Database) -> None:
        self._metrics = metrics
        self._deliverer = deliverer
        self._database = database

    def collect(self) -> Iterable[Metric]:
        yield from self._messages()
        yield from self._attempts()
        yield from self._queue()
        if isinstance(self._database, SqliteDatabase):
            yield from _database(self._database)
        build = GaugeMetricFamily("idioteque_build_info", "Which release runs; always 1.", labels=["version"])
        build.add_metric([metadata.version("idioteque")], 1)
        yield build

    def _messages(self) -> Iterable[Metric]:
        metrics = self._metrics
        yield _counter("messages_accepted", "Messages that were stored.", metrics.accepted)
        yield _counter(
            "messages_deduplicated", "Publishes that were the repetition of a stored message.", metrics.deduplicated
        )
        yield _counter("messages_delivered", "Messages whose destination answered 2xx.", metrics.delivered)
        yield _counter("messages_retried", "Failed attempts after which the message is tried again.", metrics.retried)
        yield _counter("messages_dead_lettered", "Messages that became dead letters.", metrics.dead_lettered)
        yield _counter("messages_cancelled", "Messages that were cancelled before their end.", metrics.cancelled)
        refused = CounterMetricFamily(
            "idioteque_requests_refused",
            "Requests that were refused before they reached an endpoint.",
            labels=["status"],
        )
        for status, count in sorted((REFUSALS | metrics.refusals).items()):
            refused.add_metric([str(status)], count)
        yield refused

    def _attempts(self) -> Iterable[Metric]:
        attempts = CounterMetricFamily("idioteque_attempts", "Attempts that ended, by their answer.", labels=["answer"])
        for hundreds, count in sorted((ANSWERS | self._metrics.answers).items()):
            attempts.add_metric([f"{hundreds}xx" if hundreds else "none"], count)
        yield attempts
        yield _histogram("attempt_duration_seconds", "Time of one attempt.", self._metrics.attempt_s)
        yield _histogram(
            "delivery_latency_seconds", "Time from when a message was due to its delivery.", self._metrics.latency_s
        )

    def _queue(self) -> Iterable[Metric]:
        most, now = self._deliverer.parallelism
        yield _gauge(
            "messages_pending", "Messages that have not ended, those for later included.", self._metrics.pending
        )
        yield _gauge("attempts_in_flight", "Attempts under way.", now)
        yield _gauge("attempts_in_flight_max", "Attempts that may be under way at once.", most)
        yield _gauge(
            "oldest_due_age_seconds", "How long the oldest due message has waited.", self._deliverer.oldest_due_s
        )
        yield _gauge(
            "lines_held",
            "Queues and flow-control keys whose limits let nothing more begin for now.",
            self._deliverer.lines_held,
        )


def _database(database: SqliteDatabase) -> Iterable[Metric]:
    yield _histogram("database_commit_seconds", "Time of one commit, its flush included.", database.commit_s)
    yield _histogram("database_commit_operations", "Operations that shared one commit.", database.commit_operations)
    file_bytes, wal_bytes = sizes(database)
    yield _gauge("database_file_bytes", "Size of the database file.", file_bytes)
    yield _gauge("database_wal_bytes", "Size of its write-ahead log.", wal_bytes)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"idioteque_{name}", text, value=value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"idioteque_{name}", text, value=value)


def _histogram(name: str, text: str, values: Histogram) -> Metric:
    return HistogramMetricFamily(f"idioteque_{name}", text, buckets=values.buckets(), sum_value=values.total)


def registry_of(metrics: Metrics, deliverer: Deliverer, database: Database) -> CollectorRegistry:
    """Return everything that one server tells of itself: its own numbers, its process and its Python."""
    registry = CollectorRegistry()
    registry.register(ServerCollector(metrics, deliverer, database))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


async def scrape(request: Request) -> Response:
    admit(request)
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(services_of(request).registry), headers={"Content-Type": content_type})


routes = [Route("/metrics", scrape, methods=["GET"])]
