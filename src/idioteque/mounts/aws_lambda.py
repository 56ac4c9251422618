"""AWS Lambda behind a function URL, API Gateway (both payload versions) or an application load balancer."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from idioteque.bridge import run_sync
from idioteque.transport import Handler, HttpRequest, HttpResponse

LambdaEvent = Mapping[str, Any]


def serve(event: LambdaEvent, handle: Handler) -> dict[str, Any]:
    """Answer one invocation."""
    request = _request(event)

    async def handled() -> HttpResponse:
        return await handle(request)

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
