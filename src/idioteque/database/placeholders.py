"""How `:name` parameters are written for drivers that know only `%(name)s`."""

from __future__ import annotations

import re
from functools import lru_cache

STATEMENTS_CACHED = 512

_TOKEN = re.compile(r"""'[^']*' | "[^"]*" | --[^\n]* | :: | :(?P<name>[A-Za-z_]\w*) | %""", re.VERBOSE)


@lru_cache(STATEMENTS_CACHED)
def with_placeholders(sql: str) -> bytes:
    """Return a statement with `%(name)s` for each `:name`, but for those in literals, quoted names and comments."""
    return _TOKEN.sub(_placeholder, sql).encode()


@lru_cache(STATEMENTS_CACHED)
def names_of(sql: str) -> tuple[str, ...]:
    """Return the names of a statement's parameters in the order in which they first appear."""
    return tuple(dict.fromkeys(token["name"] for token in _TOKEN.finditer(sql) if token["name"]))


def _placeholder(token: re.Match[str]) -> str:
    return f"%({token['name']})s" if token["name"] else token[0].replace("%", "%%")
