"""What people write into the fields of a form, read."""

from __future__ import annotations

from collections.abc import Sequence

from idioteque.errors import InvalidValue


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
