"""What tests need to own time and the network: for users' suites and for this project's own."""

from __future__ import annotations

from idioteque.testing.clock import ManualClock
from idioteque.testing.transport import ScriptedTransport

__all__ = ["ManualClock", "ScriptedTransport"]
