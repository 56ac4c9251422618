"""From an HTTP request to a run: verify, decode, deliver, answer. Frameworks stop before this, in `mounts`."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from idioteque import tracing
from idioteque.clock import Clock, SystemClock
from idioteque.dispatcher import (
    CALLBACK_HEADER,
    FAILURE_CALLBACK,
    MESSAGE_ID_LENGTH_MAX,
    FailureCallback,
    NewerVersion,
    decode,
    read_failure_callback,
)
from idioteque.engine import Answer, Delivery, Engine
from idioteque.errors import EventRejected, SignatureError
from idioteque.ids import derived_id, nonce
from idioteque.metrics import SILENT, Metrics
from idioteque.mounts import asgi, aws_lambda, django, wsgi
from idioteque.signing import verify
from idioteque.transport import HttpRequest, HttpResponse

BODY_BYTES_MAX = 10 * 1024 * 1024
TEXT_LENGTH_MAX = 2000
REFUSED_FOR_GOOD = ("Upstash-NonRetryable-Error", "true")

_log = logging.getLogger("idioteque")


class Verifier:
    """Checks the signature of a delivery over its raw bytes against the URL that the mount is configured with."""

    def __init__(self, url: str, keys: Sequence[str | None], clock: Clock, *, names: Sequence[str]) -> None:
        self._url = url
        self._keys = [key for key in keys if key]
        self._clock = clock
        self.missing = [name for name, key in zip(names, keys, strict=True) if not key]
        """The variables without which nothing can be verified; empty when something can."""
        if self._keys:
            self.missing = []

    def check(self, request: HttpRequest) -> None:
        """Raise `SignatureError` unless the request is a delivery for this mount."""
        tokens = [value for name, value in request.headers if len(name) == 17 and name.lower() == "upstash-signature"]
        if len(tokens) != 1:
            raise SignatureError("the request has no Upstash-Signature header" if not tokens else "two signatures")
        verify(tokens[0], request.body, self._keys, self._clock.now_ms(), self._url)


class Mount:
    """The endpoint that deliveries arrive at: itself an ASGI application, and `wsgi`, `django` and `aws_lambda`.

    It answers 2xx when the message need not come again, 489 to what can never be understood, 401 to a wrong signature,
    413 to a body that is too large, 405 to anything but POST, and 5xx to whatever should be tried again.
    """

    def __init__(
        self,
        engine: Engine,
        verifier: Verifier | None,
        *,
        clock: Clock | None = None,
        metrics: Metrics = SILENT,
        body_bytes_max: int = BODY_BYTES_MAX,
        deadline_s: float | None = None,
    ) -> None:
        self.engine = engine
        self._clock = clock or SystemClock()
        self._metrics = metrics
        self._verifier = verifier
        self._body_bytes_max = body_bytes_max
        self._deadline_s = deadline_s
        if verifier is not None and verifier.missing:
            _log.warning("%s; every delivery is answered 500 until then", _missing(verifier))

    async def handle(self, request: HttpRequest, *, deadline_s: float | None = None) -> HttpResponse:
        """Answer one delivery, from any framework, starting nothing new after so many seconds."""
        return _response(await self._handled(request, deadline_s))

    async def _handled(self, request: HttpRequest, deadline_s: float | None) -> Answer:
        if request.method != "POST":
            return Answer(405, "deliveries are POST requests")
        if len(request.body) > self._body_bytes_max:
            return Answer(413, f"the body is larger than {self._body_bytes_max} bytes", is_final=True)
        if self._verifier is not None:
            if self._verifier.missing:
                return Answer(500, _missing(self._verifier))
            try:
                self._verifier.check(request)
            except SignatureError as error:
                _log.warning("a delivery was refused: %s", error)
                return Answer(401, str(error))
        attributes = {"messaging.message.id": request.header("Upstash-Message-Id") or ""}
        begun_s = self._clock.monotonic_s()
        with tracing.delivery(request.headers, attributes) as mark:
            answer = await self._delivered(request, self._ends_at_s(begun_s, deadline_s))
            if not answer.ok:
                mark.fail(str(answer.status))
        self._metrics.delivered(answer.status, self._clock.monotonic_s() - begun_s)
        return answer

    def _ends_at_s(self, begun_s: float, deadline_s: float | None) -> float | None:
        given = [each for each in (self._deadline_s, deadline_s) if each is not None]
        return begun_s + min(given) if given else None

    async def _delivered(self, request: HttpRequest, ends_at_s: float | None) -> Answer:
        """Decode a request that may be trusted, and do what it asks for."""
        delivery = _delivery(request, ends_at_s)
        is_callback = request.header(CALLBACK_HEADER) == FAILURE_CALLBACK
        try:
            if is_callback:
                return await self._given_up(read_failure_callback(request.body))
            envelope = decode(request.body, delivery.message_id)
        except NewerVersion as error:
            return Answer(503, str(error))
        except EventRejected as error:
            return Answer(489, str(error), is_final=True)
        return await self.engine.deliver(envelope, delivery)

    async def _given_up(self, letter: FailureCallback) -> Answer:
        try:
            return await self.engine.given_up(decode(letter.body, _short(letter.message_id)), letter.reason)
        except (EventRejected, NewerVersion) as error:
            return Answer(200, f"nothing can be recorded of it: {error}")
        except Exception as error:
            _log.warning("a message that was given up could not be recorded: %s", type(error).__name__)
            return Answer(503, "it could not be recorded")

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        await asgi.serve(scope, receive, send, self.handle, self._body_bytes_max)

    @property
    def wsgi(self) -> Callable[[wsgi.Environ, wsgi.StartResponse], Iterable[bytes]]:
        """The same endpoint as a WSGI application."""
        return lambda environ, start_response: wsgi.serve(environ, start_response, self.handle, self._body_bytes_max)

    @property
    def django(self) -> django.View:
        """The same endpoint as a Django view."""
        return django.view(self.handle, self._body_bytes_max)

    @property
    def aws_lambda(self) -> Callable[[aws_lambda.LambdaEvent, object], dict[str, Any]]:
        """The same endpoint as a Lambda handler."""
        return lambda event, context: aws_lambda.serve(event, context, self.handle)


def _delivery(request: HttpRequest, deadline_s: float | None) -> Delivery:
    retried = request.header("Upstash-Retried") or "0"
    message_id = request.header("Upstash-Message-Id") or f"unnamed-{nonce()}"
    return Delivery(
        _short(message_id),
        int(retried) if retried.isascii() and retried.isdigit() and len(retried) < 10 else 0,
        deadline_s,
    )


def _short(message_id: str) -> str:
    return message_id if len(message_id) <= MESSAGE_ID_LENGTH_MAX else derived_id("msg", message_id)


def _missing(verifier: Verifier) -> str:
    return f"no signature can be verified: set {' and '.join(verifier.missing)}, or write insecure=True"


@functools.lru_cache(maxsize=64)
def _response(answer: Answer) -> HttpResponse:
    headers = [("Content-Type", "application/json")]
    if answer.status == 405:
        headers.append(("Allow", "POST"))
    if answer.is_final:
        headers.append(REFUSED_FOR_GOOD)
    body = json.dumps({"message" if answer.ok else "error": answer.text[:TEXT_LENGTH_MAX]}).encode()
    return HttpResponse(answer.status, tuple(headers), body)
