"""Paths of steps, and how they are written as one text."""

from __future__ import annotations

import functools
import re

from idioteque.errors import InvalidValue

Path = tuple[str, ...]
"""A step's keys from the outermost in; `()` is the body. Paths compare key by key, never as text."""

BODY: Path = ()
PATH_DEPTH_MAX = 32
KEY_LENGTH_MAX = 512

_ESCAPED = re.compile(r"[%/\x00-\x1f\x7f]")
_ESCAPE = re.compile(r"%([0-9A-F]{2})")


def checked_key(key: object) -> str:
    """Return a step key, or raise `InvalidValue`: any text of 1 to 512 characters will do."""
    if not isinstance(key, str) or not 0 < len(key) <= KEY_LENGTH_MAX:
        raise InvalidValue(f"a step key must be text of 1 to {KEY_LENGTH_MAX} characters, not {str(key)[:80]!r}")
    if key.isascii():
        return key
    try:
        key.encode()
    except UnicodeEncodeError:
        raise InvalidValue(f"the step key {key[:80]!r} holds a lone surrogate, which is not text") from None
    return key


@functools.lru_cache(maxsize=4096)
def path_text(path: Path) -> str:
    """Write a path as one text: keys joined by `/`, with `/`, `%` and control characters escaped; the body is empty."""
    return "/".join([_ESCAPED.sub(_escape, key) for key in path])


def _escape(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"


def path_of(text: str) -> Path:
    """Read what `path_text` wrote."""
    if not text:
        return BODY
    return tuple(_ESCAPE.sub(lambda match: chr(int(match[1], 16)), key) for key in text.split("/"))
