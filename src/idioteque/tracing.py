"""Spans for OpenTelemetry. Without `opentelemetry-api` (the extra `otel`) nothing is imported and nothing is paid.

Without a tracer provider spans are made only where there is one to descend from, so that a trace of somebody else's
goes on through our messages; otherwise the price is a look at two variables.

A message carries the span that sent it, in the headers of W3C Trace Context, and its delivery is a child of that span.
One that is sent for later, or wakes a run that waited, carries a link instead: its delivery begins a trace of its own
that refers to the former one, so that no trace has to stay open for days.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Literal

from idioteque.transport import Headers

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, SpanContext

LINK_HEADER = "Idioteque-Link"
"""A `traceparent` to refer to, not to descend from."""

Attributes = Mapping[str, str | int]
Kind = Literal["internal", "producer", "consumer"]


class Mark:
    """What is said of a span while it is open; this one is of a span that nobody records."""

    def fail(self, reason: str) -> None:
        """The span's work failed: the name of an error's class, or a status; never a text that may hold secrets."""


NO_MARK = Mark()
_CARRYING = {"traceparent", LINK_HEADER.lower()}
_CARRYING_LENGTHS = {len(name) for name in _CARRYING}
UNHEARD = nullcontext(NO_MARK)
"""The context of a span that nobody would hear of."""


def is_heard() -> bool:
    """Whether anybody would hear of a span."""
    tracer = _tracer()
    return tracer is not None and tracer.is_listening()


def span(name: str, kind: Kind, attributes: Attributes) -> AbstractContextManager[Mark]:
    """Return a context in which a new span is the current one, a child of the current one outside."""
    tracer = _tracer()
    if tracer is None or not tracer.is_listening():
        return UNHEARD
    return tracer.span(name, kind, attributes)


def delivery(headers: Headers, attributes: Attributes) -> AbstractContextManager[Mark]:
    """Return the context of a delivery: below what its framework has begun, else below what its message carries."""
    tracer = _tracer()
    if tracer is None or not (tracer.is_listening() or _carries(headers)):
        return UNHEARD
    return tracer.delivery(headers, attributes)


def _carries(headers: Headers) -> bool:
    return any(len(name) in _CARRYING_LENGTHS and name.lower() in _CARRYING for name, _ in headers)


def carried(*, detached: bool) -> Sequence[tuple[str, str]]:
    """Return the headers of a message that the current span sends; `detached` if it is for later or for another run."""
    tracer = _tracer()
    return () if tracer is None or not tracer.is_listening() else tracer.carried(detached=detached)


def forgotten() -> AbstractContextManager[object]:
    """Return a context in which no span is current: what runs there belongs to a delivery of its own."""
    tracer = _tracer()
    return UNHEARD if tracer is None else tracer.forgotten()


@lru_cache(maxsize=1)
def _tracer() -> _Tracer | None:
    try:
        return _Tracer()
    except ImportError:
        return None


class _SpanMark(Mark):
    def __init__(self, inner: Span) -> None:
        self._inner = inner

    def fail(self, reason: str) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._inner.set_status(Status(StatusCode.ERROR, reason))


class _Tracer:
    """The part of the OpenTelemetry API that is used here."""

    def __init__(self) -> None:
        from opentelemetry import context, propagate, trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._context, self._propagate, self._trace = context, propagate, trace
        self._links = TraceContextTextMapPropagator()
        self._tracer = trace.get_tracer("idioteque", metadata.version("idioteque"))

    def is_listening(self) -> bool:
        """Whether anybody would hear of a span: a provider is set, or one is open already."""
        return self._has_provider() or (bool(self._context.get_current()) and self._current().is_valid)

    def _has_provider(self) -> bool:
        """Whether a provider is set; the API's own answer looks into the environment each time, so it is asked last."""
        provider = getattr(self._trace, "_TRACER_PROVIDER", self)
        if provider is self:  # a version of the API that keeps it elsewhere
            return not isinstance(self._trace.get_tracer_provider(), self._trace.ProxyTracerProvider)
        return provider is not None

    @contextmanager
    def span(
        self,
        name: str,
        kind: Kind,
        attributes: Attributes,
        parent: Context | None = None,
        links: Sequence[Link] = (),
    ) -> Generator[Mark]:
        inner = self._tracer.start_span(
            name, parent, self._trace.SpanKind[kind.upper()], dict(attributes), links,
            record_exception=False, set_status_on_exception=False,
        )  # fmt: skip
        mark = _SpanMark(inner)
        with self._trace.use_span(inner, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield mark
            except Exception as error:
                mark.fail(type(error).__name__)
                raise

    def delivery(self, headers: Headers, attributes: Attributes) -> AbstractContextManager[Mark]:
        carrier = {name.lower(): value for name, value in headers}
        parent = None if self._current().is_valid else self._propagate.extract(carrier, self._context.Context())
        return self.span("idioteque deliver", "consumer", attributes, parent, self._links_in(carrier))

    def _links_in(self, carrier: Mapping[str, str]) -> list[Link]:
        former = self._links.extract({"traceparent": carrier.get(LINK_HEADER.lower(), "")}, self._context.Context())
        referred = self._trace.get_current_span(former).get_span_context()
        return [self._trace.Link(referred)] if referred.is_valid else []

    def carried(self, *, detached: bool) -> list[tuple[str, str]]:
        if not self._current().is_valid:
            return []
        carrier: dict[str, str] = {}
        if detached:
            self._links.inject(carrier)
            return [(LINK_HEADER, carrier["traceparent"])]
        self._propagate.inject(carrier)
        return list(carrier.items())

    @contextmanager
    def forgotten(self) -> Generator[None]:
        token = self._context.attach(self._context.Context())
        try:
            yield
        finally:
            self._context.detach(token)

    def _current(self) -> SpanContext:
        return self._trace.get_current_span().get_span_context()
