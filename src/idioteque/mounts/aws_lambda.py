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
    return {
        "statusCode": response.status,
        "headers": dict(response.headers),
        "body": response.body.decode(),
        "isBase64Encoded": False,
    }


def _request(event: LambdaEvent) -> HttpRequest:
    http: Mapping[str, Any] = event.get("requestContext", {}).get("http", {})
    text: str = event.get("body") or ""
    try:
        body = base64.b64decode(text, validate=True) if event.get("isBase64Encoded") else text.encode()
    except binascii.Error:
        body = b""
    named: Mapping[str, object] = event.get("headers") or {}
    headers = [(name, str(value)) for name, value in named.items()]
    method = str(http.get("method") or event.get("httpMethod") or "POST")
    return HttpRequest(method, str(event.get("rawPath") or event.get("path") or "/"), headers, body)
