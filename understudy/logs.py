"""One shape for every line that a process of ours logs, its libraries' included: time, level, event, fields.

`UNDERSTUDY_LOG=json` writes one JSON object a line for machines; anything else writes for people.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer

__all__ = ["configure"]

# What these say at INFO is about themselves: one line for each request that httpx sends, for each message kombu moves.
_CHATTY = ("celery", "kombu", "httpx", "httpcore", "uvicorn.access", "asyncio", "fsspec", "transformers")


_MOST_WAITING = 10_000  # lines: where nobody reads them for so long, who says one more waits


def configure(service: str, *, delay: float = 0.0) -> None:
    """Send structlog and standard logging to stderr in one format, each line with the service's name in JSON.

    With `delay`, in seconds, lines that report nothing wrong may be written so much later, many at a time.
    """
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
    lines = _Lines(sys.stderr, delay)
    handler = logging.StreamHandler(lines)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processor=last))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, last],
        logger_factory=lambda *_: lines,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )


class _Lines:
    """What a process says, line by line: written to `stream` at once, or with a `delay` so many seconds later at most.

    Each write lets go of the interpreter's lock, and a thread that computes may hold that for milliseconds: a service
    that says a line for each request would wait for it each time. With a delay, a thread writes what has gathered.
    Warnings and errors, libraries' lines and whatever is left when the process ends are written at once all the same.
    """

    def __init__(self, stream: TextIO, delay: float) -> None:
        self._stream = stream
        self._delay = delay
        self._waiting: list[str] = []
        self._some = threading.Event()
        self._writing = threading.Lock()
        if hasattr(os, "register_at_fork"):  # Windows has no forks
            os.register_at_fork(after_in_child=self._forked)
        if delay:
            threading.Thread(target=self._write_later, name="log", daemon=True).start()
            atexit.register(self.flush)

    def write(self, text: str) -> None:
        self._waiting.append(text)

    def flush(self) -> None:
        with self._writing:
            count = len(self._waiting)  # others may add to it meanwhile
            text = "".join(self._waiting[:count])
            del self._waiting[:count]
            with suppress(OSError, ValueError):  # nobody reads it any more, and work goes on all the same
                self._stream.write(text)
                self._stream.flush()

    def info(self, line: str) -> None:
        if not self._delay or len(self._waiting) >= _MOST_WAITING:
            self.error(line)
            return
        self.write(f"{line}\n")
        if not self._some.is_set():
            self._some.set()

    def error(self, line: str) -> None:
        self.write(f"{line}\n")
        self.flush()

    warning = critical = error

    def _write_later(self) -> None:
        while self._some.wait():
            time.sleep(self._delay)
            self._some.clear()
            self.flush()

    def _forked(self) -> None:
        """A process that was forked off has no other thread: none that lets go of the lock, none that writes later."""
        self._writing, self._waiting, self._delay = threading.Lock(), [], 0.0


def _plain(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """uvicorn repeats its message with colour codes."""
    event.pop("color_message", None)
    return event


def _named(service: str) -> structlog.typing.Processor:
    def add(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {"service": service, **event}

    return add
