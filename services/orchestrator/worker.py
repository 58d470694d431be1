"""A worker process: `python -m services.orchestrator.worker --queues control,annotate --concurrency 2`.

With `--metrics PORT` it answers Prometheus there, on this machine's own address unless a host stands before the port.
Threads wait for the teacher and for the database, and for the child processes in which models are trained; the process
itself never computes and never imports torch.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import socket
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import structlog
from celery import Celery, signals
from celery.platforms import SecurityWarning
from sqlalchemy.exc import SQLAlchemyError

from services.orchestrator.away import is_away, unusable
from services.orchestrator.broker import TASK, create_celery, sender
from services.orchestrator.child import warm
from services.orchestrator.context import Context
from services.orchestrator.dispatch import Sweeper, follow_up
from services.orchestrator.execute import execute
from services.orchestrator.jobs import QUEUES
from services.orchestrator.pipeline import STAGES
from services.orchestrator.settings import Settings
from services.orchestrator.signs import Signs
from services.orchestrator.worker_metrics import WorkerMetrics, serve
from understudy import tracing
from understudy.errors import Conflict, InvalidRequest, Unavailable, UnknownName
from understudy.logs import configure

__all__ = ["create_worker", "main"]

log = structlog.get_logger()

CHAIN_SECONDS = 2.0
"""How long a message may keep its thread with other items than its own: messages of other queues wait meanwhile."""
YOUNG = 20_000
"""Objects after which garbage is looked for: one answer of a teacher makes a thousand that are none yet."""


def create_worker(settings: Settings, signs: Signs, metrics: WorkerMetrics) -> tuple[Celery, Context]:
    """A Celery app with our one task, and what the task works with."""
    app = create_celery(settings)
    context = Context(settings, sender(app), metrics=metrics)
    stopping = threading.Event()
    name = f"{socket.gethostname()}-{os.getpid()}"

    @app.task(name=TASK)
    def run_item(item_id: str) -> None:
        with signs.at_work():
            _work(context, item_id, name, stopping)

    def stop(**_: Any) -> None:
        stopping.set()  # items that run go back as they were, and their threads end
        signs.ready(False)

    def take_messages(**_: Any) -> None:
        signs.ready()

    signals.worker_shutting_down.connect(stop, weak=False)
    signals.worker_ready.connect(take_messages, weak=False)
    signals.setup_logging.connect(_leave_logging_alone, weak=False)
    return app, context


def _work(context: Context, item_id: str, worker: str, stopping: threading.Event) -> None:
    """Work on an item, and for a while on those whose turn its end has brought: a message for each costs more."""
    following, until = item_id, time.monotonic() + CHAIN_SECONDS
    while following and (queue := execute(context, following, worker, stopping)):
        try:
            keep = time.monotonic() < until and not stopping.is_set()
            following = follow_up(context, queue, keep=keep) or ""
        except SQLAlchemyError as error:
            if not is_away(error):
                raise
            log.warning("follow_up_failed", error=str(error)[:300])  # the sweeper's next round does it
            return


def _leave_logging_alone(**_: Any) -> None:
    """Celery sets logging up itself, unless somebody listens to this signal."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    configure("worker")
    tracing.configure("worker")
    settings, metrics = Settings(), WorkerMetrics()
    metrics.expect((stage.queue, phase) for phase, stage in STAGES.items() if stage.queue in options.queues)
    with ExitStack() as closing:
        try:
            if options.metrics:
                port = closing.enter_context(serve(metrics.registry, *options.metrics))
                log.info("metrics_served", host=options.metrics[0], port=port)
            settings.make_home()
            signs = Signs(options.signs, options.idle_exit, sound=lambda: sweeper.alive())
            app, context = create_worker(settings, signs, metrics)
        except SQLAlchemyError as error:
            sys.exit(f"the worker does not start: {unusable(error, settings.database)}")
        except (Conflict, InvalidRequest, Unavailable) as error:
            sys.exit(f"the worker does not start: {error}")
        sweeper = Sweeper(context)
        return _run(options, app, context, signs, sweeper)


def _run(options: argparse.Namespace, app: Celery, context: Context, signs: Signs, sweeper: Sweeper) -> int:
    """Work until a signal comes, and give the exit status."""
    if "train" in options.queues:
        warm()
    sweeper.start()
    signs.start()
    # What is there by now stays: to look through it again and again took more time than the answers of a teacher do.
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
    log.info("worker_started", queues=options.queues, concurrency=options.concurrency)
    # Celery warns root of pickled messages; here they are refused.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    worker = app.Worker(
        quiet=True,
        pool="threads",
        concurrency=options.concurrency,
        queues=options.queues,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    signs.stop()
    sweeper.stop()
    context.close()
    return int(worker.exitcode or 0)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="services.orchestrator.worker", description="Works on Understudy's jobs.")
    parser.add_argument("--queues", type=_queues, default=list(QUEUES), help=f"of {', '.join(QUEUES)}, by commas")
    parser.add_argument("--concurrency", type=int, default=2, help="items that are worked on at once")
    parser.add_argument("--signs", type=Path, help="the folder of the files `alive` and `ready`, for probes")
    parser.add_argument("--idle-exit", type=_seconds, help="end after so many seconds without work")
    parser.add_argument("--metrics", type=_address, metavar="[HOST:]PORT", help="answer Prometheus there")
    return parser.parse_args(arguments)


def _address(value: str) -> tuple[str, int]:
    """`8003`, `0.0.0.0:8003` or `[::]:8003`."""
    found = re.fullmatch(r"(?:([^\s:\[\]]+|\[[^\s\[\]]+\]):)?(\d{1,5})", value, re.ASCII)
    if found is None or int(found[2]) > 65535:
        raise argparse.ArgumentTypeError(f"'{value}' is no address: give PORT, HOST:PORT or [IPv6]:PORT")
    return (found[1] or "127.0.0.1").strip("[]"), int(found[2])


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"'{value}' is no number of seconds above 0")
    return seconds


def _queues(value: str) -> list[str]:
    names = [name.strip() for name in value.split(",") if name.strip()]
    for name in names:
        if name not in QUEUES:
            raise argparse.ArgumentTypeError(UnknownName.among("queue", name, QUEUES).message)
    if not names:
        raise argparse.ArgumentTypeError(InvalidRequest("name at least one queue").message)
    return names


if __name__ == "__main__":
    sys.exit(main())
