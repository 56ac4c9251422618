"""The execution engine: it turns delivered messages into runs, and runs into outcomes that are recorded once."""

from __future__ import annotations

from idioteque.engine.deliver import Answer, Delivery, Engine
from idioteque.engine.failures import described

__all__ = ["Answer", "Delivery", "Engine", "described"]
