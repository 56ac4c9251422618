"""What a store may keep of the lines that functions write with `ctx.log`: the latest of each run, in bounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, cast

from idioteque.errors import storable
from idioteque.paths import Path
from idioteque.store import Store, required

LINES_KEPT = 200
LOG_BYTES_MAX = 64 * 1024
"""How many lines of a run, and how much text of them, a store keeps: the latest."""
LINE_BYTES_MAX = 2048
LEVEL_LENGTH_MAX = 20


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line that the function wrote, or the step at `path` in its `attempt`, counted from 1.

    `id` is the same for the same line of a replay; lines of one moment are told apart by `number`. `text` may have
    several lines, and is at most `LINE_BYTES_MAX` long in UTF-8.
    """

    id: str
    at_ms: int
    number: int
    level: str
    path: Path
    attempt: int
    text: str

    @property
    def at(self) -> datetime:
        """When it was written, by the clock of its worker."""
        return datetime.fromtimestamp(self.at_ms / 1000, UTC)

    @property
    def bytes(self) -> int:
        """What the line counts towards `LOG_BYTES_MAX`."""
        return len(self.text.encode())


@dataclass(frozen=True, slots=True)
class Log:
    """The lines of a run that are kept, the oldest first; `cut` others were written before them."""

    lines: Sequence[LogLine] = ()
    cut: int = 0


class RunLog(Protocol):
    """The operations of a store that keeps lines; each is atomic, and may be repeated (what is cut may count again)."""

    async def note_lines(self, run_id: str, lines: Sequence[LogLine], cut: int) -> None:
        """Keep lines of a run, and note how many were left out; a line whose id is there already stays as it is.

        Whoever holds the run does not matter: the lines were written. Of a run that is not stored nothing is kept.
        """
        ...

    async def lines(self, run_id: str) -> Log:
        """Return what is kept of a run."""
        ...


def run_log_of(store: Store) -> RunLog | None:
    """Return the store as one that keeps lines, or None when it does not."""
    return cast(RunLog, store) if hasattr(store, "note_lines") else None


def run_log_in(store: Store) -> RunLog:
    """Return the store as one that keeps lines; raise `ConfigurationError` when it does not."""
    return required(run_log_of(store), store, "keep what functions log")


def in_order(line: LogLine) -> tuple[int, int, str]:
    """Return what lines are sorted by."""
    return line.at_ms, line.number, line.id


def latest(lines: Iterable[LogLine]) -> list[LogLine]:
    """Return the lines that a store keeps of these, in their order."""
    kept: list[LogLine] = []
    total = 0
    for line in sorted(lines, key=in_order, reverse=True):
        total += line.bytes
        if len(kept) == LINES_KEPT or total > LOG_BYTES_MAX:
            break
        kept.append(line)
    return kept[::-1]


def line_text(text: str) -> str:
    """Return a text as it is kept: every database can hold it, and it says how much of it was cut off."""
    text = storable(text)
    encoded = text.encode()
    if len(encoded) <= LINE_BYTES_MAX:
        return text
    kept = encoded[: LINE_BYTES_MAX - 40].decode(errors="ignore")
    return f"{kept}… ({len(encoded) - len(kept.encode())} bytes cut off)"
