"""The `QSTASH_*` variables: where a QStash is, the token that opens it, and the keys that it signs with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from idioteque.errors import ConfigurationError

HOSTED_URL = "https://qstash.upstash.io"
DEV_PORT = 8080

# What the protocol's documentation publishes for local servers: the same on every machine, and no secret.
DEV_TOKEN = "eyJVc2VySUQiOiJkZWZhdWx0VXNlciIsIlBhc3N3b3JkIjoiZGVmYXVsdFBhc3N3b3JkIn0="  # noqa: S105
DEV_CURRENT_SIGNING_KEY = "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r"
DEV_NEXT_SIGNING_KEY = "sig_5ZB6DVzB1wjE8S6rZ7eenA8Pdnhs"

_ON = ("true", "1")
_OFF = ("false", "0", "")

LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "::1"))


def is_loopback_name(host: str) -> bool:
    """Whether a `Host` header names this machine by a name that nobody else can have.

    What runs without a login answers to no other: a web page may have its own name bound to 127.0.0.1.
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return False
    return name in LOOPBACK_NAMES or name.endswith(".localhost")


@dataclass(frozen=True, slots=True)
class Account:
    """One QStash as its user knows it: `url` without a slash at its end, and None for what was not given."""

    url: str
    token: str | None = field(repr=False)
    current_signing_key: str | None = field(repr=False)
    next_signing_key: str | None = field(repr=False)


def account_from(environment: Mapping[str, str]) -> Account:
    """Read the variables; `QSTASH_DEV` wins over the others, as in the JavaScript SDK.

    Raise `ConfigurationError` for a value of `QSTASH_DEV` or `QSTASH_DEV_PORT` that means nothing.
    """
    if is_dev(environment):
        port = environment.get("QSTASH_DEV_PORT", "").strip() or str(DEV_PORT)
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ConfigurationError(f"QSTASH_DEV_PORT must be a port, not {port!r}")
        return Account(f"http://127.0.0.1:{port}", DEV_TOKEN, DEV_CURRENT_SIGNING_KEY, DEV_NEXT_SIGNING_KEY)
    return Account(
        (environment.get("QSTASH_URL", "").strip() or HOSTED_URL).rstrip("/"),
        environment.get("QSTASH_TOKEN", "").strip() or None,
        environment.get("QSTASH_CURRENT_SIGNING_KEY", "").strip() or None,
        environment.get("QSTASH_NEXT_SIGNING_KEY", "").strip() or None,
    )


def is_dev(environment: Mapping[str, str]) -> bool:
    """Whether `QSTASH_DEV` asks for the local server and its published credentials."""
    value = environment.get("QSTASH_DEV", "").strip().lower()
    if value not in (*_ON, *_OFF):
        raise ConfigurationError(f"QSTASH_DEV must be true or false, not {value!r}")
    return value in _ON
