"""The parts that together are the protocol: a mutant is the same with one of them changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.model.deliveries import Delivery
from tests.model.messages import Outbox
from tests.model.passes import Pass
from tests.model.steps import StepTask
from tests.model.store import ModelStore
from tests.model.waits import Arrival, Watch

Rules = Mapping[str, Callable[..., Any]]
"""Functions that stand in for those of `ledger.py` with the same names."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """By default, the protocol as built."""

    delivery: type[Delivery] = Delivery
    outbox: type[Outbox] = Outbox
    one_pass: type[Pass] = Pass
    step: type[StepTask] = StepTask
    store: type[ModelStore] = ModelStore
    watch: type[Watch] = Watch
    arrival: type[Arrival] = Arrival
    rules: Rules = field(default_factory=dict)
