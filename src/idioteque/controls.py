"""What a function asks for besides being run: limits, one at a time, once only, not too soon, not too long."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel

from idioteque.durations import Duration, seconds
from idioteque.errors import ConfigurationError, InvalidValue
from idioteque.events import names_of

Key = str | Callable[[Any], object]
"""A field of the event, by its name, or a function of the event."""

CancelOn = Sequence[tuple[type[BaseModel], Mapping[str, str]]]
"""Events that cancel a run, each with which of its fields must equal which field of the run's event."""

PERIOD_MAX_S = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Limit:
    """At most so many deliveries of the function at work at a time, for each value of the key if there is one.

    A run that sleeps or waits holds no place.
    """

    limit: int
    key: Key | None = None

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise InvalidValue(f"a limit must be at least 1, not {self.limit}")


@dataclass(frozen=True, slots=True)
class Rate:
    """At most so many deliveries of the function begin in each period, for each value of the key if there is one."""

    limit: int
    per: Duration = "1m"
    key: Key | None = None

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise InvalidValue(f"a rate must be at least 1, not {self.limit}")
        if not 1 <= seconds(self.per, "per") <= PERIOD_MAX_S:
            raise InvalidValue(f"the period of a rate must be between a second and a week, not {self.per!r}")


@dataclass(frozen=True, slots=True)
class Controls:
    """The options of one function, checked."""

    timeout_s: float | None = None
    concurrency: Limit | None = None
    rate: Rate | None = None
    debounce_s: float | None = None
    singleton: Key | None = None
    idempotency: Key | None = None
    cancel_on: tuple[tuple[tuple[str, ...], Mapping[str, str]], ...] = ()

    def __post_init__(self) -> None:
        limits = [each.key for each in (self.concurrency, self.rate) if each is not None]
        if len(set(limits)) > 1:
            raise ConfigurationError("concurrency= and rate= of one function must have the same key")

    @property
    def start_at_once(self) -> bool:
        """Whether an event starts the function in its own delivery, whatever else was started before."""
        waits = (self.timeout_s, self.concurrency, self.rate, self.debounce_s, self.singleton, self.idempotency)
        return all(each is None for each in waits)

    def check_fields(self, function_id: str, classes: Sequence[type[BaseModel]]) -> None:
        """Raise `ConfigurationError` for a field named here that some event which starts the function cannot have."""
        keys = {
            "singleton": self.singleton,
            "idempotency": self.idempotency,
            "concurrency": self.concurrency and self.concurrency.key,
            "rate": self.rate and self.rate.key,
        }
        named = [(option, key) for option, key in keys.items() if isinstance(key, str)]
        named += [("cancel_on", ours) for _, fields in self.cancel_on for ours in fields.values()]
        for option, name in named:
            for event_class in classes:
                if lacks_field(event_class, name):
                    raise ConfigurationError(
                        f"function {function_id!r}: {option}= names {name!r}, which is no field of "
                        f"{event_class.__name__}; it has {', '.join(sorted(event_class.model_fields))}"
                    )

    def flow(self, function_id: str, event: object) -> tuple[str, str] | None:
        """Return the flow-control key and value that messages of a run carry, or None without limits."""
        if self.concurrency is None and self.rate is None:
            return None
        parts: list[str] = []
        key: Key | None = None
        if self.concurrency is not None:
            key = self.concurrency.key
            parts.append(f"parallelism={self.concurrency.limit}")
        if self.rate is not None:
            key = self.rate.key
            parts.append(f"rate={self.rate.limit}, period={round(seconds(self.rate.per))}s")
        return function_id if key is None else f"{function_id}.{_safe(key_of(key, event))}", ", ".join(parts)


def controls(
    *,
    timeout: Duration | None = None,
    concurrency: Limit | None = None,
    rate: Rate | None = None,
    debounce: Duration | None = None,
    singleton: Key | None = None,
    idempotency: Key | None = None,
    cancel_on: CancelOn = (),
) -> Controls:
    """Check a function's options; raise `InvalidValue` or `ConfigurationError`."""
    for event_class, fields in cancel_on:
        for theirs in fields:
            if lacks_field(event_class, theirs):
                raise ConfigurationError(f"cancel_on= names {theirs!r}, which is no field of {event_class.__name__}")
    return Controls(
        timeout_s=None if timeout is None else seconds(timeout, "timeout"),
        concurrency=concurrency,
        rate=rate,
        debounce_s=None if debounce is None else seconds(debounce, "debounce"),
        singleton=singleton,
        idempotency=idempotency,
        cancel_on=tuple((tuple(names_of(event_class)), dict(fields)) for event_class, fields in cancel_on),
    )


def lacks_field(event_class: type[BaseModel], name: str) -> bool:
    """Whether no event of a class can have a field."""
    return name not in event_class.model_fields and event_class.model_config.get("extra") != "allow"


def key_of(key: Key, event: object) -> str:
    """Return an event's value for a key, as text; raise `InvalidValue` for a field that it does not have."""
    if callable(key):
        return text_of(key(event))
    return text_of(field_of(event, key))


def field_of(event: object, name: str) -> object:
    """Return a field of an event, whether it is a model or a mapping; raise `InvalidValue` when there is none."""
    fields = cast(Mapping[str, object], event if isinstance(event, Mapping) else vars(event))
    if name not in fields:
        raise InvalidValue(f"the event has no field {name!r}, but {', '.join(sorted(fields)) or 'none'}")
    return fields[name]


def text_of(value: object) -> str:
    """Return a value as text, different for different values."""
    return json.dumps(value, sort_keys=True, default=str)


def _safe(text: str) -> str:
    """Write any text in the alphabet of flow-control keys, different texts differently."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else f".{ord(c):x}." for c in text)[:200]
