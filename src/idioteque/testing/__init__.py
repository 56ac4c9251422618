"""What tests need to own time and the network: for users' suites and for this project's own.

`harness` puts a worker into virtual time. Everything is loaded when it is asked for, so that the pytest plugin, which
every pytest session loads, costs those nothing that do not use it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idioteque.testing.clock import ManualClock
    from idioteque.testing.movement import HarnessError
    from idioteque.testing.post import PublishedEvent
    from idioteque.testing.transport import ScriptedTransport
    from idioteque.testing.virtual import Harness, RecordedStep, harness

__all__ = [
    "Harness",
    "HarnessError",
    "ManualClock",
    "PublishedEvent",
    "RecordedStep",
    "ScriptedTransport",
    "harness",
]

_HOMES = {
    "Harness": "virtual",
    "HarnessError": "movement",
    "ManualClock": "clock",
    "PublishedEvent": "post",
    "RecordedStep": "virtual",
    "ScriptedTransport": "transport",
    "harness": "virtual",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
