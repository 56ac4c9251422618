"""Schedules in the protocol's JSON."""

from __future__ import annotations

from collections.abc import Mapping

from idioteque.server.model import Options, Schedule
from idioteque.server.wire.shapes import body_fields, header_map, option_fields, shown_headers

Json = dict[str, object]


def schedule_json(schedule: Schedule, options: Options, fates: Mapping[str, str]) -> Json:
    """Return a schedule as `/v2/schedules/{id}` shows it; `fates` are those of its last messages by their ids."""
    shown: Json = {
        "scheduleId": schedule.id,
        "cron": schedule.cron,
        "createdAt": schedule.created_at_ms,
        "destination": schedule.destination,
        "method": options.method,
        "retries": options.retries_max,
        "isPaused": schedule.paused,
        "header": header_map(shown_headers(options.headers, options.redact)),
        **body_fields("body", schedule.body, redacted="body" in options.redact),
        **option_fields(options),
    }
    if options.callback is not None:
        shown["callbackHeader"] = header_map(options.callback.headers)
    if options.failure_callback is not None:
        shown["failureCallbackHeader"] = header_map(options.failure_callback.headers)
    if options.retry_delay is not None:
        shown["retryDelayExpression"] = options.retry_delay
    if options.delay_ms:
        shown["delay"] = options.delay_ms // 1000
    if options.timeout_s is not None:
        shown["timeout"] = options.timeout_s
    if schedule.caller_ip:
        shown["callerIP"] = shown["callerIp"] = schedule.caller_ip
    return {**shown, **_state_fields(schedule, fates)}


def _state_fields(schedule: Schedule, fates: Mapping[str, str]) -> Json:
    named: tuple[tuple[str, object], ...] = (
        ("queueName", schedule.queue_name),
        ("lastScheduleTime", schedule.fired_at_ms),
        ("nextScheduleTime", schedule.next_at_ms),
        ("lastScheduleStates", dict(fates) or None),
        ("error", schedule.error),
    )
    return {name: value for name, value in named if value is not None}
