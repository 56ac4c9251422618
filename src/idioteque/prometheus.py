"""A worker's metrics for Prometheus: `Worker(…, metrics=PrometheusMetrics())`, with the extra `prometheus`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from idioteque.errors import MissingExtra
from idioteque.histogram import DELAYS_S, DURATIONS_S
from idioteque.metrics import Metrics

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class PrometheusMetrics(Metrics):
    """Counts in a registry of the Prometheus client; None takes its default one. Make one for each registry.

    Expose it as the client's documentation says, e.g. `app.mount("/metrics", prometheus_client.make_asgi_app())`.
    Raise `MissingExtra` when the client is not installed.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        try:
            from prometheus_client import REGISTRY, Counter, Histogram
        except ImportError as error:
            raise MissingExtra("PrometheusMetrics", "prometheus") from error
        where = registry or REGISTRY
        one = ("function",)
        self._started = Counter("idioteque_runs_started", "Runs taken up for the first time.", one, registry=where)
        self._replayed = Counter("idioteque_runs_replayed", "Times that a run was taken up again.", one, registry=where)
        self._ended = Counter("idioteque_runs_ended", "Runs that ended.", (*one, "status"), registry=where)
        self._run_s = Histogram(
            "idioteque_run_duration_seconds", "Time from the first start of a run to its end.", one,
            registry=where, buckets=DELAYS_S,
        )  # fmt: skip
        self._attempts = Counter(
            "idioteque_step_attempts", "Calls of steps' callables.", (*one, "outcome"), registry=where
        )
        self._step_s = Histogram(
            "idioteque_step_duration_seconds", "Time of one call of a step's callable.", one,
            registry=where, buckets=DURATIONS_S,
        )  # fmt: skip
        self._steps = Counter("idioteque_steps_ended", "Outcomes recorded.", (*one, "outcome"), registry=where)
        self._lost = Counter("idioteque_leases_lost", "Runs taken over by somebody else.", one, registry=where)
        self._answers = Counter("idioteque_deliveries", "Deliveries answered.", ("status",), registry=where)
        self._delivery_s = Histogram(
            "idioteque_delivery_duration_seconds", "Time of one delivery.", registry=where, buckets=DURATIONS_S
        )

    def run_started(self, function_id: str) -> None:
        self._started.labels(function_id).inc()

    def run_replayed(self, function_id: str) -> None:
        self._replayed.labels(function_id).inc()

    def run_ended(self, function_id: str, status: str, duration_s: float) -> None:
        self._ended.labels(function_id, status).inc()
        self._run_s.labels(function_id).observe(duration_s)

    def step_attempted(self, function_id: str, ok: bool, duration_s: float) -> None:
        self._attempts.labels(function_id, _outcome(ok)).inc()
        self._step_s.labels(function_id).observe(duration_s)

    def step_ended(self, function_id: str, ok: bool) -> None:
        self._steps.labels(function_id, _outcome(ok)).inc()

    def lease_lost(self, function_id: str) -> None:
        self._lost.labels(function_id).inc()

    def delivered(self, status: int, duration_s: float) -> None:
        self._answers.labels(str(status)).inc()
        self._delivery_s.observe(duration_s)


def _outcome(ok: bool) -> str:
    return "ok" if ok else "failed"
