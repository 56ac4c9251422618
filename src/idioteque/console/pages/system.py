"""The system: what this is and how large, what it keeps for how long, who did what, and what a doctor finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import cast

from idioteque.client import Json
from idioteque.console.audit import Act
from idioteque.console.checkup import Finding
from idioteque.console.entries import number, text
from idioteque.console.frame import Answer, NotShown, Page, Screen, Visit


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What our own server tells of itself; `rows` are about so many, seconds stand for how long things are kept."""

    version: str
    started_at_ms: int
    durability: str
    file_bytes: int
    wal_bytes: int
    rows: tuple[tuple[str, int], ...]
    log_s: int
    log_messages_max: int
    dead_letter_s: int
    delivered_readable_s: int
    deduplication_s: int
    in_flight_max: int
    lines_held: int


@dataclass(frozen=True, slots=True)
class SystemView:
    """What this console is over, and its last actions; `server` is None over another QStash."""

    version: str
    api_url: str
    store: str
    may_act: bool
    has_doctor: bool
    server: ServerFacts | None
    acts: tuple[Act, ...]


@dataclass(frozen=True, slots=True)
class DoctorView:
    """What a doctor has found just now."""

    findings: tuple[Finding, ...]


async def show_system(visit: Visit) -> Answer:
    settings = visit.services.settings
    status = await visit.api.status()
    view = SystemView(
        version=metadata.version("idioteque"),
        api_url=settings.api_url,
        store=(settings.store or "").partition("@")[2] or settings.store or "",
        may_act=visit.session.may_act,
        has_doctor=visit.services.checkup is not None,
        server=None if status is None else facts_of(status),
        acts=visit.services.audit.acts,
    )
    return Page("system.html", view)


def facts_of(status: Json) -> ServerFacts:
    """Read what `/status` says."""
    kept, rows = _inner(status, "retention"), _inner(status, "rows")
    return ServerFacts(
        version=text(status, "version"),
        started_at_ms=number(status, "startedAt"),
        durability=text(status, "durability"),
        file_bytes=number(status, "fileBytes"),
        wal_bytes=number(status, "walBytes"),
        rows=tuple((name, number(rows, key)) for name, key in _ROWS),
        log_s=number(kept, "logSeconds"),
        log_messages_max=number(kept, "logMessagesMax"),
        dead_letter_s=number(kept, "deadLetterSeconds"),
        delivered_readable_s=number(kept, "deliveredReadableSeconds"),
        deduplication_s=number(kept, "deduplicationSeconds"),
        in_flight_max=number(status, "inFlightMax"),
        lines_held=number(status, "linesHeld"),
    )


_ROWS: tuple[tuple[str, str], ...] = (("messages", "messages"), ("log rows", "logs"), ("dead letters", "deadLetters"))


def _inner(status: Json, name: str) -> Json:
    value = status.get(name)
    return dict(cast(Mapping[str, object], value)) if isinstance(value, dict) else {}


async def show_doctor(visit: Visit) -> Answer:
    checkup = visit.services.checkup
    if checkup is None:
        raise NotShown("this console has no doctor; `idioteque doctor` is one")
    return Page("doctor.html", DoctorView(tuple(await checkup(visit.session.token))))


screens = (Screen("/system", show_system), Screen("/system/doctor", show_doctor))
