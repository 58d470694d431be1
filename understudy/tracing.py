"""Traces by OpenTelemetry where it is installed and asked for; otherwise nothing here does anything, or costs anything.

A trace begins with whoever asks (`traceparent`, W3C Trace Context) or with the request. A job keeps the traceparent of
the request that made it, so that all its work is in that trace, whichever process does it and however often its message
came. Where spans go is said in OpenTelemetry's own variables: `OTEL_EXPORTER_OTLP_ENDPOINT` switches them on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import httpx
import structlog

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

__all__ = ["HEADER", "answered", "configure", "continue_in", "is_on", "span", "traceparent"]

log = structlog.get_logger()

ASKED_FOR = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
HEADER = "traceparent"

_tracer: Tracer | None = None


def configure(service: str) -> None:
    """Send the spans of this process where OpenTelemetry's variables say, as `understudy-<service>`; once a process.

    Says in the log where the variables ask for what is not installed.
    """
    global _tracer
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if _tracer is not None or off or not any(os.environ.get(name) for name in ASKED_FOR):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("no_traces", problem="OpenTelemetry is not installed: pip install 'understudy[traces]'")
        return
    named = os.environ.get("OTEL_SERVICE_NAME") or f"understudy-{service}"
    provider = TracerProvider(resource=Resource.create({"service.name": named}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = provider.get_tracer("understudy")


def is_on() -> bool:
    return _tracer is not None


@contextmanager
def span(
    name: str, *, parent: str | None = None, kind: Literal["INTERNAL", "SERVER"] = "INTERNAL", **attributes: Any
) -> Iterator[Span | None]:
    """A span around the block, below `parent` (a traceparent) or else the current one; an error marks it as failed.

    Attributes that are None are left out; `job_id` becomes `understudy.job_id`. Gives None where there are no traces.
    """
    if _tracer is None:
        yield None
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({HEADER: parent}) if parent else None
    told = {f"understudy.{key}": value for key, value in attributes.items() if value is not None}
    with _tracer.start_as_current_span(name, context, getattr(SpanKind, kind), told) as current:
        ids = current.get_span_context()
        with structlog.contextvars.bound_contextvars(trace_id=f"{ids.trace_id:032x}"):
            yield current


def answered(span: Span, method: str, route: str | None, status: int) -> None:
    """What is known of a request once it is answered, by the semantic conventions for HTTP."""
    from opentelemetry.trace import StatusCode

    span.update_name(f"{method} {route}" if route else method)
    span.set_attributes({"http.request.method": method, "http.response.status_code": status})
    if route:
        span.set_attribute("http.route", route)
    if status >= 500:
        span.set_status(StatusCode.ERROR)


def traceparent() -> str | None:
    """The current span, as a header says it; None outside of any."""
    if _tracer is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(HEADER)


def continue_in(request: httpx.Request) -> None:
    """Let the service that is asked go on with this trace. A hook of httpx."""
    if _tracer is not None and (current := traceparent()):
        request.headers[HEADER] = current
