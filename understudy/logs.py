"""One shape for every line that a process of ours logs, its libraries' included: time, level, event, fields.

`UNDERSTUDY_LOG=json` writes one JSON object a line for machines; anything else writes for people.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from structlog.tracebacks import ExceptionDictTransformer

__all__ = ["configure"]

# What these say at INFO is about themselves: one line for each request that httpx sends, for each message kombu moves.
_CHATTY = ("celery", "kombu", "httpx", "httpcore", "uvicorn.access", "asyncio", "fsspec", "transformers")


def configure(service: str) -> None:
    """Send structlog and standard logging to stderr in one format, each line with the service's name in JSON."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        _plain,
    ]
    if os.environ.get("UNDERSTUDY_LOG") == "json":
        shared += [structlog.processors.TimeStamper(fmt="iso", utc=True), _named(service)]
        # Without local variables: they hold the texts of users.
        shared += [structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))]
        last: structlog.typing.Processor = structlog.processors.JSONRenderer()
    else:
        shared += [structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)]
        last = structlog.dev.ConsoleRenderer(
            colors=False, pad_event_to=24, exception_formatter=structlog.dev.plain_traceback
        )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processor=last))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )


def _plain(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """uvicorn repeats its message with colour codes."""
    event.pop("color_message", None)
    return event


def _named(service: str) -> structlog.typing.Processor:
    def add(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {"service": service, **event}

    return add
