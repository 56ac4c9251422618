"""Events that arrive, who waits for them, and the names that runs occupy, in a SQL database."""

from __future__ import annotations

from collections.abc import Sequence

from idioteque import ledger
from idioteque.clock import Clock
from idioteque.database import Row, SqlValue, Transaction
from idioteque.paths import Path, path_text
from idioteque.store import MAILBOX_MS, Committed, Lease, Letter, Lost, Outcome, Watcher, Won
from idioteque.stores.opening import OpenedDatabase
from idioteque.stores.tables import (
    UNWATCH,
    WATCH,
    load_holder,
    load_run,
    load_step,
    save_run,
    save_step,
    time_ms,
    watcher_of,
)

FORGET_EVERY_MS = 1000
FORGOTTEN_PER_ARRIVAL = 10

# Everybody who waits for an event of a type, but for runs that have ended meanwhile.
WATCHERS = """SELECT w.run_id, w.path, r.event_id, r.function_id, w.condition, r.created_at_ms, r.epoch, r.options,
        w.seat
    FROM watchers w JOIN runs r ON r.run_id = w.run_id
    WHERE w.type = :type AND r.status IN ('running', 'waiting')"""

# An event is kept as it came first.
POST = """INSERT INTO mailbox (event_id, type, event, accepted_at_ms) VALUES (:event_id, :type, :event, :now_ms)
    ON CONFLICT (event_id) DO NOTHING"""

LETTER = "SELECT event_id, event, accepted_at_ms FROM mailbox WHERE event_id = :event_id"

LETTERS = """SELECT event_id, event, accepted_at_ms FROM mailbox WHERE type = :type AND accepted_at_ms >= :since_ms
    ORDER BY accepted_at_ms, event_id"""

# A few events that nobody may take any more, but for the one that came again.
FORGET = """DELETE FROM mailbox WHERE event_id IN (SELECT event_id FROM mailbox
    WHERE accepted_at_ms < :before_ms AND event_id <> :event_id ORDER BY accepted_at_ms LIMIT :limit)"""

# The first to come has a name, unless it was dismissed. Whoever comes later locks it, so that what is read next is
# current.
OCCUPY = """INSERT INTO marks (name, value, at_ms) SELECT :name, :run_id, 0
    WHERE NOT EXISTS (SELECT 1 FROM dismissals WHERE run_id = :run_id AND name = :name)
    ON CONFLICT (name) DO UPDATE SET at_ms = marks.at_ms"""

# Who has a name, whether that run has ended and whether it has begun, and whether it was dismissed.
HOLDER = """SELECT m.value, r.status, r.tokens, EXISTS (SELECT 1 FROM dismissals d WHERE d.run_id = m.value)
    FROM marks m LEFT JOIN runs r ON r.run_id = m.value WHERE m.name = :name"""

# The name is handed on by a run that has it no more.
HAND_ON = "UPDATE marks SET value = :run_id WHERE name = :name"

# Whom a run met when it asked for a name before.
DISMISSED = "SELECT holder FROM dismissals WHERE run_id = :run_id AND name = :name"

DISMISS = """INSERT INTO dismissals (run_id, name, holder, at_ms) VALUES (:run_id, :name, :holder, :at_ms)
    ON CONFLICT (run_id, name) DO NOTHING"""

ANY_DISMISSAL = "SELECT EXISTS (SELECT 1 FROM dismissals WHERE run_id = :run_id)"

# Which of the events noted was accepted last.
LATEST = "SELECT value FROM marks WHERE name = :name"

# The event that was accepted last stays.
ADVANCE_MARK = """INSERT INTO marks (name, value, at_ms) VALUES (:name, :value, :at_ms)
    ON CONFLICT (name) DO UPDATE SET value = :value, at_ms = :at_ms
    WHERE marks.at_ms < :at_ms OR (marks.at_ms = :at_ms AND marks.value < :value)"""

# Whether a run has taken an event already.
TAKEN = "SELECT 1 FROM steps WHERE run_id = :run_id AND taken = :event_id"


def is_dismissed(tx: Transaction, run_id: str) -> bool:
    """Return whether a run met another one at a name, or was displaced by a later event."""
    return bool(tx.execute(ANY_DISMISSAL, {"run_id": run_id})[0][0])


