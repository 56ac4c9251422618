"""The functions under test, small enough for every schedule to be tried."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from idioteque.store import MAX_STRIKES
from tests.model.messages import run_id
from tests.model.usercode import Future, Oops, StepFailed

if TYPE_CHECKING:
    from tests.model.passes import Context
    from tests.model.world import World

Body = Callable[["Context"], Coroutine[Any, None, Any]]
LATER_MS = 60_000
SOON_MS = 1_000


@dataclass(frozen=True, slots=True)
class Function:
    """A function and what it asks for; `names` are `singleton` and `idempotency`, under one key for all events."""

    id: str
    body: Body
    on: str = "order"
    attempts: int = 1
    pause_ms: int = LATER_MS
    on_failure: Body | None = None
    timeout_ms: int | None = None
    debounce_ms: int | None = None
    names: tuple[str, ...] = ()
    cancel_on: str | None = None

    def with_handler(self) -> Iterator[Function]:
        yield self
        if self.on_failure is not None:
            yield Function(f"{self.id}.failed", self.on_failure, on="")


def _fine(_: World) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Program:
    """Functions, the events that are published, and what must be true in the end."""

    name: str
    functions: tuple[Function, ...]
    events: tuple[str, ...] = ("order",)
    check: Callable[[World], str | None] = _fine

    @property
    def main(self) -> str:
        """The run that operators cancel and retry."""
        return run_id(f"{self.events[0]}-0", self.functions[0].id)

    def expected(self) -> set[str]:
        """Return the runs that the events must begin."""
        return {
            run_id(f"{kind}-{number}", function.id)
            for number, kind in enumerate(self.events)
            for function in self.functions
            if function.on == kind
        }

    def letters(self) -> list[str]:
        """Return the events that begin nothing, but end a wait or a run."""
        begin = {function.on for function in self.functions}
        return [f"{kind}-{number}" for number, kind in enumerate(self.events) if kind not in begin]


# ---- steps in a row, side by side, inside each other


async def seq(x: Context) -> Any:
    return await x.step("a"), await x.step("b")


async def par(x: Context) -> Any:
    return await x.gather(x.step("a"), x.step("b")), await x.step("c")


async def chains(x: Context) -> Any:
    async def chain(name: str) -> Any:
        return await x.step(f"{name}1"), await x.step(f"{name}2")

    return await x.gather(chain("a"), chain("b"))


async def nested(x: Context) -> Any:
    async def inner(y: Context) -> Any:
        return await y.step("in1"), await y.step("in2")

    return await x.step("out", body=inner), await x.step("t")


async def box(x: Context) -> Any:
    async def inner(y: Context) -> Any:
        return await y.gather(y.step("a"), y.step("b", fails=1, attempts=2, pause_ms=LATER_MS))

    return await x.step("box", body=inner, isolate=True), await x.step("t")


async def boxed(x: Context) -> Any:
    async def inner(y: Context) -> Any:
        return await y.step("b"), await y.step("c")

    return await x.step("a"), await x.step("box", body=inner, isolate=True), await x.step("t")


async def oncebox(x: Context) -> Any:
    async def inner(y: Context) -> Any:
        return await y.step("a"), await y.step("b")

    try:
        return await x.step("box", body=inner, once=True)
    except StepFailed:
        return await x.step("undo")


async def mixed(x: Context) -> Any:
    return await x.step("a"), await x.step("i", isolate=True), await x.step("b")


async def mixpar(x: Context) -> Any:
    slow = x.step("slow", fails=1, attempts=2, pause_ms=LATER_MS)
    return await x.gather(x.step("i", isolate=True), x.step("j", isolate=True), slow), await x.step("c")


# ---- failures


async def caught(x: Context) -> Any:
    try:
        return await x.step("bad", fails=9)
    except StepFailed as error:
        return str(error), await x.step("undo")


async def flaky(x: Context) -> Any:
    return await x.step("flaky", fails=1, attempts=2, pause_ms=SOON_MS), await x.step("b")


async def slow(x: Context) -> Any:
    return await x.step("slow", fails=1, attempts=2, pause_ms=LATER_MS), await x.step("b")


async def slowpar(x: Context) -> Any:
    first = x.step("slow", fails=1, attempts=3, pause_ms=LATER_MS)
    second = x.step("slower", fails=2, attempts=3, pause_ms=2 * LATER_MS)
    return await x.gather(first, second, x.step("a")), await x.step("b")


async def bad(x: Context) -> Any:
    try:
        return await x.step("bad", fails=9, attempts=3, pause_ms=LATER_MS)
    except StepFailed as error:
        return str(error), await x.step("undo")


async def _named(x: Context, name: str) -> Any:
    try:
        return await x.step(name, fails=9)
    except StepFailed:
        raise StepFailed(name) from None


async def _undone(x: Context, both: Future) -> Any:
    """Which of two failures comes first decides what is undone."""
    try:
        return await both
    except StepFailed as error:
        x.note("the first failure", str(error))
        return await x.step(f"undo-{error}")


async def order(x: Context) -> Any:
    return await _undone(x, x.gather(_named(x, "bad1"), _named(x, "bad2")))


async def deep(x: Context) -> Any:
    async def deeper() -> Any:
        return await x.gather(_named(x, "bad1"))

    return await _undone(x, x.gather(deeper(), _named(x, "bad2")))


async def failing(x: Context) -> Any:
    return await x.step("a"), await x.step("bad", fails=9)


async def handler(x: Context) -> Any:
    return await x.step("h")


async def firstfails(x: Context) -> Any:
    """The first event's run fails at once; that of another is at work for longer than the first one's message takes."""
    return await (x.step("bad", fails=9) if x.event_id == "order-0" else x.sleep("z", 2 * LATER_MS))


async def retrying(x: Context) -> Any:
    value = await x.step("a")
    if x.attempt == 1:
        raise Oops
    return value, await x.step("b")


async def once(x: Context) -> Any:
    try:
        value = await x.step("once", once=True)
    except StepFailed:
        value = await x.step("undo")
    return value, await x.step("b")


async def oncepar(x: Context) -> Any:
    async def guarded() -> Any:
        try:
            return await x.step("once", once=True)
        except StepFailed as error:
            return str(error)

    return await x.gather(guarded(), x.step("a"))


async def poison(x: Context) -> Any:
    value = await x.step("a")
    try:
        return value, await x.step("poison", is_poison=True)
    except StepFailed:
        return value, await x.step("undo")


async def poisonpar(x: Context) -> Any:
    async def guarded() -> Any:
        try:
            return await x.step("poison", is_poison=True)
        except StepFailed as error:
            return str(error)

    return await x.gather(guarded(), x.step("a"))


# ---- time, events, other runs


async def sleepy(x: Context) -> Any:
    return await x.step("a"), await x.sleep("z", LATER_MS), await x.step("b")


async def sleeppar(x: Context) -> Any:
    return await x.gather(x.sleep("z", LATER_MS), x.sleep("zz", 2 * LATER_MS), x.step("a")), await x.step("b")


async def wait(x: Context) -> Any:
    return await x.step("a"), await x.wait("w", "signal"), await x.step("b")


async def waitpar(x: Context) -> Any:
    both = await x.gather(x.wait("v", "signal"), x.wait("w", "signal"))
    x.note("two events", len(set(both)))
    return both


async def waittime(x: Context) -> Any:
    return await x.gather(x.wait("w", "signal", LATER_MS), x.step("a")), await x.step("b")


async def racing(x: Context) -> Any:
    """Whatever comes first decides, the event or the step."""
    winner = await x.race(x.wait("w", "signal"), x.step("slow", fails=1, attempts=2, pause_ms=SOON_MS))
    x.note("the winner", winner)
    return await x.step(f"after-{winner}")


async def racemix(x: Context) -> Any:
    """Whatever comes first decides, the step with a delivery of its own or the one that is tried again later."""
    slow = x.step("slow", fails=1, attempts=2, pause_ms=LATER_MS)
    winner = await x.race(x.step("i", isolate=True), x.step("j", isolate=True), slow)
    x.note("the winner", winner)
    return await x.step(f"after-{winner}")


async def parent(x: Context) -> Any:
    try:
        return await x.step("a"), await x.invoke("child", "child")
    except StepFailed as error:
        return str(error), await x.step("undo")


# ---- the smallest of each kind, for which every schedule with two faults is tried


async def both(x: Context) -> Any:
    return await x.gather(x.step("a"), x.step("b"))


async def race(x: Context) -> Any:
    winner = await x.race(x.step("slow", fails=1, attempts=2, pause_ms=2 * LATER_MS), x.sleep("z", LATER_MS))
    x.note("the winner", winner)
    return winner


async def letter(x: Context) -> Any:
    return await x.wait("w", "signal"), await x.step("b")


async def ask(x: Context) -> Any:
    return await x.invoke("child", "child")


async def single(x: Context) -> Any:
    return await x.step("a")


async def broken(x: Context) -> Any:
    return await x.step("bad", fails=9)


async def sole(x: Context) -> Any:
    try:
        return await x.step("once", once=True)
    except StepFailed:
        return await x.step("undo")


async def apart(x: Context) -> Any:
    return await x.step("i", isolate=True), await x.step("b")


async def endless(x: Context) -> Any:
    return await x.step("a"), await x.wait("w", "never")


def _ends(status: str) -> Callable[[World], str | None]:
    def check(world: World) -> str | None:
        """Unless so much went wrong that a step was taken for one that kills its process."""
        found = world.store.status(world.program.main)
        if world.observer.crashes >= MAX_STRIKES:
            return None
        return (
            None if found in (status, None, "cancelled", "waiting", "running") else f"the run is {found}, not {status}"
        )

    return check


def _begun(world: World) -> list[str]:
    """Return the runs but for the mere records of messages that were given up and then dismissed."""
    return [run for run in world.store.run_ids if world.store.status(run) != "cancelled"]


def _newest(world: World) -> str | None:
    """Of several events, the one that came last begins; earlier ones may, when it came late."""
    newest = run_id(f"order-{len(world.program.events) - 1}", "f")
    if len(_begun(world)) > 1 and not world.observer.falls + world.observer.errors + world.observer.odd_times:
        return "a superseded run began"
    return None if world.store.run_ids else f"{newest} never began"


def _one_run(world: World) -> str | None:
    """But an operator may let a run go on that was dismissed, which begins it."""
    found, is_excused = _begun(world), world.observer.purged or world.observer.retried
    return None if len(found) <= 1 or is_excused else f"{len(found)} runs began, not one"


def _for_good(world: World) -> str | None:
    """What was dismissed and acknowledged begins no more, unless an operator lets it, or its retention is over."""
    found = [run for run in world.observer.unstarted if world.store.has_begun(run)]
    is_excused = world.observer.purged or world.observer.retried
    return f"{found[0]} began after it was dismissed" if found and not is_excused else None


def _plain(body: Body, *events: str, **options: Any) -> Program:
    check = _fine if "on_failure" in options else _ends("completed")
    return Program(body.__name__, (Function("f", body, **options),), ("order", *events), check)


PROGRAMS = {
    program.name: program
    for program in (
        *map(
            _plain,
            (seq, par, chains, nested, box, boxed, mixed, mixpar, caught, flaky, slow, slowpar, bad, order, deep),
        ),
        *map(_plain, (once, oncepar, oncebox, poison, poisonpar, sleepy, sleeppar, racemix)),
        *map(_plain, (both, race, sole, apart)),
        _plain(letter, "signal"),
        _plain(broken, on_failure=handler),
        Program("ask", (Function("f", ask), Function("child", single, on="")), ("order",)),
        _plain(failing, on_failure=handler),
        _plain(retrying, attempts=2),
        _plain(wait, "signal"),
        _plain(waitpar, "signal", "signal"),
        _plain(waittime, "signal"),
        _plain(racing, "signal"),
        Program("invoke", (Function("f", parent), Function("child", chains, on="")), ("order",)),
        Program("invokebad", (Function("f", parent), Function("child", failing, on="")), ("order",)),
        Program("fanout", (Function("f", seq), Function("g", caught)), ("order",)),
        Program("timeout", (Function("f", endless, timeout_ms=LATER_MS, on_failure=handler),), check=_ends("failed")),
        Program("cancelon", (Function("f", endless, cancel_on="stop"),), ("order", "stop")),
        Program("debounce", (Function("f", seq, debounce_ms=SOON_MS),), ("order", "order"), check=_newest),
        Program("idempotent", (Function("f", seq, names=("idempotency",)),), ("order", "order"), check=_one_run),
        Program("singleton", (Function("f", seq, names=("singleton",)),), ("order", "order"), check=_for_good),
        Program("nextone", (Function("f", firstfails, on_failure=handler, names=("singleton",)),), ("order", "order")),
    )
}
SMALL = ("seq", "both", "race", "letter", "ask", "broken", "sole", "apart")
"""For these, all schedules with two faults are tried."""
MODES = ("inline", "isolated")
