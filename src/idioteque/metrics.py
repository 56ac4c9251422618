"""What happens to runs, told to whoever counts it: give the worker a `Metrics` of your own, or `PrometheusMetrics`."""

from __future__ import annotations


class Metrics:
    """Told of each thing as it happens; override what you count. As it is, it counts nothing and costs nothing.

    Every method is called on an event loop and must return at once; one that raises fails the delivery. `function_id`
    is one of the functions that are declared, so it may be a label; ids of runs are never given. Durations are seconds.
    """

    def run_started(self, function_id: str) -> None:
        """A run was taken up for the first time."""

    def run_replayed(self, function_id: str) -> None:
        """A run was taken up again: after a sleep, a wait, a back-off, a step of its own delivery, or a crash."""

    def run_ended(self, function_id: str, status: str, duration_s: float) -> None:
        """A run came to its end, `completed`, `failed` or `cancelled`, so long after it was first taken up."""

    def step_attempted(self, function_id: str, ok: bool, duration_s: float) -> None:
        """A step's callable was called, and returned or raised."""

    def step_ended(self, function_id: str, ok: bool) -> None:
        """An outcome of a step, a sleep or a wait was recorded by this process: its value or its failure."""

    def lease_lost(self, function_id: str) -> None:
        """A run that this process was at work on was taken over, or ended, by somebody else."""

    def delivered(self, status: int, duration_s: float) -> None:
        """A delivery was answered with an HTTP status; duration from its signature's check to the answer."""


SILENT = Metrics()
