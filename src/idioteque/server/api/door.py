"""The server's front door, plain ASGI: it lets in who has a token, serves the hot endpoints, hands on the rest."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast
from urllib.parse import unquote

from starlette.types import ASGIApp

from idioteque.errors import DatabaseError
from idioteque.server.api.reply import Disconnected, Receive, Scope, Send, read_body, send_error, send_json
from idioteque.server.api.services import bearer_token
from idioteque.server.config import ServerConfig
from idioteque.server.core.allowance import Allowance
from idioteque.server.core.credentials import Credentials, Role
from idioteque.server.core.metrics import Metrics
from idioteque.server.core.publisher import Publisher
from idioteque.server.core.queues import Queues
from idioteque.server.core.resolution import Resolution
from idioteque.server.core.schedules import Schedules, asks_for_schedule
from idioteque.server.core.url_groups import Addressed, UrlGroups, fan_out_bytes
from idioteque.server.errors import BadRequest, Forbidden, MethodNotAllowed, Refused, TooLarge
from idioteque.server.model import Accepted
from idioteque.server.wire.headers import Pairs
from idioteque.server.wire.publish import Order, batch_order, latin_pairs, with_query
from idioteque.server.wire.shapes import accepted_json, group_accepted_json
from idioteque.server.wire.target import parse_target, query_token

PUBLISH = b"/v2/publish/"
ENQUEUE = b"/v2/enqueue/"
BATCH = b"/v2/batch"
SCHEDULES = b"/v2/schedules/"
CRON = b"upstash-cron"
SCHEDULE_VERB = re.compile(rb"/v2/schedules/[A-Za-z0-9._%-]+/(?:pause|resume)")  # of a schedule, not a destination
KEYS = "/v2/keys"
READING_METHODS = ("GET", "HEAD", "OPTIONS")

Endpoint = Callable[[Scope, Mapping[bytes, bytes], Receive], Awaitable[tuple[int, str]]]
"""Answers a request, whose headers it is given by name, with a status and a JSON text."""

logger = logging.getLogger("idioteque.server")


class Door:
    """The ASGI application. `rest` serves every path that is not hot; under `/v2` it sees admitted requests only."""

    def __init__(
        self,
        config: ServerConfig,
        credentials: Credentials,
        url_groups: UrlGroups,
        queues: Queues,
        schedules: Schedules,
        publisher: Publisher,
        rest: ASGIApp,
        management: Allowance,
        resolution: Resolution,
        metrics: Metrics,
    ) -> None:
        self._metrics = metrics
        self._resolution = resolution
        self._management = management
        self._config = config
        self._credentials = credentials
        self._url_groups = url_groups
        self._queues = queues
        self._schedules = schedules
        self._publisher = publisher
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        try:
            await self._serve(scope, receive, send)
        except Refused as refusal:
            self._metrics.refusals[refusal.status] += 1
            await send_error(send, refusal.status, str(refusal), refusal.headers)
        except Disconnected:
            return
        except DatabaseError as error:
            logger.error("a request failed: %s", error)
            await send_error(send, 503, "the server cannot store anything at the moment; try again")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: bytes = scope["raw_path"]
        if not (path.startswith(b"/v2/") or path == b"/v2"):
            await self._rest(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        role = self._credentials.role(self._token(headers, scope), _peer(scope))
        if role is not Role.ADMIN:
            if scope["method"] not in READING_METHODS:
                raise Forbidden("this token may only read")
            if scope["path"].startswith(KEYS):
                raise Forbidden("this token may not read the signing keys: who has them can sign")
        endpoint = self._endpoint(path, scope["method"])
        if endpoint is None:
            self._management.take()
            await self._rest(scope, receive, send)
            return
        if scope["method"] != "POST":
            raise MethodNotAllowed(f"{scope['method']} is not allowed here; use POST")
        status, text = await endpoint(scope, headers, receive)
        await send_json(send, status, text)

    def _endpoint(self, path: bytes, method: str) -> Endpoint | None:
        """Return the endpoint of a path, or None for `rest`: here are the hot ones and those with raw targets."""
        if path.startswith(PUBLISH):
            return self._publish
        if path == BATCH:
            return self._batch
        if path.startswith(ENQUEUE):
            return self._enqueue
        if method == "POST" and path.startswith(SCHEDULES) and SCHEDULE_VERB.fullmatch(path) is None:
            return self._schedule
        return None

    async def _publish(self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive) -> tuple[int, str]:
        order = await self._order(PUBLISH, scope, headers, receive)
        if (CRON in headers or scope["query_string"]) and asks_for_schedule(order.headers):
            return await self._create_schedule(order)
        return await self._accept(order)

    async def _enqueue(self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive) -> tuple[int, str]:
        name = scope["raw_path"][len(ENQUEUE) :].partition(b"/")[0]
        order = await self._order(ENQUEUE + name + b"/", scope, headers, receive)
        return await self._accept(replace(order, queue=unquote(_ascii(name))))

    async def _accept(self, order: Order) -> tuple[int, str]:
        drafts, is_group = await self._address(order)
        accepted = await self._publisher.publish(drafts)
        status = 202 if all(each.deduplicated for each in accepted) else 200
        return status, _reply(accepted, is_group)

    async def _schedule(self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive) -> tuple[int, str]:
        self._management.take()
        return await self._create_schedule(await self._order(SCHEDULES, scope, headers, receive))

    async def _create_schedule(self, order: Order) -> tuple[int, str]:
        return 200, json.dumps({"scheduleId": await self._schedules.create(order)}, separators=(",", ":"))

    async def _order(self, prefix: bytes, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive) -> Order:
        """Return what the rest of the target, the headers and the body ask to publish."""
        target = parse_target(_ascii(scope["raw_path"][len(prefix) :]), _ascii(scope["query_string"]))
        pairs: Pairs = latin_pairs(scope["headers"])
        if target.configuration:
            pairs = with_query(pairs, target.configuration)
        body = await read_body(headers, receive, self._config.body_bytes_max)
        return Order(target.destination, pairs, body, _peer(scope))

    async def _batch(self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive) -> tuple[int, str]:
        body = await read_body(headers, receive, self._config.batch_bytes_max)
        peer = _peer(scope)
        read: list[Addressed | str] = []
        room_bytes = self._config.fan_out_bytes_max
        for item in parse_batch(body):
            addressed = await self._item(item, peer, room_bytes)
            room_bytes -= 0 if isinstance(addressed, str) else fan_out_bytes(addressed)
            read.append(addressed)
        drafts = [draft for item in read if not isinstance(item, str) for draft in item[0]]
        accepted = iter(await self._publisher.publish(drafts) if drafts else ())
        parts = [item if isinstance(item, str) else _reply([next(accepted) for _ in item[0]], item[1]) for item in read]
        return 200, f"[{','.join(parts)}]"

    async def _item(self, item: object, peer: str, room_bytes: int) -> Addressed | str:
        """Return the drafts of a batch's item or, for a bad one, the error object that stands in its place."""
        try:
            order = batch_order(item, peer)
            if len(order.body) > self._config.body_bytes_max:
                raise BadRequest(
                    f"the body has {len(order.body)} bytes; at most {self._config.body_bytes_max} are accepted"
                )
            addressed = await self._address(order)
            if fan_out_bytes(addressed) > room_bytes:
                raise TooLarge("this batch makes too many messages of URL groups; send it in parts")
            for draft in addressed[0]:
                self._publisher.check(draft)
        except Refused as refusal:
            return json.dumps({"error": str(refusal)}, separators=(",", ":"))
        return addressed

    async def _address(self, order: Order) -> Addressed:
        """Return the drafts of an order, whose queue may be a new one."""
        if order.queue is not None:
            await self._queues.check(order.queue)
        addressed = await self._url_groups.address(order)
        if self._resolution.is_wanted:
            await self._resolution.check(addressed[0])
        return addressed

    def _token(self, headers: Mapping[bytes, bytes], scope: Scope) -> str | None:
        given = headers.get(b"authorization")
        if given is not None:
            return bearer_token(given.decode("latin-1"))
        query: bytes = scope["query_string"]
        return query_token(query.decode("latin-1")) if query and self._config.token_in_query else None


def _reply(accepted: Sequence[Accepted], is_group: bool) -> str:
    return group_accepted_json(accepted) if is_group else accepted_json(accepted[0])


def parse_batch(body: bytes) -> Sequence[object]:
    """Return a batch's items; raise `BadRequest` when the outer document is malformed."""
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("a batch must be a JSON array of objects with destination, headers and body") from None
    if not isinstance(document, list):
        raise BadRequest("a batch must be a JSON array of objects with destination, headers and body")
    return cast(list[object], document)


def _ascii(raw: bytes) -> str:
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        raise BadRequest("the request target must be ASCII; percent-encode everything else") from None


def _peer(scope: Scope) -> str:
    client: tuple[str, int] | None = scope.get("client")
    return client[0] if client else ""
