"""Schedules, queues, URL groups, flow-control keys and signing keys: what there is, and the verbs of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from idioteque.client import ApiRefusal, Json
from idioteque.console.entries import items, number, text
from idioteque.console.frame import Answer, Done, Page, Screen, Visit
from idioteque.console.resending import of_schedule
from idioteque.cron import parse_cron
from idioteque.errors import InvalidValue

NEXT_TICKS = 5


@dataclass(frozen=True, slots=True)
class Tick:
    """A moment at which a schedule is due, also as the clocks of its zone show it."""

    at_ms: int
    local: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule; `results` are its last messages with their states, `ticks` what comes next, as its cron says."""

    id: str
    cron: str
    destination: str
    is_paused: bool
    next_at_ms: int
    ticks: tuple[Tick, ...]
    last_at_ms: int
    results: tuple[tuple[str, str], ...]
    error: str


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue; `lag` counts the messages in it."""

    name: str
    parallelism: int
    lag: int
    is_paused: bool


@dataclass(frozen=True, slots=True)
class UrlGroup:
    """A URL group with its endpoints, (name, URL)."""

    name: str
    endpoints: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class FlowKey:
    """A flow-control key: 0 stands for no limit."""

    key: str
    waiting: int
    running: int
    parallelism: int
    rate: int
    rate_used: int
    period_s: int
    is_paused: bool
    is_pinned: bool


@dataclass(frozen=True, slots=True)
class SchedulesView:
    """All schedules."""

    schedules: tuple[Schedule, ...]


@dataclass(frozen=True, slots=True)
class QueuesView:
    """All queues; `name`, `parallelism` and `error` are those of a new one that was refused."""

    queues: tuple[Queue, ...]
    name: str = ""
    parallelism: str = "1"
    error: str = ""


@dataclass(frozen=True, slots=True)
class UrlGroupsView:
    """All URL groups."""

    groups: tuple[UrlGroup, ...]


@dataclass(frozen=True, slots=True)
class FlowKeysView:
    """The flow-control keys that contain what was searched for."""

    keys: tuple[FlowKey, ...]
    search: str


@dataclass(frozen=True, slots=True)
class KeysView:
    """The signing keys, but for their secret part; both empty for who may not see them."""

    current: str
    next: str


async def list_schedules(visit: Visit) -> Answer:
    found = await visit.api.schedules()
    return Page("schedules.html", SchedulesView(tuple(
        Schedule(
            text(row, "scheduleId"), text(row, "cron"), text(row, "destination"), bool(row.get("isPaused")),
            number(row, "nextScheduleTime"), ticks_of(text(row, "cron"), number(row, "nextScheduleTime")),
            number(row, "lastScheduleTime"),
            _results(row.get("lastScheduleStates")), text(row, "error"),
        )
        for row in found
    )))  # fmt: skip


def ticks_of(cron: str, next_at_ms: int) -> tuple[Tick, ...]:
    """Return the next ticks from the first on; none when it has none, or when the cron is of another make."""
    try:
        parsed = parse_cron(cron)
    except InvalidValue:
        return ()
    found: list[Tick] = []
    at_ms: int | None = next_at_ms or None
    while at_ms is not None and len(found) < NEXT_TICKS:
        local = datetime.fromtimestamp(at_ms / 1000, parsed.zone)
        found.append(Tick(at_ms, f"{local:%a %d %b %Y %H:%M} {local.tzname()}"))
        at_ms = parsed.next_ms(at_ms)
    return tuple(found)


def _results(value: object) -> tuple[tuple[str, str], ...]:
    found = cast(Json, value) if isinstance(value, dict) else {}
    return tuple((message_id, str(state)) for message_id, state in found.items())


async def list_queues(visit: Visit) -> Answer:
    return Page("queues.html", QueuesView(await _queues(visit)))


async def make_queue(visit: Visit) -> Answer:
    """Make a queue; one that is there already is not changed."""
    name, parallelism = visit.given("name").strip(), visit.given("parallelism").strip()
    queues = await _queues(visit)
    try:
        if name in [queue.name for queue in queues]:
            raise InvalidValue(f"there is a queue {name[:100]!r}: change that one")
        await visit.api.save_queue(name, _parallelism(parallelism), paused=False)
    except (InvalidValue, ApiRefusal) as error:
        if isinstance(error, ApiRefusal) and error.status != 400:
            raise
        said = error.text if isinstance(error, ApiRefusal) else str(error)
        return Page("queues.html", QueuesView(queues, name, parallelism, said), 400, refusal=said)
    return Done(f"queue {name} is made", "/queues", target=name)


async def _queues(visit: Visit) -> tuple[Queue, ...]:
    return tuple(queue_of(row) for row in await visit.api.queues())


def queue_of(row: Json) -> Queue:
    """Read a queue."""
    return Queue(text(row, "name"), number(row, "parallelism"), number(row, "lag"), bool(row.get("paused")))


async def list_groups(visit: Visit) -> Answer:
    found = await visit.api.url_groups()
    groups: list[UrlGroup] = []
    for row in found:
        rows = [cast(Json, end) for end in items(row, "endpoints") if isinstance(end, dict)]
        ends = tuple((text(end, "name"), text(end, "url")) for end in rows)
        groups.append(UrlGroup(text(row, "name"), ends))
    return Page("url_groups.html", UrlGroupsView(tuple(groups)))


async def list_flow_keys(visit: Visit) -> Answer:
    found = await visit.api.flow_keys(visit.asked("search"))
    return Page("flow_control.html", FlowKeysView(tuple(flow_key_of(row) for row in found), visit.asked("search")))


def flow_key_of(row: Json) -> FlowKey:
    """Read a flow-control key."""
    return FlowKey(
        text(row, "flowControlKey"), number(row, "waitListSize"), number(row, "parallelismCount"),
        number(row, "parallelismMax"), number(row, "rateMax"), number(row, "rateCount"), number(row, "ratePeriod"),
        bool(row.get("isPaused")), bool(row.get("isPinnedParallelism") or row.get("isPinnedRate")),
    )  # fmt: skip


async def show_keys(visit: Visit) -> Answer:
    try:
        keys = await visit.api.keys()
    except ApiRefusal as refusal:
        if refusal.status != 403:
            raise
        return Page("keys.html", KeysView("", ""))
    return Page("keys.html", KeysView(_masked(text(keys, "current")), _masked(text(keys, "next"))))


def _masked(key: str) -> str:
    return key[:8] + "…" if key else ""


async def rotate_keys(visit: Visit) -> Answer:
    await visit.api.rotate_keys()
    return Done("the keys are rotated: the next one signs now", "/keys")


Act = Callable[[Visit, str], Awaitable[None]]


async def _run_now(visit: Visit, schedule_id: str) -> None:
    await of_schedule(await visit.api.schedule(schedule_id)).send(visit.api)


async def _set_queue(visit: Visit, name: str) -> None:
    wanted = _parallelism(visit.given("parallelism").strip())
    paused = bool((await visit.api.queue(name)).get("paused"))
    await visit.api.save_queue(name, wanted, paused=paused)


def _parallelism(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= len(text) <= 9 and int(text)):
        raise InvalidValue(f"the parallelism must be a whole number above 0, not {text[:40]!r}")
    return int(text)


async def _add_endpoint(visit: Visit, group: str) -> None:
    end: Json = {"url": visit.given("url").strip()}
    if name := visit.given("name").strip():
        end["name"] = name
    await visit.api.add_endpoints(group.strip(), [end])


async def _remove_endpoint(visit: Visit, group: str) -> None:
    await visit.api.remove_endpoints(group, [{"url": visit.given("url")}])


async def _unpin(visit: Visit, key: str) -> None:
    await visit.api.change_flow_key(key, "unpin", [("parallelism", "true"), ("rate", "true")])


async def _pin(visit: Visit, key: str) -> None:
    fields = [(name, visit.given(name).strip()) for name in ("parallelism", "rate", "period")]
    await visit.api.change_flow_key(key, "pin", [(name, value) for name, value in fields if value])


VERBS: Mapping[tuple[str, str], Act] = {
    ("schedules", "pause"): lambda visit, one: visit.api.pause_schedule(one),
    ("schedules", "resume"): lambda visit, one: visit.api.resume_schedule(one),
    ("schedules", "delete"): lambda visit, one: visit.api.delete_schedule(one),
    ("schedules", "run"): _run_now,
    ("queues", "pause"): lambda visit, one: visit.api.pause_queue(one),
    ("queues", "resume"): lambda visit, one: visit.api.resume_queue(one),
    ("queues", "set"): _set_queue,
    ("queues", "delete"): lambda visit, one: visit.api.delete_queue(one),
    ("url-groups", "add"): _add_endpoint,
    ("url-groups", "remove"): _remove_endpoint,
    ("url-groups", "delete"): lambda visit, one: visit.api.delete_url_group(one),
    ("flow-control", "pause"): lambda visit, one: visit.api.change_flow_key(one, "pause"),
    ("flow-control", "resume"): lambda visit, one: visit.api.change_flow_key(one, "resume"),
    ("flow-control", "resetRate"): lambda visit, one: visit.api.change_flow_key(one, "resetRate"),
    ("flow-control", "pin"): _pin,
    ("flow-control", "unpin"): _unpin,
}


async def act_on(visit: Visit) -> Answer:
    """Do a verb to the one thing that the form names; go on with the page of it, if the form comes from there."""
    kind, verb, name = visit.path["kind"], visit.given("verb"), visit.given("id")
    act = VERBS.get((kind, verb))
    if act is None:
        raise InvalidValue(f"{verb[:40]!r} is nothing that can be done to {kind[:40]}")
    await act(visit, name)
    back = visit.given("back")
    inside = back.startswith(f"/{kind}/") and back.isascii() and back.isprintable()
    return Done(f"{verb}: {name}", back if inside else f"/{kind}", target=f"{verb} {name}")


screens = (
    Screen("/schedules", list_schedules),
    Screen("/queues", list_queues),
    Screen("/queues", make_queue, act="queue.make"),
    Screen("/url-groups", list_groups),
    Screen("/flow-control", list_flow_keys),
    Screen("/keys", show_keys),
    Screen("/keys/rotate", rotate_keys, act="keys.rotate"),
    Screen("/act/{kind}", act_on, act="resource"),
)
