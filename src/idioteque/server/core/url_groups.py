"""URL groups: destinations under one name. Who publishes to it makes a message for each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from idioteque.clock import Clock
from idioteque.database import Database, Transaction
from idioteque.server.config import ServerConfig
from idioteque.server.errors import BadRequest, NotFound, QuotaExceeded, TooLarge
from idioteque.server.model import Draft, Endpoint, UrlGroup
from idioteque.server.storage.url_groups import (
    count_url_groups,
    delete_url_group,
    find_url_group,
    list_url_groups,
    save_url_group,
)
from idioteque.server.wire.headers import Pairs
from idioteque.server.wire.publish import Order, PublishReader, with_query
from idioteque.server.wire.target import group_name

Addressed = tuple[Sequence[Draft], bool]
"""What an order comes to: its drafts, and whether it was for a URL group."""

MESSAGE_WEIGHT_BYTES = 1024  # what a message costs beside its body


class UrlGroups:
    """Keeps URL groups, and turns orders into drafts: one for a URL, one for each endpoint of a group."""

    def __init__(self, config: ServerConfig, database: Database, clock: Clock, reader: PublishReader) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._reader = reader

    def draft_of(self, order: Order) -> Draft | None:
        """Return the draft of an order for a URL, None for a URL group; raise `Refused` for a bad one."""
        return self._reader.draft(order) if group_name(order.destination) is None else None

    async def address(self, order: Order) -> Addressed:
        """Return the drafts of an order; raise `Refused` for a bad one, and for a group that does not exist."""
        name = group_name(order.destination)
        if name is None:
            return (self._reader.draft(order),), False
        group = await self._database.read(lambda tx: find_url_group(tx, name))
        return self.fan_out(group, order), True

    def fan_out(self, group: UrlGroup | None, order: Order) -> Sequence[Draft]:
        """Return a draft for each endpoint; `group` is None when there is none of the order's destination."""
        if group is None:
            try:
                self._reader.draft(order)
            except BadRequest as error:
                raise BadRequest(f"{error} (there is no URL group {order.destination[:100]!r})") from None
            raise AssertionError("a group's name is no URL")
        bytes_max = self._config.fan_out_bytes_max
        if len(group.endpoints) * (len(order.body) + MESSAGE_WEIGHT_BYTES) > bytes_max:
            raise TooLarge(
                f"the body has {len(order.body)} bytes, and {group.name} {len(group.endpoints)} endpoints; one publish "
                f"may store {bytes_max} bytes"
            )
        headers = with_query(order.headers, _lowered(group.headers))
        return [self._draft(group, endpoint, replace(order, headers=headers)) for endpoint in group.endpoints]

    async def group(self, name: str) -> UrlGroup:
        """Return a group; raise `NotFound` when there is none."""
        group = await self._database.read(lambda tx: find_url_group(tx, name))
        if group is None:
            raise _unknown(name)
        return group

    async def groups(self) -> list[UrlGroup]:
        """Return all groups."""
        return await self._database.read(list_url_groups)

    async def add(self, name: str, endpoints: Sequence[Endpoint]) -> None:
        """Add endpoints to a group, which is created if need be; one of the same name or URL is replaced.

        Raise `BadRequest` for a URL that no message may have, `QuotaExceeded` for too many.
        """
        now_ms = self._clock.now_ms()
        checked = [replace(endpoint, url=self._reader.draft(Order(endpoint.url)).url) for endpoint in endpoints]

        def operation(tx: Transaction) -> None:
            group = find_url_group(tx, name)
            if group is None:
                if count_url_groups(tx) >= self._config.url_groups_max:
                    raise QuotaExceeded(f"quota maxUrlGroups exceeded, current limit: {self._config.url_groups_max}")
                group = UrlGroup(name, now_ms, now_ms, ())
            merged = with_endpoints(group.endpoints, checked)
            limit = self._config.url_group_endpoints_max
            if len(merged) > limit:
                raise QuotaExceeded(f"quota maxEndpointsPerUrlGroup exceeded, current limit: {limit}")
            save_url_group(tx, replace(group, endpoints=merged, updated_at_ms=now_ms))

        await self._database.write(operation)

    async def remove(self, name: str, chosen: Sequence[tuple[str | None, str | None]]) -> None:
        """Remove the endpoints that agree with one of the (URL, name) pairs; a group without endpoints is deleted."""

        def change(group: UrlGroup) -> UrlGroup:
            return replace(group, endpoints=tuple(e for e in group.endpoints if not _is_chosen(e, chosen)))

        await self._change(name, change)

    async def set_headers(self, name: str, headers: Pairs, removed: Sequence[str]) -> None:
        """Set default headers, and take others away; raise `Refused` for one that no publish may have."""
        self._reader.options(_lowered(headers))

        def change(group: UrlGroup) -> UrlGroup:
            kept = {**dict(group.headers), **dict(headers)}
            return replace(group, headers=tuple((n, v) for n, v in kept.items() if n not in removed))

        await self._change(name, change)

    async def delete(self, name: str) -> None:
        """Delete a group, if there is one."""
        await self._database.write(lambda tx: delete_url_group(tx, name))

    async def _change(self, name: str, change: Callable[[UrlGroup], UrlGroup]) -> None:
        now_ms = self._clock.now_ms()

        def operation(tx: Transaction) -> None:
            group = find_url_group(tx, name)
            if group is None:
                raise _unknown(name)
            changed = change(group)
            if changed.endpoints:
                save_url_group(tx, replace(changed, updated_at_ms=now_ms))
            else:
                delete_url_group(tx, name)

        await self._database.write(operation)

    def _draft(self, group: UrlGroup, endpoint: Endpoint, order: Order) -> Draft:
        draft = self._reader.draft(replace(order, destination=endpoint.url))
        key = draft.deduplication_key
        return replace(
            draft,
            # Each endpoint has a window of its own; no client's id holds a colon.
            deduplication_key=None if key is None else f"{key}:{endpoint.url}",
            source=replace(draft.source, url_group=group.name, endpoint=endpoint.name),
        )


def with_endpoints(present: Sequence[Endpoint], added: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """Return endpoints with others added, each in the place of the first that has its name or its URL."""
    merged = list(present)
    for endpoint in added:
        same = [each for each in merged if each.url == endpoint.url or (endpoint.name and each.name == endpoint.name)]
        if not same:
            merged.append(endpoint)
            continue
        name = endpoint.name or next((each.name for each in same if each.name), None)
        merged[merged.index(same[0])] = Endpoint(endpoint.url, name)
        merged = [each for each in merged if each not in same[1:]]
    return tuple(merged)


def fan_out_bytes(addressed: Addressed) -> int:
    """Return what the messages for a URL group weigh; those for a URL are weighed by the request's own bound."""
    drafts, is_group = addressed
    return sum(len(draft.body) + MESSAGE_WEIGHT_BYTES for draft in drafts) if is_group else 0


def _is_chosen(endpoint: Endpoint, chosen: Sequence[tuple[str | None, str | None]]) -> bool:
    return any(url in (None, endpoint.url) and name in (None, endpoint.name) for url, name in chosen)


def _lowered(headers: Pairs) -> Pairs:
    return [(name.lower(), value) for name, value in headers]


def _unknown(name: str) -> NotFound:
    return NotFound(f"URL group {name[:100]} not found")
