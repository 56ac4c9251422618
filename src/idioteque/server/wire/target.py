"""The destination in a request's target: `/v2/publish/https://host/path?query`, taken apart without cleaning it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, unquote_plus

from idioteque.server.errors import BadRequest

TOKEN_PARAMETER = "qstash_token"  # noqa: S105 - the parameter's name
_PREFIX = "upstash-"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,256}")


@dataclass(frozen=True, slots=True)
class Target:
    """A destination as written (a URL, or a name), the configuration and the token that its query carried."""

    destination: str
    configuration: tuple[tuple[str, str], ...] = ()
    token: str | None = None


def parse_target(remainder: str, query: str) -> Target:
    """Take apart what follows the endpoint's own path, and the query, whose foreign part is the destination's.

    Order and escapes of what remains are kept: the URL is stored, signed and sent just as it was published.
    """
    configuration: list[tuple[str, str]] = []
    token: str | None = None
    if query:
        kept: list[str] = []
        for parameter in query.split("&"):
            name, _, value = parameter.partition("=")
            name = unquote_plus(name).lower()
            if name == TOKEN_PARAMETER:
                token = unquote_plus(value)
            elif name.startswith(_PREFIX):
                configuration.append((name, unquote_plus(value)))
            else:
                kept.append(parameter)
        query = "&".join(kept)
    destination = _restored(remainder)
    if query:
        destination += "?" + query
    return Target(destination, tuple(configuration), token)


def is_name(text: str) -> bool:
    """Whether a text may name a URL group, a queue, a schedule or an endpoint."""
    return _NAME.fullmatch(text) is not None


def checked_name(what: str, text: str) -> str:
    """Return a name, or raise `BadRequest` naming it and the rule."""
    if not is_name(text):
        raise BadRequest(f"invalid {what} {text[:100]!r}: must match [A-Za-z0-9._-]+, at most 256 characters")
    return text


def group_name(destination: str) -> str | None:
    """Return the URL group that a destination names, or None when it is a URL, or neither."""
    name = destination
    if not is_name(name):
        if "/" in name:
            return None
        name = unquote(name.partition("?")[0])
        if not is_name(name):
            return None
    return name


def query_token(query: str) -> str | None:
    """Return the token in a query, or None."""
    return parse_target("", query).token if TOKEN_PARAMETER in unquote(query).lower() else None


def _restored(remainder: str) -> str:
    """Give back what proxies take away: one slash of two, or an unescaped colon."""
    if remainder.startswith(("https://", "http://")):
        return remainder
    lowered = remainder[:12].lower()
    if lowered.startswith(("http%3a", "https%3a")):
        remainder = unquote(remainder)
        lowered = remainder[:8].lower()
    for scheme in ("https:/", "http:/"):
        if lowered.startswith(scheme) and not remainder[len(scheme) :].startswith("/"):
            return scheme + "/" + remainder[len(scheme) :]
    return remainder
