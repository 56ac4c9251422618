"""Ids, keys and tokens: the only file that draws chance."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import re

from idioteque.errors import InvalidValue

_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def new_id(prefix: str, now_ms: int) -> str:
    """Return `prefix_` and 32 hex digits: 48 bits of time, so that ids sort by age, and 80 bits of chance."""
    return f"{prefix}_{now_ms:012x}{os.urandom(10).hex()}"


def nonce() -> str:
    """Return 16 hex digits of chance."""
    return os.urandom(8).hex()


def new_secret() -> str:
    """Return 64 hex digits of chance (256 bits), for what must not be guessed."""
    return os.urandom(32).hex()


def derived_id(prefix: str, *parts: str) -> str:
    """Return the id that these parts always give: `prefix_` and 32 hex digits of a hash over all of them."""
    joined = json.dumps(parts, separators=(",", ":"), ensure_ascii=True)
    return f"{prefix}_{hashlib.sha256(joined.encode()).hexdigest()[:32]}"


def is_id(text: str) -> bool:
    """Whether a text may serve as an event or run id: 1 to 128 of `A-Z a-z 0-9 _ . -`."""
    return _ID.fullmatch(text) is not None


def checked_id(text: str, what: str) -> str:
    """Return the id, or raise `InvalidValue` naming it and the rule."""
    if not is_id(text):
        raise InvalidValue(f"{what} {text[:140]!r} must match [A-Za-z0-9_.-]{{1,128}}")
    return text


def new_signing_key() -> str:
    """Return `sig_` and 43 characters of base 62 (256 bits): the shape of the official keys, which have 28."""
    return "sig_" + _base62(43)


def new_token(user_id: str) -> str:
    """Return an API token: base64 of `{"UserID":…,"Password":…}`, the shape from which SDKs read the user id.

    The password holds 43 characters of base 62, 256 bits.
    """
    document = json.dumps({"UserID": user_id, "Password": _base62(43)}, separators=(",", ":"))
    return base64.b64encode(document.encode()).decode()


def jittered(value: float, fraction: float) -> float:
    """Return the value moved by up to ± `fraction` of itself."""
    return value * random.uniform(1 - fraction, 1 + fraction)  # noqa: S311 - spreads load, guards nothing


def _base62(length: int) -> str:
    chooser = random.SystemRandom()
    return "".join(chooser.choice(_BASE62) for _ in range(length))
