"""The public `/v2` API of any QStash, as far as the commands and the console use it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast
from urllib.parse import quote, urlencode, urlsplit

from idioteque.environment import HOSTED_URL, Account
from idioteque.errors import ConfigurationError, IdiotequeError, InvalidValue
from idioteque.transport import Headers, HttpRequest, HttpResponse, HttpTransport, origin

Json = dict[str, object]
"""One object of an answer, as the protocol names its fields."""

Query = Sequence[tuple[str, str]]
"""Query parameters; a name given twice means either value."""

PAGE_COUNT_MAX = 100
BULK_COUNT_MAX = 100
TIMEOUT_S = 60.0
ANSWER_BYTES_MAX = 256 * 1024 * 1024
TEXT_LENGTH_MAX = 500

_GROUP = re.compile(r"[A-Za-z0-9._-]+")
_TOKEN = re.compile(r"[!-~]+")
_URL_SAFE = "%/:?@!$&'()*+,;=~-._[]"


class ApiRefusal(IdiotequeError):
    """The API answered something else than success; `status` and its `text`. `retry_after_s` is None unless it said."""

    def __init__(self, where: str, status: int, text: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{where} answered {status}: {text or '(no text)'}")
        self.status = status
        self.text = text
        self.retry_after_s = retry_after_s


class AnswerUnreadable(IdiotequeError):
    """The answer was a success, but not what the protocol says it is: perhaps this is no QStash."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some entries of a list; `cursor` asks for those that follow, None when there are no more."""

    entries: list[Json]
    cursor: str | None


def usable(account: Account) -> Account:
    """Return an account that requests can be made to; raise `ConfigurationError` for a missing token or an odd URL."""
    if not account.token:
        raise ConfigurationError("QSTASH_TOKEN is not set: export the token of your QStash, or QSTASH_DEV=true")
    if _TOKEN.fullmatch(account.token) is None:
        raise ConfigurationError("QSTASH_TOKEN holds characters that no token has")
    url = account.url.removesuffix("/v2/publish")  # often copied with it; the SDKs correct it too
    if not _is_web(url) or not url.isascii() or set(url) & set(" ?#"):
        raise ConfigurationError(f"QSTASH_URL must be like {HOSTED_URL}, not {url!r}")
    return replace(account, url=url)


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port > 0 and url.isprintable()


def destination_path(destination: str) -> str:
    """Return a destination as it stands in a request's target; raise `InvalidValue` for what is none.

    A destination is an http(s) URL, whose escapes are kept and whose fragment is dropped, or a URL group's name.
    """
    if _GROUP.fullmatch(destination):
        return destination
    url = destination.partition("#")[0]
    if not _is_web(url):
        raise InvalidValue(f"{destination!r} is neither an http:// or https:// URL nor the name of a URL group")
    return quote(url, safe=_URL_SAFE)


