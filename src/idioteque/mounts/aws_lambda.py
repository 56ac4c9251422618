"""AWS Lambda behind a function URL, API Gateway (both payload versions) or an application load balancer."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from idioteque.bridge import run_sync
from idioteque.transport import HttpRequest, HttpResponse

LambdaEvent = Mapping[str, Any]
SHARE_LEFT = 0.2
LEFT_MAX_S = 60.0
"""What is left of an invocation's time for the steps that run at the deadline: a share of it, and no more than this."""


class Handle(Protocol):
    """What answers a request that has so many seconds until nothing new may start."""

    async def __call__(self, request: HttpRequest, *, deadline_s: float | None) -> HttpResponse: ...


def serve(event: LambdaEvent, context: object, handle: Handle) -> dict[str, Any]:
    """Answer one invocation."""
    request, deadline_s = _request(event), _deadline_s(context)

    async def handled() -> HttpResponse:
        return await handle(request, deadline_s=deadline_s)

    response = run_sync(handled())
    answer: dict[str, Any] = {
        "statusCode": response.status,
        "headers": dict(response.headers),
        "body": response.body.decode(),
        "isBase64Encoded": False,
    }
    if "multiValueHeaders" in event:  # a load balancer that sends them reads no others
        answer["multiValueHeaders"] = {name: [value] for name, value in response.headers}
    return answer


def _deadline_s(context: object) -> float | None:
    """Return for how long new steps may start, by what the context says of the time that remains."""
    remaining_ms = getattr(context, "get_remaining_time_in_millis", None)
    if not callable(remaining_ms):
        return None
    remaining_s = float(cast(Callable[[], float], remaining_ms)()) / 1000
    return max(0.0, remaining_s - min(SHARE_LEFT * remaining_s, LEFT_MAX_S))


def _request(event: LambdaEvent) -> HttpRequest:
    http: Mapping[str, Any] = event.get("requestContext", {}).get("http", {})
    text: str = event.get("body") or ""
    try:
        is_base64 = event.get("isBase64Encoded")
        body = base64.b64decode(text, validate=True) if is_base64 else text.encode(errors="surrogatepass")
    except binascii.Error:
        body = b""
    headers = [(name, value) for name, values in _headers(event).items() for value in values]
    method = str(http.get("method") or event.get("httpMethod") or "POST")
    return HttpRequest(method, str(event.get("rawPath") or event.get("path") or "/"), headers, body)


def _headers(event: LambdaEvent) -> dict[str, list[str]]:
    several: Mapping[str, list[object]] = event.get("multiValueHeaders") or {}
    single: Mapping[str, object] = event.get("headers") or {}
    if several:
        return {name: [str(value) for value in values] for name, values in several.items()}
    return {name: [str(value)] for name, value in single.items()}
