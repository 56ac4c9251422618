"""The files that pages link to: read once from the package, by their names and no others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType

from starlette.responses import Response

KINDS: Mapping[str, str] = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "keys.js": "text/javascript; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "ticks.js": "text/javascript; charset=utf-8",
    "times.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file; `tag` changes with its content, so that browsers may keep it."""

    body: bytes
    kind: str
    tag: str


def _read(name: str) -> Asset:
    body = (resources.files("idioteque.console") / "static" / name).read_bytes()
    return Asset(body, KINDS[name], hashlib.sha256(body).hexdigest()[:12])


ASSETS: Mapping[str, Asset] = MappingProxyType({name: _read(name) for name in KINDS})


def asset(found: Asset) -> Response:
    """Return a file as an answer that may be kept for a day, or asked about by its tag."""
    headers = {"Cache-Control": "public, max-age=86400", "ETag": f'"{found.tag}"'}
    return Response(found.body, media_type=found.kind, headers=headers)
