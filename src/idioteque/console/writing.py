"""What people write into the fields of a form, read."""

from __future__ import annotations

from collections.abc import Sequence

from idioteque.console.rendering import visible
from idioteque.errors import InvalidValue

BODY_CHARS_MAX = 100_000


def written_headers(text: str) -> list[tuple[str, str]]:
    """Read headers, one a line, `Name: value`; raise `InvalidValue` for a line that is none."""
    headers: list[tuple[str, str]] = []
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if line.strip() and not (colon and name.strip()):
            raise InvalidValue(f"the header {line[:100]!r} must be like Name: value")
        if line.strip():
            headers.append((name.strip(), value.strip()))
    return headers


def headers_text(headers: Sequence[tuple[str, str]]) -> str:
    """Return headers as they are written in a form."""
    return "\n".join(f"{name}: {value}" for name, value in headers)


def body_text(body: bytes) -> str | None:
    """Return a body as a form is filled with it, each line ended by LF; None when a form cannot carry it unaltered.

    So it is with what is no text, is longer than `BODY_CHARS_MAX`, has characters that nobody sees, or ends its lines
    in two ways.
    """
    try:
        whole = body.decode()
    except UnicodeDecodeError:
        return None
    shown = whole.replace("\r\n", "\n")
    is_even = whole in (shown, shown.replace("\n", "\r\n"))
    return shown if is_even and len(shown) <= BODY_CHARS_MAX and visible(shown) == shown else None


def written_body(written: str | None, body: bytes) -> bytes | None:
    """Return what is to be instead of a body that a form was filled with; None when nobody edited it, so that it stays.

    `written` is None where the form had no field for it. Raise `InvalidValue` for a text instead of a body that a form
    cannot carry.
    """
    shown = body_text(body)
    if written is None or written == shown:
        return None
    if shown is None:
        raise InvalidValue("no form can carry this body unaltered, so it stays as it is")
    return written.replace("\n", "\r\n" if b"\r\n" in body else "\n").encode()
