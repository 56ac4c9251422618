"""Durable functions over QStash: publish an event, and the work is done, whatever crashes in between."""

from __future__ import annotations

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
    "Why",
    "Worker",
]
