"""The server's records. What a message is never changes once it is accepted; where it stands is kept beside it.

No record is ever changed. Those that are made for every message are not frozen all the same: it would cost three times
as much to make them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntFlag

from idioteque.transport import Headers


@dataclass(frozen=True, slots=True)
class Callback:
    """Where the outcome of an attempt is sent, and the publish headers (`Upstash-Retries`, …) of that message."""

    url: str
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class FlowControl:
    """A flow-control key, and what a message sets its limits to: deliveries under way, and begun in each period.

    None stands for no limit.
    """

    key: str
    parallelism: int | None = None
    rate: int | None = None
    period_s: int = 1


@dataclass(frozen=True, slots=True)
class Options:
    """How a message is to be delivered; `headers` are sent as they stand, their names in canonical form.

    `timeout_s` and `retry_delay` (an expression) are None for the defaults. `not_before_ms` wins over `delay_ms`.
    """

    method: str = "POST"
    headers: Headers = ()
    retries_max: int = 3
    retry_delay: str | None = None
    timeout_s: int | None = None
    delay_ms: int = 0
    not_before_ms: int | None = None
    callback: Callback | None = None
    failure_callback: Callback | None = None
    labels: tuple[str, ...] = ()
    redact: tuple[str, ...] = ()  # what the API never shows: `body`, `header` (all of them), `header[x-name]`
    flow: FlowControl | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """What made a message, if it was not asked for by itself: a schedule, a URL group and the endpoint of it."""

    schedule_id: str | None = None
    url_group: str | None = None
    endpoint: str | None = None


DIRECT = Source()


@dataclass(slots=True, unsafe_hash=True)
class Draft:
    """A message as it was asked for, checked, and not stored yet."""

    url: str
    body: bytes
    options: Options
    deduplication_key: str | None = None
    caller_ip: str = ""
    source: Source = DIRECT
    queue: str | None = None


@dataclass(slots=True, unsafe_hash=True)
class Message:
    """An accepted message."""

    id: str
    url: str
    body: bytes
    options: Options
    created_at_ms: int
    not_before_ms: int
    caller_ip: str = ""
    source: Source = DIRECT
    queue: str | None = None


@dataclass(slots=True, unsafe_hash=True)
class Accepted:
    """What became of a draft: a new message, or the one that carries its deduplication id already."""

    message_id: str
    url: str
    deduplicated: bool = False


@dataclass(frozen=True, slots=True)
class Slot:
    """The right of one message of a queue, the one with this place in it, to be delivered and reported on."""

    queue: str
    place: int


@dataclass(slots=True, unsafe_hash=True)
class Lease:
    """The right to deliver a message; `token` fences out whoever held it before, `retried` counts finished attempts.

    `slot` is the one that the message holds in its queue or, if it is a callback, in that of its source.
    """

    message: Message
    token: int
    retried: int
    slot: Slot | None = None


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue: how many of its messages are under way at most, and how many (`lag`) have not ended."""

    name: str
    parallelism: int
    paused: bool
    created_at_ms: int
    updated_at_ms: int
    lag: int = 0


@dataclass(frozen=True, slots=True)
class FlowKey:
    """A flow-control key: its limits (None for no limit), how far they are used, and how many deliveries wait for it.

    Pinned limits are not changed by messages. The period begins with the first delivery after the last one's end.
    """

    limits: FlowControl
    pinned_parallelism: bool
    pinned_rate: bool
    paused: bool
    period_began_ms: int
    rate_used: int
    running: int = 0
    waiting: int = 0

    def is_in_period(self, now_ms: int) -> bool:
        """Whether the period that began last is not over."""
        return self.period_began_ms <= now_ms < self.period_end_ms

    @property
    def period_end_ms(self) -> int:
        """When the period that began last is over."""
        return self.period_began_ms + self.limits.period_s * 1000


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One destination of a URL group, perhaps with a name."""

    url: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class UrlGroup:
    """Destinations under one name; `headers` are publish headers (`Upstash-Retries`, …) that requests may override."""

    name: str
    created_at_ms: int
    updated_at_ms: int
    endpoints: tuple[Endpoint, ...]
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Schedule:
    """A publish that is repeated; `headers` are its publish headers as they came, names in lower case.

    `next_at_ms` is the tick that comes next: None while it is paused, or when none will come. `last_at_ms` is the
    latest that was dealt with, `fired_at_ms` the latest that made messages, those of `message_ids`; `error` says what
    went wrong with the latest.
    """

    id: str
    cron: str
    destination: str
    headers: Headers
    body: bytes
    queue_name: str | None
    caller_ip: str
    created_at_ms: int
    paused: bool = False
    next_at_ms: int | None = None
    last_at_ms: int | None = None
    fired_at_ms: int | None = None
    message_ids: tuple[str, ...] = ()
    error: str | None = None


class States(IntFlag):
    """States of a message's log; one row holds those that begin at one moment, in the order of their values."""

    CREATED = 1
    ACTIVE = 2
    DELIVERED = 4
    ERROR = 8
    RETRY = 16
    FAILED = 32
    CANCEL_REQUESTED = 64
    CANCELED = 128


@dataclass(slots=True, unsafe_hash=True)
class Answer:
    """What an attempt brought: a response, or status 0 and the error that prevented one."""

    status: int = 0
    headers: Headers = ()
    body: bytes = b""
    error: str | None = None


@dataclass(slots=True, unsafe_hash=True)
class LogRow:
    """One moment in a message's life. `next_at_ms` is when it will be tried again, `answer` what an attempt brought."""

    message_id: str
    time_ms: int
    states: States
    answer: Answer | None = None
    next_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One state of one message, as it is listed; `cursor` continues a list behind it."""

    message: Message
    time_ms: int
    state: States
    answer: Answer | None
    next_at_ms: int | None
    cursor: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message whose attempts are used up, and the last thing its destination said."""

    id: str
    message: Message
    time_ms: int
    answer: Answer


@dataclass(slots=True)
class Stretch:
    """What happened in some minutes from `began_ms` on; `latency` counts deliveries by the bounds of `DELAYS_S`."""

    began_ms: int
    accepted: int = 0
    delivered: int = 0
    retried: int = 0
    dead_lettered: int = 0
    latency: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that waits for its turn, the first at place 1; `due_ms` is None while it has no slot of its queue."""

    place: int
    message_id: str
    url: str
    created_at_ms: int
    due_ms: int | None
    retried: int
    is_under_way: bool


@dataclass(frozen=True, slots=True)
class Filter:
    """Which messages are meant: the values of one field are alternatives, and all fields must agree.

    `fields` are names of message columns. Dates are inclusive, in milliseconds. `ids` alone, if given, decide.
    """

    ids: tuple[str, ...] | None = None
    fields: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    labels: tuple[str, ...] = ()
    from_ms: int | None = None
    to_ms: int | None = None
    response_statuses: tuple[int, ...] = ()
    states: States | None = None
    message_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """How much of a list is wanted: `cursor` is where the one before ended, or None for the beginning.

    `has_count` tells whether the count was asked for.
    """

    count: int = 100
    cursor: str | None = None
    earliest_first: bool = False
    has_count: bool = False