class QStash:
    """The API of one account; a refusal is an `ApiRefusal`, no answer a `TransportError`."""

    def __init__(self, account: Account, transport: HttpTransport) -> None:
        account = usable(account)
        self._url, self._token = account.url, account.token or ""
        self._transport = transport

    async def publish(self, destination: str, headers: Headers, body: bytes) -> list[Json]:
        """Publish one message; return what was accepted: one object, or one for each endpoint of a URL group."""
        answer = await self._call("POST", f"/v2/publish/{destination_path(destination)}", (), headers, body)
        return _objects(cast(object, answer)) if isinstance(answer, list) else [_object(answer)]

    async def enqueue(self, queue: str, destination: str, headers: Headers, body: bytes) -> list[Json]:
        """Put one message at the end of a queue; return what was accepted, as `publish` does."""
        path = f"/v2/enqueue/{_segment(queue)}/{destination_path(destination)}"
        answer = await self._call("POST", path, (), headers, body)
        return _objects(cast(object, answer)) if isinstance(answer, list) else [_object(answer)]

    async def message(self, message_id: str) -> Json:
        """Return a message that is under way."""
        return _object(await self._call("GET", f"/v2/messages/{_segment(message_id)}"))

    async def cancel(self, message_id: str) -> None:
        """Cancel a message that is under way."""
        await self._call("DELETE", f"/v2/messages/{_segment(message_id)}")

    async def cancel_many(self, message_ids: Sequence[str]) -> int:
        """Cancel at most `BULK_COUNT_MAX` messages; return how many of them were under way."""
        if not message_ids:
            return 0  # a request that names none would mean all
        answer = _object(await self._call("DELETE", "/v2/messages", [("messageIds", one) for one in message_ids]))
        cancelled = answer.get("cancelled")
        if not isinstance(cancelled, int):
            raise AnswerUnreadable("the answer to a cancellation has no number `cancelled`")
        return cancelled

    async def events(self, filters: Query, cursor: str | None = None, count: int = PAGE_COUNT_MAX) -> Page:
        """Return a page of the log, by default the latest entry first."""
        return _page(await self._call("GET", "/v2/events", _paged(filters, cursor, count)), "events")

    async def dead_letters(self, filters: Query, cursor: str | None = None, count: int = PAGE_COUNT_MAX) -> Page:
        """Return a page of the dead letters, the oldest first."""
        return _page(await self._call("GET", "/v2/dlq", _paged(filters, cursor, count)), "messages")

    async def dead_letter(self, dlq_id: str) -> Json:
        """Return one dead letter."""
        return _object(await self._call("GET", f"/v2/dlq/{_segment(dlq_id)}"))

    async def delete_dead_letters(self, dlq_ids: Sequence[str]) -> int:
        """Delete at most `BULK_COUNT_MAX` dead letters; return how many there were."""
        answer = _object(await self._call("DELETE", "/v2/dlq", [("dlqIds", one) for one in dlq_ids]))
        deleted = answer.get("deleted")
        if not isinstance(deleted, int):
            raise AnswerUnreadable("the answer to a deletion has no number `deleted`")
        return deleted

    async def retry_dead_letters(self, dlq_ids: Sequence[str]) -> int:
        """Publish at most `BULK_COUNT_MAX` dead letters again; return how many there were.

        A service that refuses the whole because some are gone (404) is asked for each.
        """
        try:
            answer = _object(await self._call("POST", "/v2/dlq/retry", [("dlqIds", one) for one in dlq_ids]))
        except ApiRefusal as refusal:
            if refusal.status != 404:
                raise
            return sum([await self._retry_one(one) for one in dlq_ids])
        return len([response for response in _objects(answer.get("responses")) if "messageId" in response])

    async def schedules(self) -> list[Json]:
        """Return all schedules."""
        return _objects(await self._call("GET", "/v2/schedules"))

    async def schedule(self, schedule_id: str) -> Json:
        """Return one schedule."""
        return _object(await self._call("GET", f"/v2/schedules/{_segment(schedule_id)}"))

    async def create_schedule(self, destination: str, headers: Headers, body: bytes) -> Json:
        """Make a schedule, or overwrite the one of its id; return the answer, with its id."""
        return _object(await self._call("POST", f"/v2/schedules/{destination_path(destination)}", (), headers, body))

    async def pause_schedule(self, schedule_id: str) -> None:
        """Let a schedule fire no more."""
        await self._call("PATCH", f"/v2/schedules/{_segment(schedule_id)}/pause")

    async def resume_schedule(self, schedule_id: str) -> None:
        """Let a schedule fire again."""
        await self._call("PATCH", f"/v2/schedules/{_segment(schedule_id)}/resume")

    async def delete_schedule(self, schedule_id: str) -> None:
        """Delete a schedule, if there is one."""
        await self._call("DELETE", f"/v2/schedules/{_segment(schedule_id)}")

    async def queues(self) -> list[Json]:
        """Return all queues."""
        return _objects(await self._call("GET", "/v2/queues"))

    async def queue(self, name: str) -> Json:
        """Return one queue."""
        return _object(await self._call("GET", f"/v2/queues/{_segment(name)}"))

    async def save_queue(self, name: str, parallelism: int, *, paused: bool) -> None:
        """Make a queue, or change it."""
        await self._send_json("POST", "/v2/queues", {"queueName": name, "parallelism": parallelism, "paused": paused})

    async def pause_queue(self, name: str) -> None:
        """Let a queue send nothing more."""
        await self._call("POST", f"/v2/queues/{_segment(name)}/pause")

    async def resume_queue(self, name: str) -> None:
        """Let a queue go on."""
        await self._call("POST", f"/v2/queues/{_segment(name)}/resume")

    async def delete_queue(self, name: str) -> None:
        """Delete a queue, if there is one, and cancel what is in it."""
        await self._call("DELETE", f"/v2/queues/{_segment(name)}")

    async def flow_keys(self, search: str = "") -> list[Json]:
        """Return the flow-control keys that contain a text."""
        return _objects(await self._call("GET", "/v2/flowControl", [("search", search)] if search else ()))

    async def flow_key(self, key: str) -> Json:
        """Return one flow-control key."""
        return _object(await self._call("GET", f"/v2/flowControl/{_path(key)}"))

    async def change_flow_key(self, key: str, verb: str, query: Query = ()) -> None:
        """Pause, resume, pin, unpin or resetRate a flow-control key."""
        await self._call("POST", f"/v2/flowControl/{_path(key)}/{verb}", query)

    async def url_groups(self) -> list[Json]:
        """Return all URL groups."""
        return _objects(await self._call("GET", "/v2/topics"))

    async def url_group(self, name: str) -> Json:
        """Return one URL group."""
        return _object(await self._call("GET", f"/v2/topics/{_segment(name)}"))

    async def add_endpoints(self, name: str, endpoints: Sequence[Json]) -> None:
        """Add endpoints, `url` and perhaps `name`, to a URL group."""
        await self._send_json("POST", f"/v2/topics/{_segment(name)}/endpoints", {"endpoints": endpoints})

    async def remove_endpoints(self, name: str, endpoints: Sequence[Json]) -> None:
        """Remove endpoints, by `url`, `name` or both, from a URL group."""
        await self._send_json("DELETE", f"/v2/topics/{_segment(name)}/endpoints", {"endpoints": endpoints})

    async def delete_url_group(self, name: str) -> None:
        """Delete a URL group, if there is one."""
        await self._call("DELETE", f"/v2/topics/{_segment(name)}")

    async def keys(self) -> Json:
        """Return the signing keys, `current` and `next`."""
        return _object(await self._call("GET", "/v2/keys"))

    async def rotate_keys(self) -> Json:
        """Rotate the signing keys and return the new ones."""
        return _object(await self._call("POST", "/v2/keys/rotate"))

    async def status(self) -> Json | None:
        """Return what our own server tells of itself beyond the protocol, `/status`; None where there is no such."""
        return await self._beyond("/status", (), "activity")

    async def waiting(self, query: Query) -> list[Json] | None:
        """Return who waits for a `queueName` or a `flowControlKey`, in order; None where nobody tells."""
        answer = await self._beyond("/waiting", query, "waiting")
        return None if answer is None else _objects(answer["waiting"])

    async def pending(self, filters: Query, count: int) -> list[str] | None:
        """Return the ids of at most so many messages under way, the oldest first; None where nobody tells."""
        answer = await self._beyond("/pending", _paged(filters, None, count), "pending")
        found = None if answer is None else answer["pending"]
        return [str(one) for one in cast(list[object], found)] if isinstance(found, list) else None

    async def _beyond(self, path: str, query: Query, name: str) -> Json | None:
        """Ask what only our own server answers, with a field of this name."""
        try:
            answer = await self._call("GET", path, query)
        except (ApiRefusal, AnswerUnreadable) as error:
            if isinstance(error, ApiRefusal) and (error.status >= 500 or error.status in (400, 429)):
                raise
            return None
        return cast(Json, answer) if isinstance(answer, dict) and name in answer else None

    async def _send_json(self, method: str, path: str, document: object) -> object:
        headers = (("Content-Type", "application/json"),)
        return await self._call(method, path, (), headers, json.dumps(document).encode())

    async def _retry_one(self, dlq_id: str) -> int:
        try:
            await self._call("POST", f"/v2/dlq/retry/{_segment(dlq_id)}")
        except ApiRefusal as refusal:
            if refusal.status != 404:
                raise
            return 0
        return 1

    async def _call(
        self, method: str, path: str, query: Query = (), headers: Headers = (), body: bytes = b""
    ) -> object:
        url = self._url + path + (f"?{urlencode(query)}" if query else "")
        authorized = [("Authorization", f"Bearer {self._token}"), *headers]
        response = await self._transport.send(
            HttpRequest(method, url, authorized, body), timeout_s=TIMEOUT_S, response_bytes_max=ANSWER_BYTES_MAX
        )
        where = origin(url)
        if not response.ok:
            raise ApiRefusal(where, response.status, self._text(response), _retry_after_s(response))
        if not response.complete:
            raise AnswerUnreadable(f"{where} answered more than {ANSWER_BYTES_MAX} bytes; ask for less with --limit")
        try:
            return cast(object, json.loads(response.body)) if response.body else {}
        except (ValueError, RecursionError):
            raise AnswerUnreadable(f"{where} answered {response.status} and no JSON; is it a QStash?") from None

    def _text(self, response: HttpResponse) -> str:
        text = response.body.decode(errors="replace")
        try:
            value: object = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict) and isinstance(said := cast(Json, value).get("error"), str):
            text = said
        return printable(text.replace(self._token, "[token]"))[:TEXT_LENGTH_MAX]


