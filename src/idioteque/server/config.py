"""Every knob, limit and default of the server; the unit stands in the name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NoReturn

from idioteque.errors import ConfigurationError

DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What an operator may choose; the defaults are safe for a server that strangers can reach."""

    # Where it listens and what it keeps
    host: str = "127.0.0.1"
    port: int = 8080  # 0 lets the system choose one
    database: str = "sqlite:///idioteque.db"
    durability: str = "full"

    # Which destinations it reaches
    dev: bool = False  # private destinations allowed, published credentials, loopback only
    allow_private: tuple[str, ...] = ()  # networks in CIDR notation that are reached although they are not public
    rewrites: tuple[tuple[str, str], ...] = ()  # (from origin, to origin): sent there, signed as published

    # What one request may hold
    body_bytes_max: int = 1024 * 1024
    batch_bytes_max: int = 10 * 1024 * 1024
    url_bytes_max: int = 8192  # of a destination; the target of a request may be twice as long
    headers_max: int = 100
    headers_bytes_max: int = 32 * 1024
    forwarded_headers_max: int = 64
    forwarded_bytes_max: int = 16 * 1024
    schedules_max: int = 10_000
    queues_max: int = 10_000
    queue_parallelism_max: int = 1000
    url_groups_max: int = 10_000
    url_group_endpoints_max: int = 100
    fan_out_bytes_max: int = 128 * 1024 * 1024  # that one request may make of URL groups: bodies, and 1 KiB a message
    resolve_at_publish: bool = False  # refuse a destination whose name does not resolve yet, as the hosted service does
    token_in_query: bool = True  # `?qstash_token=`, the protocol's way for webhook senders
    wrong_tokens_per_s_max: int = 10  # of one peer; beyond it, a wrong token is answered 429
    messages_per_day_max: int | None = None  # accepted in a day of UTC, as long as the process lives
    management_per_s_max: int | None = None  # requests to everything but publish, enqueue and batch

    # What a connection may take
    connections_max: int = 1000
    connections_per_peer_max: int = 100  # of one address; this machine's own are bounded by the former alone
    head_s: float = 10.0  # for a request to begin and send its headers
    body_bytes_per_s_min: int = 1024
    idle_s: float = 60.0  # between two requests, or without taking what it was answered

    # How messages are retried
    retries_default: int = 3
    retries_max: int = 1000
    delay_max_s: int = 366 * DAY_S
    deduplication_window_s: int = 600

    # How schedules are kept up
    schedule_catch_up_s: int = DAY_S  # a tick that fell while no server ran is fired late if it is no older

    # How messages are delivered
    attempt_timeout_s: int = 900  # `Upstash-Timeout` may only shorten it
    response_bytes_max: int = 1024 * 1024  # of an answer, handed to a callback
    logged_bytes_max: int = 64 * 1024  # of an answer, kept in logs and dead letters
    in_flight_max: int = 1000
    destination_share: float = 0.5  # one destination holds at most this part of the free slots, see `Destinations`
    claim_max: int = 256
    lease_s: int = 30  # a dead process's messages return after this
    probe_every_s: float = 0.5
    probes_max: int = 64
    drain_s: float = 20.0  # how long a stop waits for attempts that are in flight

    # How long things are kept
    delivered_readable_s: int = 600  # a delivered message can still be read for so long
    flow_key_idle_s: int = 600  # a flow-control key that nobody uses is forgotten after so long
    log_retention_s: int = 3 * DAY_S
    log_messages_max: int = 1_000_000  # of messages that have ended; the oldest go first
    dead_letter_retention_s: int = 30 * DAY_S
    dead_letter_warning_s: int = 3 * DAY_S  # the operator is warned so long before dead letters are deleted
    housekeeping_every_s: float = 60.0

    # What one operation does
    cancel_honours_count: bool = True  # False: a bulk cancel takes every match, as the hosted service does since 2026

    @property
    def renew_every_s(self) -> float:
        """Derived: two renewals may fail before a lease is lost."""
        return self.lease_s / 3

    @property
    def lease_ms(self) -> int:
        """The lease in milliseconds."""
        return self.lease_s * 1000


def with_settings(config: ServerConfig, texts: Iterable[str]) -> ServerConfig:
    """Return a configuration changed by texts like `body_bytes_max=65536`; `none` lifts a limit that can be lifted.

    Raise `ConfigurationError` for an unknown name, or a value of another kind than the default.
    """
    settings: dict[str, Any] = {}  # by the kind of each field
    for text in texts:
        name, _, value = text.partition("=")
        kind = _SETTABLE.get(name)
        if kind is None:
            raise ConfigurationError(f"--set {text!r}: no such setting; there are {', '.join(_SETTABLE)}")
        try:
            settings[name] = _parsed(kind, value.strip().lower(), least=1 if name in _AT_LEAST_ONE else 0)
        except ValueError:
            raise ConfigurationError(f"--set {text!r}: {name} takes {_EXAMPLES[kind]}") from None
    return replace(config, **settings)


_EXAMPLES = {
    "int": "a whole number that is not negative, or zero where that would stop the server",
    "float": "a number above zero",
    "bool": "true or false",
    "int | None": "a whole number that is not negative, or none",
}
_AT_LEAST_ONE = {
    "connections_max", "connections_per_peer_max", "headers_max", "attempt_timeout_s", "in_flight_max", "claim_max",
    "lease_s", "probes_max",
}  # fmt: skip
_SETTABLE: Mapping[str, str] = {
    field.name: str(field.type)
    for field in fields(ServerConfig)
    if field.type in _EXAMPLES and field.name not in ("port", "dev")
}


def _parsed(kind: str, value: str, least: int) -> int | float | bool | None:
    if kind == "bool":
        return {"true": True, "false": False}[value] if value in ("true", "false") else _refuse(value)
    if kind == "int | None" and value == "none":
        return None
    number = float(value) if kind == "float" else int(value)
    allowed = 0 < number < 10**9 if kind == "float" else least <= number < 10**15
    return number if allowed else _refuse(value)


def _refuse(value: str) -> NoReturn:
    raise ValueError(value)
