"""The server's front door: it lets in who has a token, serves the hot endpoints, hands on the rest.

It is an ASGI application and, for `server/front`, what answers hot requests without one (`Hot`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import cast
from urllib.parse import unquote

from starlette.types import ASGIApp

from idioteque.environment import is_loopback_name
from idioteque.errors import DatabaseError
from idioteque.server.api.repeated import Repeated
from idioteque.server.api.reply import Disconnected, Receive, Scope, Send, error_json, read_body, send_json
from idioteque.server.api.services import bearer_token
from idioteque.server.config import ServerConfig
from idioteque.server.core.allowance import Allowance
from idioteque.server.core.credentials import Credentials, Role, digest
from idioteque.server.core.metrics import Metrics
from idioteque.server.core.publisher import Publisher
from idioteque.server.core.queues import Queues
from idioteque.server.core.resolution import Resolution
from idioteque.server.core.schedules import Schedules, asks_for_schedule
from idioteque.server.core.url_groups import Addressed, UrlGroups, fan_out_bytes
from idioteque.server.errors import BadRequest, Forbidden, MethodNotAllowed, Misdirected, Refused, TooLarge
from idioteque.server.front.request import Answer, Entry, Request, first_values
from idioteque.server.model import Accepted, Draft
from idioteque.server.wire.headers import Pairs
from idioteque.server.wire.publish import Order, batch_order, latin_pairs, with_query
from idioteque.server.wire.shapes import accepted_json, group_accepted_json
from idioteque.server.wire.target import parse_target, query_token
from idioteque.transport import Headers

PUBLISH = b"/v2/publish/"
ENQUEUE = b"/v2/enqueue/"
BATCH = b"/v2/batch"
SCHEDULES = b"/v2/schedules/"
CRON = b"upstash-cron"
SCHEDULE_VERB = re.compile(rb"/v2/schedules/[A-Za-z0-9._%-]+/(?:pause|resume)")  # of a schedule, not a destination
KEYS = "/v2/keys"
READING_METHODS = ("GET", "HEAD", "OPTIONS")

Endpoint = Callable[[Request], Awaitable[tuple[int, str]]]
"""Answers a request with a status and a JSON text."""

logger = logging.getLogger("idioteque.server")


class Door:
    """The way in. `rest` serves every path that is not hot; under `/v2` it sees admitted requests only."""

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
        self._repeated = Repeated()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        try:
            await self._serve(scope, receive, send)
        except Disconnected:
            return
        except (Refused, DatabaseError) as error:
            await send_json(send, *self._failure(error))

    def room(self, request: Request) -> int | None:
        head = request.head
        if head is not None and head.entry is not None and self._credentials.is_admin(head.entry.token_digest):
            return head.entry.room  # all else follows from the head, whose bytes are the same
        path = request.path
        is_batch = path == BATCH
        if not (is_batch or path.startswith((PUBLISH, ENQUEUE))):
            return None
        self._check_name(request)
        self._admit(request)
        _check_method(request)
        room = self._config.batch_bytes_max if is_batch else self._config.body_bytes_max
        if head is not None:
            head.entry = Entry(digest(self._token(request) or ""), room)
        return room

    def begin(self, request: Request, answer: Answer) -> None:
        try:
            draft = self._draft(request)
            if draft is not None:
                self._publisher.begin((draft,), partial(self._answer_stored, answer))
                return
        except Exception as error:
            answer(*self._failure(error))
            return
        task = asyncio.get_running_loop().create_task(self._answer(request, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def refused(self, status: int) -> None:
        self._metrics.refusals[status] += 1

    def _draft(self, request: Request) -> Draft | None:
        """Return the draft of a request that is a message for a URL; None where more than that has to be made."""
        if request.path == BATCH or self._resolution.is_wanted:
            return None
        draft = self._repeated.draft(request)
        if draft is not None and (draft.queue is None or self._queues.is_known(draft.queue)):
            return draft
        order = self._enqueued(request) if request.path.startswith(ENQUEUE) else self._order(PUBLISH, request)
        is_hot = self._queues.is_known(order.queue) if order.queue is not None else not _is_schedule(order, request)
        draft = self._url_groups.draft_of(order) if is_hot else None
        if draft is not None:
            self._repeated.remember(request, draft)
        return draft

    def _answer_stored(self, answer: Answer, outcome: Sequence[Accepted] | BaseException) -> None:
        if isinstance(outcome, BaseException):
            answer(*self._failure(outcome))
        else:
            answer(202 if outcome[0].deduplicated else 200, accepted_json(outcome[0]))

    async def _answer(self, request: Request, answer: Answer) -> None:
        endpoint = self._endpoint(request.path, request.method)
        assert endpoint is not None
        try:
            status, text = await endpoint(request)
        except Exception as error:
            answer(*self._failure(error))
        else:
            answer(status, text)

    def _failure(self, error: BaseException) -> tuple[int, str, Headers]:
        """Return the answer to a request that failed."""
        if isinstance(error, Refused):
            self.refused(error.status)
            return error.status, error_json(str(error)), error.headers
        if isinstance(error, DatabaseError):
            logger.error("a request failed: %s", error)
            return 503, error_json("the server cannot store anything at the moment; try again"), ()
        logger.error("a request failed in an unforeseen way", exc_info=error)
        return 500, error_json("the server failed; its log says how"), ()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = request_of(scope)
        self._check_name(request)
        if not (request.path.startswith(b"/v2/") or request.path == b"/v2"):
            await self._rest(scope, receive, send)
            return
        self._admit(request)
        endpoint = self._endpoint(request.path, request.method)
        if endpoint is None:
            self._management.take()
            await self._rest(scope, receive, send)
            return
        _check_method(request)
        bytes_max = self._config.batch_bytes_max if request.path == BATCH else self._config.body_bytes_max
        request.body = await read_body(dict(request.headers), receive, bytes_max)
        status, text = await endpoint(request)
        await send_json(send, status, text)

    def _check_name(self, request: Request) -> None:
        """Raise `Misdirected` where a page of another name may speak to a server whose token is published."""
        host = request.first.get(b"host") if self._config.dev else None
        if host is not None and not is_loopback_name(host.decode("latin-1")):
            raise Misdirected("under --dev the server answers to loopback names only")

    def _admit(self, request: Request) -> None:
        """Raise `Refused` for a request whose token does not allow it."""
        if self._credentials.role(self._token(request), request.peer) is Role.ADMIN:
            return
        if request.method not in READING_METHODS:
            raise Forbidden("this token may only read")
        if request.plain_path.startswith(KEYS):
            raise Forbidden("this token may not read the signing keys: who has them can sign")

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

    async def _publish(self, request: Request) -> tuple[int, str]:
        order = self._order(PUBLISH, request)
        if _is_schedule(order, request):
            return await self._create_schedule(order)
        return await self._accept(order)

    async def _enqueue(self, request: Request) -> tuple[int, str]:
        return await self._accept(self._enqueued(request))

    async def _accept(self, order: Order) -> tuple[int, str]:
        drafts, is_group = await self._address(order)
        return _accepted(await self._publisher.publish(drafts), is_group=is_group)

    async def _schedule(self, request: Request) -> tuple[int, str]:
        self._management.take()
        return await self._create_schedule(self._order(SCHEDULES, request))

    async def _create_schedule(self, order: Order) -> tuple[int, str]:
        return 200, json.dumps({"scheduleId": await self._schedules.create(order)}, separators=(",", ":"))

    def _order(self, prefix: bytes, request: Request) -> Order:
        """Return what the rest of the target, the headers and the body ask to publish."""
        target = parse_target(_ascii(request.path[len(prefix) :]), _ascii(request.query))
        pairs: Pairs = latin_pairs(request.headers)
        if target.configuration:
            pairs = with_query(pairs, target.configuration)
        return Order(target.destination, pairs, request.body, request.peer)

    def _enqueued(self, request: Request) -> Order:
        name = request.path[len(ENQUEUE) :].partition(b"/")[0]
        return replace(self._order(ENQUEUE + name + b"/", request), queue=unquote(_ascii(name)))

    async def _batch(self, request: Request) -> tuple[int, str]:
        read: list[Addressed | str] = []
        room_bytes = self._config.fan_out_bytes_max
        for item in parse_batch(request.body):
            addressed = await self._item(item, request.peer, room_bytes)
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
            return error_json(str(refusal))
        return addressed

    async def _address(self, order: Order) -> Addressed:
        """Return the drafts of an order, whose queue may be a new one."""
        if order.queue is not None:
            await self._queues.check(order.queue)
        addressed = await self._url_groups.address(order)
        if self._resolution.is_wanted:
            await self._resolution.check(addressed[0])
        return addressed

    def _token(self, request: Request) -> str | None:
        given = request.first.get(b"authorization")
        if given is not None:
            return bearer_token(given.decode("latin-1"))
        query = request.query
        return query_token(query.decode("latin-1")) if query and self._config.token_in_query else None


def request_of(scope: Scope) -> Request:
    """Return what an ASGI scope says of a request, whose body is not read yet."""
    client: tuple[str, int] | None = scope.get("client")
    peer = client[0] if client else ""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    return Request(scope["method"], scope["raw_path"], scope["query_string"], headers, first_values(headers), peer)


def _check_method(request: Request) -> None:
    if request.method != "POST":
        raise MethodNotAllowed(f"{request.method} is not allowed here; use POST")


def _is_schedule(order: Order, request: Request) -> bool:
    return (bool(request.query) or CRON in request.first) and asks_for_schedule(order.headers)


def _accepted(accepted: Sequence[Accepted], *, is_group: bool) -> tuple[int, str]:
    status = 202 if all([each.deduplicated for each in accepted]) else 200  # noqa: C419 - the list is one long
    return status, _reply(accepted, is_group)


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