def printable(text: str) -> str:
    """Return text without what a terminal would obey: controls, line breaks and changes of direction are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _segment(text: str) -> str:
    if not text or text in (".", ".."):
        raise InvalidValue(f"{text!r} is not an id")
    return quote(text, safe="")


def _path(text: str) -> str:
    """Return segments of a path; as in the SDKs, slashes are not escaped."""
    return "/".join(_segment(segment) for segment in text.split("/"))


def _paged(filters: Query, cursor: str | None, count: int) -> list[tuple[str, str]]:
    return [*filters, ("count", str(count)), *([("cursor", cursor)] if cursor else [])]


def _page(answer: object, name: str) -> Page:
    document = _object(answer)
    cursor = document.get("cursor")
    return Page(_objects(document.get(name)), str(cursor) if cursor else None)


def _object(value: object) -> Json:
    if not isinstance(value, dict):
        raise AnswerUnreadable("the answer is not a JSON object; is it a QStash?")
    return cast(Json, value)


def _objects(value: object) -> list[Json]:
    if not isinstance(value, list):
        raise AnswerUnreadable("the answer holds no list where the protocol has one; is it a QStash?")
    return [_object(entry) for entry in cast(Iterable[object], value)]


def _retry_after_s(response: HttpResponse) -> float | None:
    text = response.header("Retry-After") or ""
    return float(text) if text.isascii() and text.isdigit() else None
