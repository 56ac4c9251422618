"""Messages over QStash: the hosted service, or `idioteque serve`, whichever `QSTASH_URL` names."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, cast
from urllib.parse import parse_qsl, urlsplit

from idioteque.client import AnswerUnreadable, ApiRefusal, QStash
from idioteque.clock import Clock, SystemClock
from idioteque.dispatcher import CALLBACK_HEADER, FAILURE_CALLBACK, Outgoing
from idioteque.dispatchers.schedules import ScheduleSync, SyncedSchedules
from idioteque.durations import Duration, seconds
from idioteque.environment import Account, account_from
from idioteque.errors import BatchDispatchError, ConfigurationError, DispatchError, TransportError
from idioteque.function import Function
from idioteque.ids import derived_id, jittered, nonce
from idioteque.mount import Mount, Verifier
from idioteque.transport import HttpRequest, HttpResponse, HttpTransport, PooledTransport, origin
from idioteque.worker import Worker, build_mount

RETRY_DELAY = "1000 * pow(45, retried)"
"""Milliseconds before each redelivery: 1 s, 45 s, 34 min, so that three retries begin quickly and still span half an
hour."""
SEND_ATTEMPTS = 3
CONNECTIONS_MAX = 64  # a server may well refuse more of one address
SEND_PAUSE_S = 0.2
BATCH_MESSAGES_MAX = 500
BATCH_BYTES_MAX = 4 * 1024 * 1024
ERROR_LENGTH_MAX = 500
KEY_NAMES = ("QSTASH_CURRENT_SIGNING_KEY", "QSTASH_NEXT_SIGNING_KEY")

_log = logging.getLogger("idioteque")


class QStashDispatcher:
    """Publishes a worker's messages to QStash, and mounts the endpoint that QStash delivers them to.

    `mount_url` is the public URL of that endpoint, exactly as deliveries reach it. `retries` is how often a delivery
    that was not answered 2xx is tried again, `retry_delay` the pause before that as QStash writes it: an expression in
    milliseconds over `retried`. Whatever is None comes from `QSTASH_TOKEN`, `QSTASH_URL`, `QSTASH_CURRENT_SIGNING_KEY`
    and `QSTASH_NEXT_SIGNING_KEY`; with `QSTASH_DEV=true`, it is the local server and its published credentials.
    """

    def __init__(
        self,
        *,
        mount_url: str,
        token: str | None = None,
        retries: int = 3,
        retry_delay: str | None = None,
        url: str | None = None,
        current_signing_key: str | None = None,
        next_signing_key: str | None = None,
        transport: HttpTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        account = account_from(os.environ)
        self.mount_url = checked_mount_url(mount_url)
        self.url = _checked_url(url or account.url)
        self.retries = retries
        self._token = token or account.token
        self._keys = (current_signing_key or account.current_signing_key, next_signing_key or account.next_signing_key)
        self._retry_delay = retry_delay or RETRY_DELAY
        self._transport = transport or PooledTransport(connections_per_host_max=CONNECTIONS_MAX)
        self._clock = clock or SystemClock()
        if retries < 0:
            raise ConfigurationError(f"retries must be zero or more, not {retries}")

    async def dispatch(
        self,
        data: object,
        *,
        retries: int | None = None,
        delay: Duration | None = None,
        deduplication_id: str | None = None,
    ) -> str:
        """Publish one JSON document to the mount and return the message's id; `retries=0` means none.

        Raise `DispatchError` with the status and the text of whatever was not a success.
        """
        body = json.dumps(data, separators=(",", ":")).encode()
        deduplication_id = derived_id("dd", deduplication_id or nonce())
        delay_s = 0.0 if delay is None else seconds(delay, "delay")
        return (await self.send([Outgoing(body, deduplication_id, delay_s, retries)]))[0]

    async def send(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        if len(messages) == 1:
            return [await self._publish(messages[0])]
        results: list[tuple[str, str]] = []
        for part in _parts(messages):
            try:
                results += await self._publish_batch(part)
            except DispatchError as error:
                if not results:
                    raise
                results += [("", str(error))] * (len(messages) - len(results))  # what went before was accepted
                break
        failed = {index: error for index, (_, error) in enumerate(results) if error}
        accepted = {index: message_id for index, (message_id, error) in enumerate(results) if not error}
        if failed:
            first = next(iter(failed.values()))
            raise BatchDispatchError(
                f"{len(failed)} of {len(results)} messages were refused: {first}", failed, accepted
            )
        return list(accepted.values())

    def mount(
        self,
        worker: Worker,
        *,
        functions: Sequence[Function] | None = None,
        mode: Literal["inline", "isolated"] = "inline",
        deadline: Duration | None = None,
        insecure: bool = False,
    ) -> Mount:
        """Return the endpoint at which this worker's deliveries arrive, for some of its functions or for all.

        With `deadline`, a delivery that has taken so long starts no further step, and another message goes on: for
        platforms that end a request after a while. It should leave time for the longest step. A Lambda's is known.

        Every request must be signed with one of the signing keys for exactly `mount_url`; `insecure=True` accepts
        anything from anybody, which no public endpoint may do.
        """
        verifier = None if insecure else Verifier(self.mount_url, self._keys, self._clock, names=KEY_NAMES)
        return build_mount(worker, self, functions, verifier, self._clock, mode, deadline)

    async def sync_schedules(
        self, worker: Worker, *, functions: Sequence[Function] | None = None, dry_run: bool = False
    ) -> SyncedSchedules:
        """Make QStash's schedules those of a worker's functions with `cron=`, of some of them or of all.

        To be called when a new version is deployed; calling it again changes nothing. Schedules of this `mount_url`
        whose function is not among them are removed, and no others. Raise `ConfigurationError` without a token,
        `ApiRefusal` or `TransportError` when QStash does not do it.
        """
        account = Account(self.url, self._token, None, None)
        sync = ScheduleSync(QStash(account, self._transport), self.mount_url, self.retries, self._retry_delay)
        return await sync.run(worker.functions if functions is None else functions, dry_run=dry_run)

    async def waiting_behind(self, flow_key: str) -> int | None:
        """Return how many messages wait for a slot of a flow-control key, None when QStash does not say."""
        try:
            key = await QStash(Account(self.url, self._token, None, None), self._transport).flow_key(flow_key)
        except (ConfigurationError, ApiRefusal, AnswerUnreadable, TransportError) as error:
            _log.warning("could not ask who waits behind %r: %s", flow_key, type(error).__name__)
            return None
        count = key.get("waitListSize")
        return count if isinstance(count, int) else None

    async def close(self) -> None:
        await self._transport.close()

    # ---- requests

    async def _publish(self, message: Outgoing) -> str:
        headers = [*self._options(message), ("Content-Type", "application/json"), *message.headers]
        document = await self._post(f"/v2/publish/{self.mount_url}", headers, message.body)
        return _message_id(document)

    async def _publish_batch(self, messages: Sequence[Outgoing]) -> list[tuple[str, str]]:
        """Return for each message its id and no error, or no id and what was wrong with it."""
        items = [
            {
                "destination": self.mount_url,
                "headers": dict([*self._options(message), ("Content-Type", "application/json"), *message.headers]),
                "body": message.body.decode(),
            }
            for message in messages
        ]
        body = json.dumps(items, separators=(",", ":")).encode()
        answers = await self._post("/v2/batch", [("Content-Type", "application/json")], body)
        if not isinstance(answers, list) or len(cast(list[object], answers)) != len(messages):
            raise DispatchError(f"{origin(self.url)} answered a batch of {len(messages)} with something else", 200)
        return [_result(answer) for answer in cast(list[object], answers)]

    def _options(self, message: Outgoing) -> list[tuple[str, str]]:
        retries = self.retries if message.retries is None else message.retries
        options = [
            ("Upstash-Method", "POST"),
            ("Upstash-Retries", str(retries)),
            ("Upstash-Retry-Delay", self._retry_delay),
            ("Upstash-Deduplication-Id", message.deduplication_id),
            ("Upstash-Failure-Callback", self.mount_url),
            (f"Upstash-Failure-Callback-Forward-{CALLBACK_HEADER}", FAILURE_CALLBACK),
        ]
        options += [(f"Upstash-Forward-{name}", value) for name, value in message.trace_headers()]
        if message.delay_s > 0:
            options.append(("Upstash-Delay", f"{math.ceil(message.delay_s)}s"))
        return options

    async def _post(self, path: str, headers: list[tuple[str, str]], body: bytes) -> object:
        """Send a request, again after a failure that may pass: its messages carry deduplication ids."""
        if not self._token:
            raise DispatchError("no token to publish with: set QSTASH_TOKEN, or pass token=")
        failure = DispatchError("nothing was sent")
        request = HttpRequest("POST", self.url + path, [("Authorization", f"Bearer {self._token}"), *headers], body)
        for attempt in range(1, SEND_ATTEMPTS + 1):
            try:
                response = _without(self._token, await self._transport.send(request))
            except TransportError as error:
                failure = DispatchError(f"{origin(self.url)} could not be asked: {error}")
                failure.__cause__ = error
            else:
                if response.ok:
                    return _document(response, self.url)
                failure = _refusal(response, self.url)
                if response.status < 500 and response.status != 429:
                    break
            if attempt < SEND_ATTEMPTS:
                await self._clock.sleep(jittered(SEND_PAUSE_S * 3 ** (attempt - 1), 0.5))
        raise failure


def _checked_url(url: str) -> str:
    if not _is_absolute(url):
        raise ConfigurationError(f"the QStash URL {url!r} must be an absolute http:// or https:// URL")
    return url.rstrip("/")


def _is_absolute(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def checked_mount_url(url: str) -> str:
    """Return the URL of a mount; raise `ConfigurationError` for one that no message reaches as it is written."""
    if not _is_absolute(url):
        raise ConfigurationError(f"mount_url {url!r} must be an absolute http:// or https:// URL")
    if "#" in url:
        raise ConfigurationError(f"mount_url {url!r} must not have a fragment: it would never be sent")
    if not url.isascii() or any(character <= " " for character in url):
        raise ConfigurationError(f"mount_url {url!r} must be ASCII without spaces; escape the rest with %XX")
    for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        if name.lower().startswith(("upstash-", "qstash_token")):
            raise ConfigurationError(f"mount_url must not have the query parameter {name!r}: QStash would take it away")
    return url


def _parts(messages: Sequence[Outgoing]) -> list[list[Outgoing]]:
    """Cut messages into batches that no server refuses for their size."""
    parts: list[list[Outgoing]] = []
    room = 0
    for message in messages:
        if not parts or len(parts[-1]) >= BATCH_MESSAGES_MAX or len(message.body) > room:
            parts.append([])
            room = BATCH_BYTES_MAX
        parts[-1].append(message)
        room -= len(message.body)
    return parts


def _document(response: HttpResponse, url: str) -> object:
    try:
        return json.loads(response.body)
    except ValueError:
        raise DispatchError(f"{origin(url)} is no QStash: it answered {_text(response)!r}", response.status) from None


def _message_id(document: object) -> str:
    message_id = _fields(document).get("messageId")
    if not isinstance(message_id, str):
        raise DispatchError(f"the answer names no message: {str(document)[:ERROR_LENGTH_MAX]}", 200)
    return message_id


def _fields(document: object) -> Mapping[str, object]:
    return cast(Mapping[str, object], document) if isinstance(document, dict) else {}


def _result(answer: object) -> tuple[str, str]:
    fields = _fields(answer)
    if "messageId" in fields:
        return str(fields["messageId"]), ""
    return "", str(fields.get("error", answer))[:ERROR_LENGTH_MAX]


def _refusal(response: HttpResponse, url: str) -> DispatchError:
    text = _text(response)
    hint = "; is QSTASH_TOKEN the token of this server?" if response.status == 401 else ""
    return DispatchError(f"{origin(url)} answered {response.status}: {text}{hint}", response.status, text)


def _without(secret: str, response: HttpResponse) -> HttpResponse:
    """Take a secret out of an answer that quotes the request: its text becomes that of errors and logs."""
    return replace(response, body=response.body.replace(secret.encode(), b"[redacted]"))


def _text(response: HttpResponse) -> str:
    text = response.body[: 4 * ERROR_LENGTH_MAX].decode(errors="replace")
    with contextlib.suppress(ValueError):
        text = str(_fields(json.loads(text)).get("error", text))
    return text[:ERROR_LENGTH_MAX]
