"""The server's front door, plain ASGI: it lets in who has a token, serves the hot endpoints, hands on the rest."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import cast

from starlette.types import ASGIApp

from idioteque.errors import DatabaseError
from idioteque.server.api.reply import Disconnected, Receive, Scope, Send, read_body, send_error, send_json
from idioteque.server.config import ServerConfig
from idioteque.server.core.allowance import Allowance
from idioteque.server.core.credentials import Credentials, Role
from idioteque.server.core.publisher import Publisher
from idioteque.server.errors import BadRequest, Forbidden, MethodNotAllowed, Refused
from idioteque.server.model import Draft
from idioteque.server.wire.publish import Pairs, PublishReader, latin_pairs, with_query
from idioteque.server.wire.shapes import accepted_json
from idioteque.server.wire.target import parse_target, query_token

PUBLISH = b"/v2/publish/"
BATCH = b"/v2/batch"
READING_METHODS = ("GET", "HEAD", "OPTIONS")

logger = logging.getLogger("idioteque.server")


class Door:
    """The ASGI application. `rest` serves every path that is not hot; under `/v2` it sees admitted requests only."""

    def __init__(
        self,
        config: ServerConfig,
        credentials: Credentials,
        reader: PublishReader,
        publisher: Publisher,
        rest: ASGIApp,
        management: Allowance,
    ) -> None:
        self._management = management
        self._config = config
        self._credentials = credentials
        self._reader = reader
        self._publisher = publisher
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        try:
            await self._serve(scope, receive, send)
        except Refused as refusal:
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
        if role is not Role.ADMIN and scope["method"] not in READING_METHODS:
            raise Forbidden("this token may only read")
        is_batch = path == BATCH
        if not is_batch and not path.startswith(PUBLISH):
            self._management.take()
            await self._rest(scope, receive, send)
            return
        if scope["method"] != "POST":
            raise MethodNotAllowed(f"{scope['method']} is not allowed here; use POST")
        status, text = await (self._batch if is_batch else self._publish)(scope, headers, receive)
        await send_json(send, status, text)

    async def _publish(self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive) -> tuple[int, str]:
        target = parse_target(_ascii(scope["raw_path"][len(PUBLISH) :]), _ascii(scope["query_string"]))
        pairs: Pairs = latin_pairs(scope["headers"])
        if target.configuration:
            pairs = with_query(pairs, target.configuration)
        body = await read_body(headers, receive, self._config.body_bytes_max)
        draft = self._reader.draft(target.destination, pairs, body, _peer(scope))
        accepted = (await self._publisher.publish((draft,)))[0]
        return (202 if accepted.deduplicated else 200), accepted_json(accepted)

    async def _batch(self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive) -> tuple[int, str]:
        body = await read_body(headers, receive, self._config.batch_bytes_max)
        peer = _peer(scope)
        read = [self._item(item, peer) for item in parse_batch(body)]
        drafts = [item for item in read if isinstance(item, Draft)]
        accepted = iter(await self._publisher.publish(drafts) if drafts else ())
        parts = [accepted_json(next(accepted)) if isinstance(item, Draft) else item for item in read]
        return 200, f"[{','.join(parts)}]"

    def _item(self, item: object, peer: str) -> Draft | str:
        """Return the draft of a batch's item or, for a bad one, the error object that stands in its place."""
        try:
            draft = self._reader.batch_item(item, peer)
            if len(draft.body) > self._config.body_bytes_max:
                raise BadRequest(
                    f"the body has {len(draft.body)} bytes; at most {self._config.body_bytes_max} are accepted"
                )
            self._publisher.check(draft)
        except Refused as refusal:
            return json.dumps({"error": str(refusal)}, separators=(",", ":"))
        return draft

    def _token(self, headers: Mapping[bytes, bytes], scope: Scope) -> str | None:
        given = headers.get(b"authorization")
        if given is not None:
            scheme, _, token = given.decode("latin-1").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else None
        query: bytes = scope["query_string"]
        return query_token(query.decode("latin-1")) if query and self._config.token_in_query else None


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
