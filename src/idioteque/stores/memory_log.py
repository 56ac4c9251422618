"""What functions log, as a store in memory keeps it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from idioteque.runlog import Log, LogLine, latest
from idioteque.stores.memory_insight import Stored


class MemoryRunLog:
    """The part of `MemoryStore` that keeps lines."""

    _lock: threading.Lock
    _runs: dict[str, Stored]
    _logs: dict[str, Log]

    async def note_lines(self, run_id: str, lines: Sequence[LogLine], cut: int) -> None:
        with self._lock:
            if run_id not in self._runs:
                return
            known = self._logs.get(run_id, Log())
            ids = {line.id for line in known.lines}
            whole = [*known.lines, *({line.id: line for line in lines if line.id not in ids}.values())]
            kept = latest(whole)
            self._logs[run_id] = Log(kept, known.cut + cut + len(whole) - len(kept))

    async def lines(self, run_id: str) -> Log:
        with self._lock:
            return self._logs.get(run_id, Log())
