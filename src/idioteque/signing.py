"""Sign and verify deliveries: compact JWTs, HS256 and nothing else, by hand over `hmac`.

The claims are those of the QStash protocol: `iss` "Upstash", `sub` the destination URL, `exp` five minutes after `iat`,
`nbf` 0, `jti`, and `body`, the base64url SHA-256 of the raw body.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, cast

from idioteque.errors import SignatureError
from idioteque.ids import nonce

LIFETIME_S = 300
BACKDATED_S = 2  # receivers refuse an `iat` in their future: this much clock difference is forgiven
LEEWAY_S = 30
TOKEN_BYTES_MAX = 8192

_HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
_HEADER_DOT = _HEADER + b"."
_HEADER_TEXT = _HEADER.decode()
_HEADERS = ({"alg": "HS256", "typ": "JWT"}, {"alg": "HS256"})

_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_BLOCK_BYTES = 64  # of SHA-256
_INNER_PAD = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD = bytes(byte ^ 0x5C for byte in range(256))


class _Hash(Protocol):
    def copy(self) -> Self: ...
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified signature says: the URL it was made for, and the id of this one signature."""

    url: str
    jti: str
    issued_at_s: float


def sign(url: str, body: bytes, key: str, now_ms: int) -> str:
    """Return the token for one attempt to deliver `body` to `url`, valid from two seconds ago for five minutes."""
    issued_s = now_ms // 1000 - BACKDATED_S
    claims = (
        f'{{"iss":"Upstash","sub":{_quoted(url)},"exp":{issued_s + LIFETIME_S},"nbf":0,'
        f'"iat":{issued_s},"jti":"jwt_{nonce()}","body":"{_encoded(hashlib.sha256(body).digest()).decode()}"}}'
    )
    signed = _HEADER_DOT + _encoded(claims.encode()).rstrip(b"=")
    return (signed + b"." + _mac(signed, key)).decode()


def verify(token: str, body: bytes, keys: Sequence[str], now_ms: int, url: str | None = None) -> Claims:
    """Return the claims of a token that one of the keys signed for this body (and, if given, this URL).

    Raise `SignatureError` naming the first rule that fails; with two keys, a signature that neither made.
    """
    if len(token) > TOKEN_BYTES_MAX:
        raise SignatureError(f"the signature is longer than {TOKEN_BYTES_MAX} bytes")
    parts = token.split(".")
    if len(parts) != 3 or not all(parts):
        raise SignatureError("the signature is not a compact JWT of three parts")
    if parts[0] != _HEADER_TEXT and _decoded_json(parts[0], "header") not in (
        {"alg": "HS256", "typ": "JWT"},
        {"alg": "HS256"},
    ):
        raise SignatureError("the signature's header must be exactly HS256 and JWT")
    try:
        signed, mac = f"{parts[0]}.{parts[1]}".encode("ascii"), parts[2].encode("ascii")
    except UnicodeEncodeError:
        raise SignatureError("the signature is not ASCII") from None
    # Compared as text: a MAC in another spelling of the same bits is refused as well.
    if not any([hmac.compare_digest(mac, _mac(signed, key)) for key in keys if key]):  # noqa: C419 - try every key
        raise SignatureError("the signature was not made with any of the configured signing keys")
    return _checked(_decoded_json(parts[1], "payload"), body, now_ms / 1000, url)


def _checked(claims: dict[str, Any], body: bytes, now_s: float, url: str | None) -> Claims:
    issued_s, expires_s, not_before_s = (_time(claims, name) for name in ("iat", "exp", "nbf"))
    if claims.get("iss") != "Upstash":
        raise SignatureError(f"the signature's issuer is {claims.get('iss')!r}, not 'Upstash'")
    subject, jti = claims.get("sub"), claims.get("jti", "")
    if not isinstance(subject, str) or not isinstance(jti, str):
        raise SignatureError("the signature's `sub` and `jti` must be strings")
    if url is not None and subject != url:
        raise SignatureError(f"the signature was made for {subject!r}, and this endpoint is configured as {url!r}")
    if now_s > expires_s + LEEWAY_S:
        raise SignatureError(f"the signature expired {now_s - expires_s:.0f} s ago; compare the two clocks")
    if max(not_before_s, issued_s) > now_s + LEEWAY_S:
        raise SignatureError("the signature is not valid yet; compare the two clocks")
    digest = claims.get("body")
    if not isinstance(digest, str):
        raise SignatureError("the signature has no `body` claim")
    expected = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).decode().rstrip("=")
    if not hmac.compare_digest(digest.rstrip("=").encode(errors="replace"), expected.encode()):
        raise SignatureError("the body is not the one that was signed")
    return Claims(subject, jti, issued_s)


def _time(claims: dict[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e12 < value < 1e12:
        raise SignatureError(f"the signature's `{name}` must be a number")
    return float(value)


def _decoded_json(part: str, what: str) -> dict[str, Any]:
    try:
        raw = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        value: object = _DECODER.decode(raw.decode())
    except (binascii.Error, ValueError, RecursionError):
        raise SignatureError(f"the signature's {what} is not base64url JSON") from None
    if not isinstance(value, dict):
        raise SignatureError(f"the signature's {what} is not a JSON object")
    return cast(dict[str, Any], value)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) != len({name for name, _ in pairs}):
        raise ValueError("duplicate names")
    return dict(pairs)


_DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates)


@functools.lru_cache(maxsize=1024)
def _quoted(url: str) -> str:
    return json.dumps(url)


@functools.lru_cache(maxsize=64)
def _keyed(key: str) -> tuple[_Hash, _Hash]:
    """Return the two hashes of HMAC (RFC 2104) after their first block, which is all that a key decides."""
    secret = key.encode()
    if len(secret) > _BLOCK_BYTES:
        secret = hashlib.sha256(secret).digest()
    block = secret.ljust(_BLOCK_BYTES, b"\0")
    return hashlib.sha256(block.translate(_INNER_PAD)), hashlib.sha256(block.translate(_OUTER_PAD))


def _mac(signed: bytes, key: str) -> bytes:
    keyed = _keyed(key)
    inner, outer = keyed[0].copy(), keyed[1].copy()
    inner.update(signed)
    outer.update(inner.digest())
    return _encoded(outer.digest()).rstrip(b"=")


def _encoded(data: bytes) -> bytes:
    """Return base64url: what `base64.urlsafe_b64encode` does, without the calls in between."""
    return binascii.b2a_base64(data, newline=False).translate(_URL_SAFE)
