"""The execution engine: it turns delivered messages into runs, and runs into outcomes that are recorded once."""

from __future__ import annotations

from idioteque.engine.answers import Answer, Delivery
from idioteque.engine.deliver import Engine
from idioteque.engine.outbox import Outbox

__all__ = ["Answer", "Delivery", "Engine", "Outbox"]
