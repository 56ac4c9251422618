"""One attempt: sign, send, and say what came back. Knows nothing of what follows from it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from idioteque.clock import Clock
from idioteque.errors import ConnectFailed, ConnectionCut, TransportError, first_line
from idioteque.server.config import ServerConfig
from idioteque.server.core.credentials import Credentials
from idioteque.server.model import DIRECT, Answer, Lease, Source
from idioteque.signing import sign
from idioteque.transport import Beginning, Headers, HttpRequest, HttpResponse, HttpTransport, beginning_of

USER_AGENT = "Upstash-QStash"
FIXED_HEADERS = (("User-Agent", USER_AGENT), ("Accept-Encoding", "identity"))

logger = logging.getLogger("idioteque.server")


@dataclass(slots=True, unsafe_hash=True)
class Attempted:
    """What an attempt brought; `unreached` when the connection was refused or cut."""

    answer: Answer
    unreached: bool = False


class Courier:
    """Carries messages to their destinations."""

    def __init__(self, config: ServerConfig, clock: Clock, transport: HttpTransport, credentials: Credentials) -> None:
        self._config = config
        self._clock = clock
        self._transport = transport
        self._beginning = beginning_of(transport)
        self._credentials = credentials
        self._tasks: set[asyncio.Task[Attempted]] = set()

    def begin(self, lease: Lease, told: Callable[[Attempted], None]) -> Callable[[], object]:
        """Begin one attempt; `told` is called with what came of it, in a later turn of the loop.

        What is returned breaks the attempt off: nobody is told of it then.
        """
        end = None if self._beginning is None else self._begun(self._beginning, lease, told)
        if end is not None:
            return end
        task = asyncio.get_running_loop().create_task(self._send(lease))
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, told))
        return task.cancel

    async def close(self) -> None:
        """Return once every attempt has ended that was broken off."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, told: Callable[[Attempted], None], task: asyncio.Task[Attempted]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            told(task.result())

    def _begun(
        self, beginning: Beginning, lease: Lease, told: Callable[[Attempted], None]
    ) -> Callable[[], None] | None:
        try:
            return beginning.begin(
                self._request(lease),
                partial(_tell, told),
                timeout_s=self._timeout_s(lease),
                response_bytes_max=self._config.response_bytes_max,
            )
        except Exception:  # `_send` meets it as well, and says so
            return None

    async def _send(self, lease: Lease) -> Attempted:
        """Make one attempt. Whatever goes wrong is a failed attempt, never an exception: the message must go on."""
        try:
            response = await self._transport.send(
                self._request(lease),
                timeout_s=self._timeout_s(lease),
                response_bytes_max=self._config.response_bytes_max,
            )
        except TransportError as error:
            return _attempted(error)
        except Exception as error:
            logger.exception("an attempt to deliver %s failed in an unforeseen way", lease.message.id)
            return Attempted(Answer(error=first_line(error)))
        return _attempted(response)

    def _timeout_s(self, lease: Lease) -> float:
        limit_s, asked_s = self._config.attempt_timeout_s, lease.message.options.timeout_s
        return limit_s if asked_s is None else min(asked_s, limit_s)

    def _request(self, lease: Lease) -> HttpRequest:
        message = lease.message
        headers = [
            *message.options.headers,
            *FIXED_HEADERS,
            ("Upstash-Signature", sign(message.url, message.body, self._credentials.current_key, self._clock.now_ms())),
            ("Upstash-Message-Id", message.id),
            ("Upstash-Retried", str(lease.retried)),
        ]
        if message.source is not DIRECT:
            headers += _source_headers(message.source)
        if message.caller_ip:
            headers.append(("Upstash-Caller-Ip", message.caller_ip))
        shared = len(message.options.headers) + len(FIXED_HEADERS)
        return HttpRequest(message.options.method, message.url, headers, message.body, shared)


def _attempted(outcome: HttpResponse | TransportError) -> Attempted:
    if isinstance(outcome, HttpResponse):
        return Attempted(Answer(outcome.status, outcome.headers, outcome.body))
    return Attempted(Answer(error=str(outcome)[:1000]), unreached=isinstance(outcome, ConnectFailed | ConnectionCut))


def _tell(told: Callable[[Attempted], None], outcome: HttpResponse | TransportError) -> None:
    told(_attempted(outcome))


def _source_headers(source: Source) -> Headers:
    named = (("Upstash-Schedule-Id", source.schedule_id), ("Upstash-Topic-Name", source.url_group))
    return tuple((name, value) for name, value in named if value is not None)