class Mailbox:
    """The part of `SqlStore` that deals with events and names."""

    _database: OpenedDatabase

    _clock: Clock
    _arrived = 0
    _forgot_at_ms = 0

    async def watch(self, lease: Lease, path: Path, types: Sequence[str], where: bytes) -> None:
        def operation(tx: Transaction) -> None:
            run = load_run(tx, lease.run_id)
            if run is not None and run.is_open and load_holder(tx, run, lease.path).is_held_by(lease.token):
                row: dict[str, SqlValue] = {
                    "run_id": run.run_id,
                    "path": path_text(path),
                    "seat": path_text(lease.path),
                    "condition": where,
                }
                tx.execute_many(WATCH, [{**row, "type": type_name} for type_name in types])

        await self._database.write(operation)

    async def unwatch(self, run_id: str, path: Path) -> None:
        await self._database.write(lambda tx: tx.execute(UNWATCH, {"run_id": run_id, "path": path_text(path)}))

    async def arrive(self, event_id: str, type_name: str, event: bytes) -> tuple[Letter, Sequence[Watcher]]:
        def operation(tx: Transaction) -> tuple[Letter, list[Row] | None]:
            now_ms = time_ms(tx, self._clock)
            posted: dict[str, SqlValue] = {"event_id": event_id, "type": type_name, "event": event, "now_ms": now_ms}
            letter = Letter(event_id, event, now_ms)
            if not tx.changed(POST, posted):
                letter = Letter(*tx.execute(LETTER, {"event_id": event_id})[0])
            self._forget(tx, event_id, now_ms)
            return letter, tx.execute(WATCHERS, {"type": type_name}) if tx.writers_take_turns else None

        letter, rows = await self._database.write(operation)
        if rows is None:
            # Once the event can be seen by others, so that of a wait and an event at one moment one finds the other.
            rows = await self._database.read(lambda tx: tx.execute(WATCHERS, {"type": type_name}))
        return letter, [watcher_of(row) for row in rows]

    async def letters(self, types: Sequence[str], since_ms: int) -> Sequence[Letter]:
        def operation(tx: Transaction) -> list[Letter]:
            rows = [row for name in types for row in tx.execute(LETTERS, {"type": name, "since_ms": since_ms})]
            return sorted((Letter(*row) for row in rows), key=lambda letter: (letter.accepted_at_ms, letter.event_id))

        return await self._database.read(operation)

    async def take(self, run_id: str, path: Path, event_id: str, outcome: Outcome) -> Committed:
        def operation(tx: Transaction) -> Committed:
            now_ms = time_ms(tx, self._clock)
            run = load_run(tx, run_id)
            if run is None:
                return Lost(None, held=False)
            step = load_step(tx, run_id, path)
            is_taken = bool(tx.execute(TAKEN, {"run_id": run_id, "event_id": event_id}))
            answer = ledger.take(run, step, event_id, outcome, is_taken, now_ms)
            if isinstance(answer, Won):
                save_step(tx, run_id, step)
                save_run(tx, run)
            return answer

        return await self._database.write(operation)

    async def occupy(self, name: str, run_id: str, *, until_end: bool) -> str:
        def operation(tx: Transaction) -> str:
            asked: dict[str, SqlValue] = {"name": name, "run_id": run_id}
            tx.execute(OCCUPY, asked)
            dismissed = tx.execute(DISMISSED, asked)
            if dismissed:
                return str(dismissed[0][0])
            holder, status, tokens, is_dismissed = tx.execute(HOLDER, {"name": name})[0]
            is_over = until_end and status in ("completed", "failed", "cancelled")
            if is_over or (is_dismissed and not tokens):
                tx.execute(HAND_ON, asked)
                return run_id
            if holder != run_id:
                tx.execute(DISMISS, {**asked, "holder": holder, "at_ms": time_ms(tx, self._clock)})
            return str(holder)

        return await self._database.write(operation)

    async def latest(self, name: str, event_id: str, accepted_at_ms: int, run_id: str) -> str:
        def operation(tx: Transaction) -> str:
            tx.execute(ADVANCE_MARK, {"name": name, "value": event_id, "at_ms": accepted_at_ms})
            newest = str(tx.execute(LATEST, {"name": name})[0][0])
            if newest != event_id:
                at_ms = time_ms(tx, self._clock)
                tx.execute(DISMISS, {"run_id": run_id, "name": name, "holder": newest, "at_ms": at_ms})
            return newest

        return await self._database.write(operation)

    def _forget(self, tx: Transaction, event_id: str, now_ms: int) -> None:
        """Clear away what nobody may take any more, now and then, and more than has arrived since."""
        self._arrived += 1
        if abs(now_ms - self._forgot_at_ms) < FORGET_EVERY_MS:
            return
        limit = FORGOTTEN_PER_ARRIVAL * self._arrived
        tx.execute(FORGET, {"before_ms": now_ms - MAILBOX_MS, "event_id": event_id, "limit": limit})
        self._arrived, self._forgot_at_ms = 0, now_ms
