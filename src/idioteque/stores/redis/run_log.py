"""What functions log, as Redis keeps it: a hash beside the run's own, which no claim reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import cast

from idioteque.paths import path_of, path_text
from idioteque.runlog import Log, LogLine, in_order
from idioteque.stores.redis.calls import Calls
from idioteque.stores.redis.server import Part


class RedisRunLog(Calls):
    """The part of `RedisStore` that keeps lines."""

    async def note_lines(self, run_id: str, lines: Sequence[LogLine], cut: int) -> None:
        parts: list[Part] = [cut]
        for line in lines:
            parts += [line.id, _value(line)]
        await self._on(self._scripts.note_lines, run_id, *parts)

    async def lines(self, run_id: str) -> Log:
        [answered] = await self._server.read([["HGETALL", f"{self._index.key_of(run_id)}:log"]])
        flat = cast("list[bytes]", answered)
        values = {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
        cut = int(values.pop("cut", b"0"))
        return Log(sorted((_line(id_, value) for id_, value in values.items()), key=in_order), cut)


def _value(line: LogLine) -> str:
    """Write a line: what it is sorted and measured by, then the rest in JSON."""
    rest = json.dumps([line.level, path_text(line.path), line.attempt, line.text], ensure_ascii=False)
    return f"{line.at_ms} {line.number} {line.bytes} {rest}"


def _line(id_: str, value: bytes) -> LogLine:
    at_ms, number, _, rest = value.decode().split(" ", 3)
    level, path, attempt, text = json.loads(rest)
    return LogLine(id_, int(at_ms), int(number), level, path_of(path), attempt, text)
