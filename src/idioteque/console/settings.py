"""What an operator may choose about the console."""

from __future__ import annotations

import re
from dataclasses import dataclass

from idioteque.dispatchers.qstash import checked_mount_url
from idioteque.errors import ConfigurationError

_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_NO_SEGMENT = re.compile(r"/\.{1,2}(?:/|$)")


@dataclass(frozen=True, slots=True)
class ConsoleSettings:
    """Where the console's runs are, how people reach it, and its limits; the unit stands in the name.

    `api_url` is how clients call the QStash whose pages these are. `store` is the URL of a store of runs, None when
    there is none. `mount_url` is where runs' messages go, None to learn it from the messages themselves. `prefix` is
    the path under which a proxy shows the console, and `trust_forwarded` lets the proxy say it with
    `X-Forwarded-Prefix` and `X-Forwarded-Proto`. `dev`: no login, and loopback names only.
    """

    api_url: str
    store: str | None = None
    mount_url: str | None = None
    prefix: str = ""
    trust_forwarded: bool = False
    dev: bool = False
    session_s: int = 12 * 3600
    sessions_max: int = 1000
    logins_per_minute_max: int = 5  # of one peer, that failed
    form_bytes_max: int = 2 * 1024 * 1024
    live_streams_max: int = 100
    live_stream_s: float = 600.0  # a browser comes back by itself
    live_every_s: float = 1.0
    bulk_max: int = 1000  # runs or messages that one bulk action changes
    shown_chars_max: int = 20_000  # of a payload, before it is cut; the whole is a click away

    def __post_init__(self) -> None:
        checked_prefix(self.prefix)
        if self.mount_url is not None:
            checked_mount_url(self.mount_url)


def checked_prefix(text: str) -> str:
    """Return a path prefix; raise `ConfigurationError` unless it is empty or like `/ops/console`."""
    if _PREFIX.fullmatch(text) is None or _NO_SEGMENT.search(text):
        raise ConfigurationError(f"the console's prefix must be empty, or like /ops/console, not {text[:100]!r}")
    return text
