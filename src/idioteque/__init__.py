"""Durable functions over QStash: publish an event, and the work is done, whatever crashes in between.

Names are imported when they are first used: a command or a cold start pays only for what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idioteque.context import Context
    from idioteque.controls import Limit, Rate
    from idioteque.dispatchers import HttpDispatcher, InlineDispatcher, QStashDispatcher
    from idioteque.errors import (
        BatchDispatchError,
        ConfigurationError,
        DispatchError,
        DuplicateStepKey,
        EventRejected,
        IdiotequeError,
        InvalidValue,
        NonRetryableError,
        PassOver,
        ResultNotSerializable,
        RetryAfter,
        RunCancelled,
        RunFailed,
        RunUnknown,
        SignatureError,
        StepFailed,
        StepInterrupted,
    )
    from idioteque.function import Published, RunFailure
    from idioteque.mount import Mount
    from idioteque.retry import Retry
    from idioteque.runs import Run, RunPage, Step, Why
    from idioteque.sync import SyncContext
    from idioteque.ticks import Tick
    from idioteque.transport import HttpRequest, HttpResponse
    from idioteque.worker import Worker

__all__ = [
    "BatchDispatchError",
    "ConfigurationError",
    "Context",
    "DispatchError",
    "DuplicateStepKey",
    "EventRejected",
    "HttpDispatcher",
    "HttpRequest",
    "HttpResponse",
    "IdiotequeError",
    "InlineDispatcher",
    "InvalidValue",
    "Limit",
    "Mount",
    "NonRetryableError",
    "PassOver",
    "Published",
    "QStashDispatcher",
    "Rate",
    "ResultNotSerializable",
    "Retry",
    "RetryAfter",
    "Run",
    "RunCancelled",
    "RunFailed",
    "RunFailure",
    "RunPage",
    "RunUnknown",
    "SignatureError",
    "Step",
    "StepFailed",
    "StepInterrupted",
    "SyncContext",
    "Tick",
    "Why",
    "Worker",
]

_HOMES = {
    "BatchDispatchError": "idioteque.errors",
    "ConfigurationError": "idioteque.errors",
    "Context": "idioteque.context",
    "DispatchError": "idioteque.errors",
    "DuplicateStepKey": "idioteque.errors",
    "EventRejected": "idioteque.errors",
    "HttpDispatcher": "idioteque.dispatchers",
    "HttpRequest": "idioteque.transport",
    "HttpResponse": "idioteque.transport",
    "IdiotequeError": "idioteque.errors",
    "InlineDispatcher": "idioteque.dispatchers",
    "InvalidValue": "idioteque.errors",
    "Limit": "idioteque.controls",
    "Mount": "idioteque.mount",
    "NonRetryableError": "idioteque.errors",
    "PassOver": "idioteque.errors",
    "Published": "idioteque.function",
    "QStashDispatcher": "idioteque.dispatchers",
    "Rate": "idioteque.controls",
    "ResultNotSerializable": "idioteque.errors",
    "Retry": "idioteque.retry",
    "RetryAfter": "idioteque.errors",
    "Run": "idioteque.runs",
    "RunCancelled": "idioteque.errors",
    "RunFailed": "idioteque.errors",
    "RunFailure": "idioteque.function",
    "RunPage": "idioteque.runs",
    "RunUnknown": "idioteque.errors",
    "SignatureError": "idioteque.errors",
    "Step": "idioteque.runs",
    "StepFailed": "idioteque.errors",
    "StepInterrupted": "idioteque.errors",
    "SyncContext": "idioteque.sync",
    "Tick": "idioteque.ticks",
    "Why": "idioteque.runs",
    "Worker": "idioteque.worker",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
