"""The schedules of functions with `cron=`: made, changed and taken away so that QStash has what the code declares."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from idioteque.client import Json, QStash
from idioteque.dispatcher import CALLBACK_HEADER, FAILURE_CALLBACK, tick_body
from idioteque.function import Function

DIGEST_LENGTH = 16


@dataclass(frozen=True, slots=True)
class SyncedSchedules:
    """The ids of functions whose schedules were made, changed, taken away, or were right already."""

    created: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScheduleSync:
    """The schedules of one mount, whose URL is in their ids: those of others are never touched."""

    qstash: QStash
    mount_url: str
    retries: int
    retry_delay: str

    async def run(self, functions: Sequence[Function], *, dry_run: bool) -> SyncedSchedules:
        """Bring the schedules in line. One that is right is left alone: made again, it would lose a tick that is due.

        One that was paused stays paused.
        """
        prefix = f"idioteque-{_digest(self.mount_url)}-"
        present = {str(each.get("scheduleId")): each for each in await self.qstash.schedules()}
        wanted = {f"{prefix}{function.id}": function for function in functions if function.cron is not None}
        found: dict[str, list[str]] = {"created": [], "updated": [], "removed": [], "unchanged": []}
        for schedule_id, function in wanted.items():
            body = self._body(function)
            is_there = schedule_id in present
            if is_there and self._is_right(present[schedule_id], function, body):
                found["unchanged"].append(function.id)
                continue
            found["updated" if is_there else "created"].append(function.id)
            if not dry_run:
                await self.qstash.create_schedule(self.mount_url, self._headers(schedule_id, function), body)
        for schedule_id in present:
            if schedule_id.startswith(prefix) and schedule_id not in wanted:
                found["removed"].append(schedule_id.removeprefix(prefix))
                if not dry_run:
                    await self.qstash.delete_schedule(schedule_id)
        return SyncedSchedules(**{name: tuple(sorted(ids)) for name, ids in found.items()})

    def _is_right(self, schedule: Json, function: Function, body: bytes) -> bool:
        said = (schedule.get("cron"), schedule.get("destination"), schedule.get("body"))
        return said == (function.cron, self.mount_url, body.decode())

    def _body(self, function: Function) -> bytes:
        """Return the body of a tick; all else that the schedule consists of is in it as a digest, to be compared."""
        settings = [header for header in self._headers("", function) if header[0] != "Upstash-Schedule-Id"]
        return tick_body(function.id, settings=_digest(json.dumps(settings)))

    def _headers(self, schedule_id: str, function: Function) -> list[tuple[str, str]]:
        return [
            ("Upstash-Schedule-Id", schedule_id),
            ("Upstash-Cron", function.cron or ""),
            ("Upstash-Method", "POST"),
            ("Content-Type", "application/json"),
            ("Upstash-Retries", str(self.retries)),
            ("Upstash-Retry-Delay", self.retry_delay),
            ("Upstash-Failure-Callback", self.mount_url),
            (f"Upstash-Failure-Callback-Forward-{CALLBACK_HEADER}", FAILURE_CALLBACK),
        ]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
