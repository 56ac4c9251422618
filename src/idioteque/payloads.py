"""How the JSON of a result is kept: as it is while it is short, else compressed under a tag.

No JSON text begins with the tag, so whatever was stored before is read as it is. Stores keep either as they get it.
"""

from __future__ import annotations

import zlib

from idioteque.errors import IdiotequeError

COMPRESSED_FROM_BYTES = 4096
TEXT_BYTES_MAX = 64 * 1024 * 1024
LEVEL = 1  # twice as fast as the usual one, for a tenth more bytes
TAG = b"\x00z"


class PayloadUnreadable(IdiotequeError):
    """A stored payload is damaged, or holds more than anything that this package stores."""


def packed(text: bytes) -> bytes:
    """Return a JSON text as it is to be stored."""
    if len(text) < COMPRESSED_FROM_BYTES:
        return text
    compressed = TAG + zlib.compress(text, LEVEL)
    return compressed if len(compressed) < len(text) else text


def unpacked(payload: bytes) -> bytes:
    """Return the JSON text of a stored payload, or raise `PayloadUnreadable`."""
    if not payload.startswith(TAG):
        return payload
    reader = zlib.decompressobj()
    try:
        text = reader.decompress(payload[len(TAG) :], TEXT_BYTES_MAX)
    except zlib.error as error:
        raise PayloadUnreadable(f"a stored payload of {len(payload)} bytes is damaged: {error}") from None
    if not reader.eof:
        raise PayloadUnreadable(f"a stored payload is cut short, or holds more than {TEXT_BYTES_MAX} bytes")
    return text
