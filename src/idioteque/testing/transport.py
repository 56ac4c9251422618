"""A transport whose answers a test writes down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from idioteque.transport import DEFAULT_TIMEOUT_S, RESPONSE_BYTES_MAX, HttpRequest, HttpResponse

Answer = int | HttpResponse | BaseException
Answers = Sequence[Answer] | Callable[[HttpRequest], Answer | Awaitable[Answer]]


class ScriptedTransport:
    """An `HttpTransport` that answers from a list (its last entry for ever) or a function, and keeps every request.

    An answer is a status, a response, or an exception to raise.
    """

    def __init__(self, answers: Answers = (200,)) -> None:
        self.requests: list[HttpRequest] = []
        self.accepts_connections = False
        self.answers = answers

    async def send(
        self,
        request: HttpRequest,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        response_bytes_max: int = RESPONSE_BYTES_MAX,
    ) -> HttpResponse:
        self.requests.append(request)
        if callable(self.answers):
            given = self.answers(request)
            answer = await given if isinstance(given, Awaitable) else given
        else:
            answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
        if isinstance(answer, BaseException):
            raise answer
        return HttpResponse(answer) if isinstance(answer, int) else answer

    async def probe(self, url: str, *, timeout_s: float = 2.0) -> bool:
        return self.accepts_connections

    async def close(self) -> None:
        return
