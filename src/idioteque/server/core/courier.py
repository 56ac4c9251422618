"""One attempt: sign, send, and say what came back. Knows nothing of what follows from it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from idioteque.clock import Clock
from idioteque.errors import ConnectFailed, ConnectionCut, TransportError, first_line
from idioteque.server.config import ServerConfig
from idioteque.server.core.credentials import Credentials
from idioteque.server.model import DIRECT, Answer, Lease, Source
from idioteque.signing import sign
from idioteque.transport import Headers, HttpRequest, HttpTransport

USER_AGENT = "Upstash-QStash"
FIXED_HEADERS = (("User-Agent", USER_AGENT), ("Accept-Encoding", "identity"))

logger = logging.getLogger("idioteque.server")


@dataclass(frozen=True, slots=True)
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
        self._credentials = credentials

    async def deliver(self, lease: Lease) -> Attempted:
        """Make one attempt. Whatever goes wrong is a failed attempt, never an exception: the message must go on."""
        limit_s, asked_s = self._config.attempt_timeout_s, lease.message.options.timeout_s
        try:
            response = await self._transport.send(
                self._request(lease),
                timeout_s=limit_s if asked_s is None else min(asked_s, limit_s),
                response_bytes_max=self._config.response_bytes_max,
            )
        except TransportError as error:
            return Attempted(
                Answer(error=str(error)[:1000]), unreached=isinstance(error, ConnectFailed | ConnectionCut)
            )
        except Exception as error:
            logger.exception("an attempt to deliver %s failed in an unforeseen way", lease.message.id)
            return Attempted(Answer(error=first_line(error)))
        return Attempted(Answer(response.status, response.headers, response.body))

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
        return HttpRequest(message.options.method, message.url, headers, message.body)


def _source_headers(source: Source) -> Headers:
    named = (("Upstash-Schedule-Id", source.schedule_id), ("Upstash-Topic-Name", source.url_group))
    return tuple((name, value) for name, value in named if value is not None)
