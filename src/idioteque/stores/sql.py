"""Runs in a SQL database: every operation loads the run's row, applies the ledger's rule, and writes what changed."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from idioteque import ledger, snapshots
from idioteque.clock import Clock, SystemClock
from idioteque.database import Database, SqlValue, Transaction
from idioteque.ledger import REOPENED, RunRow, SeatRow, StepRow
from idioteque.paths import BODY, Path, path_text
from idioteque.store import (
    Begun,
    Claim,
    Claimed,
    Committed,
    Due,
    Failed,
    Go,
    Gone,
    Lease,
    Lost,
    NewRun,
    Outcome,
    Released,
    ReleaseKind,
    RunRecord,
    Scheduled,
    Status,
    Trouble,
    Unknown,
    Won,
)
from idioteque.stores.diary import attempts_of, deliveries_of, note_attempt, note_delivery, note_ends
from idioteque.stores.insight import SqlInsight
from idioteque.stores.mailbox import Mailbox, is_dismissed
from idioteque.stores.old_runs import FORGET_SENT, OldRuns
from idioteque.stores.opening import OpenedDatabase
from idioteque.stores.run_log import SqlRunLog
from idioteque.stores.tables import (
    FORGET_SEAT,
    NOTE_SEAT,
    READ_EVENT,
    READ_LATER_STEPS,
    READ_STEPS,
    UNWATCH,
    UNWATCH_ALL,
    add_event,
    add_run,
    add_step,
    begin_run,
    create,
    end_run,
    inside,
    listing,
    load_holder,
    load_run,
    load_step,
    note_progress,
    run_of,
    save_holder,
    save_run,
    save_step,
    seats_of,
    step_of,
    time_ms,
)


class SqlStore(Mailbox, OldRuns, SqlInsight, SqlRunLog):
    """A `Store` in a database of its own or beside other tables: `SqlStore("sqlite:///runs.db")`.

    Several workers may share one in PostgreSQL; their clocks need not agree, as the database's own is used.
    """

    def __init__(self, database: Database | str, clock: Clock | None = None) -> None:
        self._database = OpenedDatabase(database)
        self._clock = clock or SystemClock()

    def claim(self, claim: Claim) -> Awaitable[Claimed]:
        def operation(tx: Transaction) -> Claimed:
            now_ms = time_ms(tx, self._clock)
            if claim.new is not None and claim.path == BODY and tx.writers_take_turns:
                begun = _begun(tx, claim, claim.new, now_ms)
                if begun is not None:
                    return begun
            run = load_run(tx, claim.run_id)
            if run is None and claim.new is not None:
                run = create(tx, claim.run_id, claim.new, now_ms)
            if run is None:
                return Unknown()
            is_new = not run.tokens and not run.seq
            holder = load_holder(tx, run, claim.path)
            if isinstance(holder, SeatRow):
                step = load_step(tx, run.run_id, claim.path)
                refused = ledger.claim_step(run, step, holder, claim, now_ms)
                save_step(tx, run.run_id, step)
            else:
                refused = ledger.claim(run, claim, now_ms)
            save_holder(tx, run, holder)
            if refused is not None:
                return refused
            note_delivery(tx, run.run_id, holder, claim, now_ms)
            event = tx.execute(READ_EVENT, {"event_id": run.event_id})[0][0]
            if is_new:
                return snapshots.started(run, event, (), holder)
            if claim.inside:
                return snapshots.started(run, event, inside(tx, run.run_id, claim.path), holder)
            rows = tx.execute(READ_LATER_STEPS, {"run_id": run.run_id, "known": max(1, claim.known)})
            steps = [step_of(row) for row in rows]
            return snapshots.started(run, event, steps, holder, seats_of(tx, run.run_id), claim.known)

        return self._database.write(operation)

    async def commit(self, lease: Lease, path: Path, outcome: Outcome) -> Committed:
        def operation(tx: Transaction) -> Committed:
            now_ms = time_ms(tx, self._clock)
            run = load_run(tx, lease.run_id)
            if run is None:
                return Lost(None, held=False)
            if path == BODY:
                answer = ledger.commit_body(run, lease.token, outcome, now_ms)
                if isinstance(answer, Won):
                    end_run(tx, run, outcome)
                    tx.execute(UNWATCH_ALL, {"run_id": run.run_id})
                return answer
            if lease.path == BODY:
                step = StepRow(path)
                answer = ledger.commit_step(run, step, run, lease.token, outcome, now_ms)
                if isinstance(answer, Won) and add_step(tx, run.run_id, step, outcome):
                    note_progress(tx, run)
                    return answer
                run = load_run(tx, lease.run_id)  # as it was: there is more of that step than its outcome
                assert run is not None
            return _commit_known(tx, run, lease, path, outcome, now_ms)

        return await self._database.write(operation)

    async def begin(self, lease: Lease, path: Path, *, at_most_once: bool = False) -> Begun:
        def operation(tx: Transaction) -> Begun:
            run = load_run(tx, lease.run_id)
            if run is None:
                return Gone()
            step = load_step(tx, lease.run_id, path)
            around = [load_step(tx, lease.run_id, path[:n]) for n in range(1, len(path))]
            around = [outer for outer in around if outer.strikes]
            holder = load_holder(tx, run, lease.path)
            answer = ledger.begin(run, step, around, holder, lease.token, at_most_once)
            if not isinstance(answer, Gone):
                for row in (step, *around):
                    save_step(tx, run.run_id, row)
                save_holder(tx, run, holder)
            return answer

        return await self._database.write(operation)

    async def fail(
        self, lease: Lease, path: Path, attempts: int, due_at_ms: int, error: str, took_ms: int | None = None
    ) -> Failed:
        def operation(tx: Transaction) -> Failed:
            now_ms = time_ms(tx, self._clock)
            run = load_run(tx, lease.run_id)
            if run is None:
                return Gone()
            step = load_step(tx, lease.run_id, path)
            holder = load_holder(tx, run, lease.path)
            answer = ledger.fail(run, step, holder, lease.token, attempts, due_at_ms, error, now_ms)
            if not isinstance(answer, Gone):
                save_step(tx, run.run_id, step)
                save_holder(tx, run, holder)
            if isinstance(answer, Go):
                note_attempt(tx, run, path, attempts, now_ms, took_ms, error)
            return answer

        return await self._database.write(operation)

    async def schedule(self, lease: Lease, path: Path, due_at_ms: int, waits_for: str | None = None) -> Scheduled:
        def operation(tx: Transaction) -> Scheduled:
            run = load_run(tx, lease.run_id)
            if run is None:
                return Gone()
            step = load_step(tx, lease.run_id, path)
            holder = load_holder(tx, run, lease.path)
            answer = ledger.schedule(run, step, holder, lease.token, due_at_ms, waits_for)
            if isinstance(answer, Due):
                save_step(tx, run.run_id, step)
            return answer

        return await self._database.write(operation)

    async def sent(self, lease: Lease, paths: Sequence[Path]) -> None:
        rows = [{"run_id": lease.run_id, "path": path_text(path)} for path in paths]

        def operation(tx: Transaction) -> None:
            load_run(tx, lease.run_id)  # for its lock: who claims a seat at this moment writes back what he has read
            tx.execute_many(NOTE_SEAT, rows)

        await self._database.write(operation)

    async def release(
        self, lease: Lease, kind: ReleaseKind, *, due_at_ms: int = 0, error: str | None = None
    ) -> Released | None:
        def operation(tx: Transaction) -> Released | None:
            run = load_run(tx, lease.run_id)
            if run is None:
                return None
            holder = load_holder(tx, run, lease.path)
            released = ledger.release(run, holder, lease.token, kind, due_at_ms, error)
            if released is not None:
                save_holder(tx, run, holder)
            if released is not None and kind == "failed":
                note_attempt(tx, run, BODY, run.attempts, time_ms(tx, self._clock), None, error or "")
            return released

        return await self._database.write(operation)

    async def renew(self, leases: Sequence[Lease], lease_ms: int) -> Sequence[bool]:
        def operation(tx: Transaction) -> list[bool]:
            now_ms = time_ms(tx, self._clock)
            held: dict[Lease, bool] = {}
            for lease in sorted(leases, key=_order):  # in one order, so that nobody waits for who waits for him
                held[lease] = _renew(tx, lease, lease_ms, now_ms)
            return [held[lease] for lease in leases]

        return await self._database.write(operation)

    async def trouble(self, run_id: str, trouble: Trouble, new: NewRun | None = None) -> None:
        def operation(tx: Transaction) -> None:
            now_ms = time_ms(tx, self._clock)
            run = load_run(tx, run_id)
            if run is None and new is not None and not is_dismissed(tx, run_id):
                run = create(tx, run_id, new, now_ms)
            if run is not None:
                ledger.note_trouble(run, trouble)
                save_run(tx, run)

        await self._database.write(operation)

    async def cancel(self, run_id: str) -> Status | None:
        def operation(tx: Transaction) -> Status | None:
            now_ms = time_ms(tx, self._clock)
            run = load_run(tx, run_id)
            if run is None:
                return None
            status = ledger.cancel(run, now_ms)
            save_run(tx, run)
            tx.execute(UNWATCH_ALL, {"run_id": run_id})
            return status

        return await self._database.write(operation)

    async def reopen(self, run_id: str) -> int | None:
        def operation(tx: Transaction) -> int | None:
            run = load_run(tx, run_id)
            if run is None:
                return None
            steps = [step_of(row) for row in tx.execute(READ_STEPS, {"run_id": run_id})]
            if run.status in REOPENED:
                note_ends(tx, run, steps)
            changed = ledger.reopen(run, steps)
            if changed is None:
                return None
            for step in changed:
                save_step(tx, run_id, step)
                tx.execute(FORGET_SEAT, {"run_id": run_id, "path": path_text(step.path)})
            tx.execute(FORGET_SENT, {"run_id": run_id})  # a message that came when the run had ended is gone
            save_run(tx, run)
            return run.epoch

        return await self._database.write(operation)

    async def get(self, run_id: str) -> RunRecord | None:
        def operation(tx: Transaction) -> RunRecord | None:
            run = load_run(tx, run_id)
            if run is None:
                return None
            event = tx.execute(READ_EVENT, {"event_id": run.event_id})[0][0]
            steps = [step_of(row) for row in tx.execute(READ_STEPS, {"run_id": run_id})]
            return snapshots.record(run, event, steps, deliveries_of(tx, run_id), attempts_of(tx, run_id))

        return await self._database.read(operation)

    async def list(
        self,
        *,
        status: Status | None = None,
        function_id: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> Sequence[RunRecord]:
        asked = {"status": status, "function_id": function_id, "before": before}
        query = listing(status=status, function_id=function_id, before=before)
        wanted: dict[str, SqlValue] = {name: value for name, value in asked.items() if value is not None}

        def operation(tx: Transaction) -> list[RunRecord]:
            runs = [run_of(row) for row in tx.execute(query, {**wanted, "limit": limit})]
            return [snapshots.record(run, tx.execute(READ_EVENT, {"event_id": run.event_id})[0][0]) for run in runs]

        return await self._database.read(operation)

    async def close(self) -> None:
        await self._database.close()


def _order(lease: Lease) -> str:
    return lease.run_id


def _renew(tx: Transaction, lease: Lease, lease_ms: int, now_ms: int) -> bool:
    run = load_run(tx, lease.run_id)
    if run is None:
        return False
    holder = load_holder(tx, run, lease.path)
    is_held = ledger.renew(run, holder, lease.token, lease_ms, now_ms)
    if is_held:
        save_holder(tx, run, holder)
    return is_held


def _begun(tx: Transaction, claim: Claim, new: NewRun, now_ms: int) -> Claimed | None:
    """Store a run with the first lease of its body; None, and nothing done, for one that is stored already.

    Only where writers take turns: nobody else can begin it meanwhile.
    """
    run = begin_run(claim.run_id, new, now_ms)
    refused = ledger.claim(run, claim, now_ms)
    assert refused is None
    if not add_run(tx, run):
        return None
    event = add_event(tx, new)
    note_delivery(tx, run.run_id, run, claim, now_ms)
    return snapshots.started(run, event, (), run)


def _commit_known(tx: Transaction, run: RunRow, lease: Lease, path: Path, outcome: Outcome, now_ms: int) -> Committed:
    """Record the outcome of a step, whatever is known of it."""
    step = load_step(tx, run.run_id, path)
    before = step.seq
    holder = load_holder(tx, run, lease.path)
    if isinstance(holder, SeatRow) and path == lease.path:
        answer = ledger.commit_seat(run, step, holder, lease.token, outcome, now_ms)
    else:
        answer = ledger.commit_step(run, step, holder, lease.token, outcome, now_ms)
    if step.seq != before:
        save_step(tx, run.run_id, step)
        save_holder(tx, run, holder)
    if step.waits_for is not None:
        tx.execute(UNWATCH, {"run_id": run.run_id, "path": path_text(path)})
    return answer
