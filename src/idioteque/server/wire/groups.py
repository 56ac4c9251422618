"""URL groups in the protocol's JSON, both ways. Every refusal names the value and the rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from idioteque.server.errors import BadRequest
from idioteque.server.model import Endpoint, UrlGroup
from idioteque.server.wire.headers import Pairs, canonical
from idioteque.server.wire.target import checked_name

Json = Mapping[str, object]


def url_group_json(group: UrlGroup) -> dict[str, object]:
    """Return a group as `/v2/topics/{name}` shows it; an endpoint without a name has no such member."""
    shown: dict[str, object] = {
        "name": group.name,
        "createdAt": group.created_at_ms,
        "updatedAt": group.updated_at_ms,
        "endpoints": [
            {"name": endpoint.name, "url": endpoint.url} if endpoint.name else {"url": endpoint.url}
            for endpoint in group.endpoints
        ],
    }
    if group.headers:
        shown["headers"] = {name: [value] for name, value in group.headers}
    return shown


def read_endpoints(document: Json) -> Sequence[Endpoint]:
    """Return the endpoints that are to be added; their URLs are not checked yet."""
    endpoints: list[Endpoint] = []
    for url, name in _pairs(document):
        if url is None:
            raise BadRequest("an endpoint must have a url")
        endpoints.append(Endpoint(url, name and checked_name("endpoint name", name)))
    return endpoints


def read_removals(document: Json) -> Sequence[tuple[str | None, str | None]]:
    """Return the (URL, name) pairs that say which endpoints are to be removed; None stands for any."""
    pairs = _pairs(document)
    if any(pair == (None, None) for pair in pairs):
        raise BadRequest("an endpoint to remove must have a url, a name, or both")
    return pairs


def read_default_headers(document: Json) -> tuple[Pairs, Sequence[str]]:
    """Return the headers that are to be set, and the names of those to be removed: with null, or an empty list."""
    given = document.get("headers")
    if not isinstance(given, dict):
        raise BadRequest('the body must be like {"headers": {"Upstash-Retries": "3"}}')
    headers: list[tuple[str, str]] = []
    removed: list[str] = []
    for name, value in cast(dict[str, object], given).items():
        values = cast(list[object], value) if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(each, str) for each in values):
            raise BadRequest(f"header {name[:100]!r} must be a string, or a list of strings")
        if not name.lower().startswith("upstash-") and name.lower() != "content-type":
            raise BadRequest(f"header {name[:100]!r} is none of a publish: Upstash-… or Content-Type")
        if values:
            headers.append((canonical(name), ", ".join(cast(list[str], values))))
        else:
            removed.append(canonical(name))
    return headers, removed


def _pairs(document: Json) -> list[tuple[str | None, str | None]]:
    given = document.get("endpoints")
    if not isinstance(given, list) or not given:
        raise BadRequest('the body must be like {"endpoints": [{"url": "https://example.com", "name": "one"}]}')
    pairs: list[tuple[str | None, str | None]] = []
    for endpoint in cast(list[object], given):
        if not isinstance(endpoint, dict):
            raise BadRequest("an endpoint must be an object with url and name")
        fields = cast(dict[str, object], endpoint)
        pairs.append((_text(fields, "url"), _text(fields, "name")))
    return pairs


def _text(fields: Json, name: str) -> str | None:
    """Return a member that is a text; an empty one counts as missing."""
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise BadRequest(f"an endpoint's {name} must be a string")
    return value or None
