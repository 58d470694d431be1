"""What the orchestrator costs: rows through queue, leases, shards and store, beside a loop that asks the teacher.

    python benchmarks/bench_fanout.py [--quick] [--scale 1000000] [--file-rows 1000000] [--rounds 5] [--only PART ...]

The teacher is a process of its own behind real HTTP that says the same of every row (`peers/stub_teacher.py`): at once,
or after 20 ms a row. Redis, the database (SQLite), the store and the workers are real. Everything runs in turn within
each round, so that a busy machine slows all alike. Figures, by the time that a caller waits unless named otherwise:

    fanout_over_bare        a job's annotation / the loop, with an instant teacher
    fanout_cpu_over_bare    the same by processor time of the workers, the broker and the sweeper
    overhead_share          the part of a job's annotation that the loop does not need, with 20 ms a row
    two_over_one            rows a second with two such teachers and two workers / with one of each
    submit_over_list        a job's submission over HTTP / a look at the list of jobs
    pickup_over_lease       from a worker's kill -9 until another has its shard, in leases: 1 cannot be beaten
    statements_per_shard    sent to the database for a shard of 128 rows, and `database_bytes_per_shard` that stay
    upload_rss_over_file    memory that the API takes while a file is uploaded / the file's size
    validate_rss_over_file  the same of the worker that validates it
    examples_per_second     the rows of --scale, instant teacher, end to end
    cost_ratio_1e6_over_1e4 processor time a row of 1,000,000 rows / of 10,000; null for another --scale, whose ratio is
                            `cost_ratio_scale_over_1e4`
    max_rss_growth_mb       most growth of a process between a tenth and the end of that, and of each process

A figure that was not measured is null, as the last three are with --quick. Writes `results/fanout.json` (not with
--quick) and ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil
import structlog
from peers.machine import machine
from peers.rounds import Cost, in_turns, ratios, spread, timed
from peers.stub_teacher import Stub
from peers.workshop import LABELS, Workshop, examples, wait
from sqlalchemy import event, text

from services.orchestrator.dispatch import follow_up
from services.orchestrator.execute import execute
from services.orchestrator.jobs import Job
from services.orchestrator.phases.annotate import attribution_request, plan
from understudy.client import TeacherClient
from understudy.ports import free_ports
from understudy.schemas import Example

RESULT = Path(__file__).parent / "results" / "fanout.json"
PARTS = ("rounds", "shard", "killed", "api", "scale")
LATENCY = 0.02  # seconds a row, as in the goal
LEASE, HEARTBEAT = 2.0, 0.2
START_SECONDS = 5.0
SMALL, LARGE = 10_000, 1_000_000

AT_MOST = {"overhead_share": 0.03, "cost_ratio_1e6_over_1e4": 1.0}
AT_LEAST = {"examples_per_second": 5000.0, "two_over_one": 1.9}
NAMES = (
    "fanout_over_bare",
    "fanout_cpu_over_bare",
    "overhead_share",
    "two_over_one",
    "submit_over_list",
    "pickup_over_lease",
    "statements_per_shard",
    "database_bytes_per_shard",
    "upload_rss_over_file",
    "validate_rss_over_file",
    "examples_per_second",
    "cost_ratio_1e6_over_1e4",
    "max_rss_growth_mb",
)

Figures = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Size:
    """How much is measured: rows of a job with an instant and with a slow teacher, of a file; and how often."""

    rounds: int
    rows: int
    slow_rows: int
    file_rows: int
    submits: int
    kills: int


FULL = Size(rounds=5, rows=4096, slow_rows=640, file_rows=1_000_000, submits=30, kills=5)
QUICK = Size(rounds=1, rows=512, slow_rows=128, file_rows=20_000, submits=10, kills=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less of everything, in under a minute; writes no file")
    parser.add_argument("--scale", type=int, default=LARGE, help="rows of the large job; 0 leaves it out")
    parser.add_argument("--file-rows", type=int, default=FULL.file_rows, help="rows of the uploaded file")
    parser.add_argument("--rounds", type=int, default=FULL.rounds)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="parts; the file keeps the others")
    options = parser.parse_args()
    full = replace(FULL, rounds=options.rounds, file_rows=options.file_rows)
    size, scale = (QUICK, 0) if options.quick else (full, options.scale)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.getLogger("alembic").setLevel(logging.WARNING)
    kept = set(options.only) != set(PARTS) and not options.quick
    figures: Figures = json.loads(RESULT.read_text(encoding="utf-8"))["ratios"] if kept else {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as closing:
        instant, slow, other = (closing.enter_context(_stub(seconds)) for seconds in (0.0, LATENCY, LATENCY))
        parts: dict[str, Callable[[], Figures]] = {
            "rounds": lambda: _in_rounds(Path(folder), size, instant, slow, other),
            "shard": lambda: _per_shard(Path(folder) / "counted", instant, shards=max(4, size.rows // 256)),
            "killed": lambda: _killed(Path(folder) / "killed", slow, size.kills),
            "api": lambda: _api(Path(folder) / "api", instant, size.submits, size.file_rows),
            "scale": lambda: _at_scale(Path(folder) / "scale", instant, scale) if scale else {},
        }
        for name in options.only:
            figures |= parts[name]()
            if not options.quick:  # what there is, should a later part not end
                RESULT.write_text(json.dumps(_result(figures, size, scale), indent=1) + "\n", encoding="utf-8")
    _print(figures, scale)


@contextmanager
def _stub(seconds: float) -> Iterator[str]:
    stub = Stub(free_ports("127.0.0.1", {"teacher": 0})["teacher"], seconds)
    try:
        yield stub.url
    finally:
        stub.stop()


class _Rows:
    """New rows each time: what a teacher has said before it is not asked again."""

    def __init__(self) -> None:
        self._turn = 0

    def __call__(self, count: int) -> Iterator[Example]:
        self._turn += 1
        return examples(count, f"r{os.getpid()}x{self._turn}")


def _in_rounds(folder: Path, size: Size, instant: str, slow: str, other: str) -> Figures:
    rows = _Rows()
    with (
        Workshop(folder / "instant", [instant]) as fast,
        Workshop(folder / "one", [slow]) as one,
        Workshop(folder / "two", [slow, other], workers=2) as two,
    ):
        costs = in_turns(
            {
                "bare": _bare(fast, instant, rows, size.rows),
                "fanout": lambda: fast.annotate(rows(size.rows)),
                "bare, 20 ms": _bare(fast, slow, rows, size.slow_rows),
                "one, 20 ms": lambda: one.annotate(rows(size.slow_rows)),
                "two, 20 ms": lambda: two.annotate(rows(2 * size.slow_rows)),
            },
            size.rounds,
        )
    wall = {name: [cost.wall for cost in found] for name, found in costs.items()}
    cpu = {name: [cost.cpu for cost in found] for name, found in costs.items()}
    alone = zip(wall["bare, 20 ms"], wall["one, 20 ms"], strict=True)
    # Two teachers had twice the rows.
    return {
        "fanout_over_bare": ratios(wall["fanout"], wall["bare"]),
        "fanout_cpu_over_bare": ratios(cpu["fanout"], cpu["bare"]),
        "overhead_share": spread([1 - bare / ours for bare, ours in alone]),
        "two_over_one": ratios([2 * seconds for seconds in wall["one, 20 ms"]], wall["two, 20 ms"]),
        "seconds_per_1000_rows": spread([1000 * seconds / size.rows for seconds in wall["fanout"]]),
        "cpu_seconds_per_1000_rows": spread([1000 * seconds / size.rows for seconds in cpu["fanout"]]),
    }


def _bare(shop: Workshop, url: str, rows: _Rows, count: int) -> Callable[[], Cost]:
    """The loop that a script would have: the same requests to the same teacher, and the answers parsed."""
    job = shop.context.jobs.page(None, 1)[0][0]
    client = TeacherClient(url)
    most = shop.settings.teacher_max_examples

    def loop() -> None:
        asked = list(rows(count))
        for start in range(0, count, most):
            client.attribute(attribution_request(job, "teacher", asked[start : start + most]))

    return timed(loop)


def _per_shard(folder: Path, teacher: str, shards: int) -> Figures:
    """What a shard asks of the database, in this process: claim, work, record, and what follows."""
    shop = Workshop(folder, [teacher], workers=0)
    shop.stop_sweeping()
    context, sent = shop.context, 0

    def count(*_: Any) -> None:
        nonlocal sent
        sent += 1

    job = shop.begin(examples(shards * context.settings.shard_size, "counted"))
    ids = [item.id for item in context.flow.items(job.id, "annotate")]
    execute(context, ids[0], "bench", threading.Event())
    before = _database_bytes(shop)
    event.listen(context.database._engine, "before_cursor_execute", count)
    for item_id in ids[1:]:
        execute(context, item_id, "bench", threading.Event())
        follow_up(context, "annotate")
    event.remove(context.database._engine, "before_cursor_execute", count)
    taken = _database_bytes(shop) - before
    shop.close()
    each = {"statements_per_shard": sent, "database_bytes_per_shard": taken}
    return {name: spread([value / (shards - 1)]) for name, value in each.items()}


def _database_bytes(shop: Workshop) -> int:
    with shop.context.database.read() as sql:
        return int(sql.scalar(text("PRAGMA page_count")) or 0) * int(sql.scalar(text("PRAGMA page_size")) or 0)


def _killed(folder: Path, teacher: str, kills: int) -> Figures:
    """From a kill until another worker has what was at work."""
    times = {"lease_seconds": LEASE, "heartbeat_seconds": HEARTBEAT, "sweep_seconds": 0.1, "shard_size": 32}
    with Workshop(folder, [teacher], workers=2, **times) as shop:
        found = [_pickup(shop, turn) / LEASE for turn in range(kills)]
    return {"pickup_over_lease": spread(found)}


def _pickup(shop: Workshop, turn: int) -> float:
    """Seconds; a new worker is there then."""
    job = shop.begin(examples(320, f"killed {turn}"))
    victim = shop.workers[turn % 2]
    held = wait(lambda: [one for one in _held(shop, job.id) if one.worker.endswith(f"-{victim.pid}")], 60)[0]
    victim.kill()
    started = time.perf_counter()
    wait(lambda: _token(shop, job.id, held.id) > held.token)
    seconds = time.perf_counter() - started
    victim.wait()
    shop.workers[turn % 2] = shop.start_worker()
    time.sleep(START_SECONDS)  # or the other has done the next job before this one begins
    wait(lambda: not shop.annotates(job))
    shop.finish(job)
    return seconds


def _held(shop: Workshop, job_id: str) -> list[Any]:
    return [item for item in shop.context.flow.items(job_id, "annotate") if item.state == "running"]


def _token(shop: Workshop, job_id: str, item_id: str) -> int:
    return next(item.token for item in shop.context.flow.items(job_id, "annotate") if item.id == item_id)


def _api(folder: Path, teacher: str, submits: int, file_rows: int) -> Figures:
    """The real API: what a submission takes, and what a large file costs it and the worker that validates it."""
    shop = Workshop(folder, [teacher], workers=0, port=free_ports("127.0.0.1", {"api": 0})["api"])
    api = subprocess.Popen(
        [sys.executable, "-m", "services.orchestrator"],
        env=shop.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        http = httpx.Client(base_url=f"http://127.0.0.1:{shop.settings.port}", trust_env=False, timeout=600)
        wait(lambda: _is_ready(http), 60, 0.1)
        figures = _submissions(http, submits)
        return figures | _large_file(http, shop, psutil.Process(api.pid), folder / "rows.jsonl", file_rows)
    finally:
        api.kill()
        api.wait()
        shop.close()


def _is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").is_success
    except httpx.HTTPError:
        return False


def _submissions(http: httpx.Client, submits: int) -> Figures:
    upload = {"file": ("rows.jsonl", b'{"input": "a", "output": "b"}\n' * 20)}
    file_id = http.post("/v1/files", files=upload, data={"purpose": "fine-tune"}).raise_for_status().json()["id"]
    submit, look = [], []
    for turn in range(submits + 1):
        started = time.perf_counter()
        job = _submit(http, file_id)
        submitted = time.perf_counter()
        http.get("/v1/fine_tuning/jobs", params={"limit": 1}).raise_for_status()
        if turn:
            submit.append(submitted - started)
            look.append(time.perf_counter() - submitted)
        http.post(f"/v1/fine_tuning/jobs/{job}/cancel").raise_for_status()
    return {
        "submit_over_list": spread([statistics.median(submit) / statistics.median(look)]),
        "submit_milliseconds": spread([1000 * seconds for seconds in submit]),
    }


def _submit(http: httpx.Client, file_id: str) -> str:
    distillation = {"teacher": {"model": "teacher"}, "recipe": ["rationale_gate"]}
    asked = {
        "model": "scratch:bert-1x16",
        "training_file": file_id,
        "method": {"type": "distillation", "distillation": distillation},
    }
    return str(http.post("/v1/fine_tuning/jobs", json=asked).raise_for_status().json()["id"])


def _large_file(http: httpx.Client, shop: Workshop, api: psutil.Process, path: Path, rows: int) -> Figures:
    with path.open("w") as file:
        for i in range(rows):
            line = {"input": f"row {i} is a sentence of some ten words or a few more", "output": LABELS[i % 2]}
            file.write(json.dumps(line) + "\n")
    with _peak(api) as uploaded, path.open("rb") as file:
        asked = http.post("/v1/files", files={"file": ("rows.jsonl", file)}, data={"purpose": "fine-tune"})
    file_id = asked.raise_for_status().json()["id"]
    worker = shop.start_worker("control")
    time.sleep(3)  # until it has imported all that it needs
    started = time.perf_counter()
    with _peak(psutil.Process(worker.pid)) as validated:
        job = _submit(http, file_id)
        wait(lambda: shop.context.jobs.get(job).phase != "validate" or shop.context.jobs.get(job).error, pause=0.1)
        seconds = time.perf_counter() - started
    if error := shop.context.jobs.get(job).error:
        raise RuntimeError(error.message)
    http.post(f"/v1/fine_tuning/jobs/{job}/cancel")
    whole = path.stat().st_size
    return {
        "upload_rss_over_file": spread([uploaded[0] / whole]),
        "validate_rss_over_file": spread([validated[0] / whole]),
        "validate_seconds_per_1000_rows": spread([1000 * seconds / rows]),
    }


@contextmanager
def _peak(process: psutil.Process) -> Iterator[list[int]]:
    """The growth of a process' resident bytes within, in a list of one."""
    before, found, ended = process.memory_info().rss, [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.01):
            found[0] = max(found[0], process.memory_info().rss - before)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def _at_scale(folder: Path, teacher: str, scale: int) -> Figures:
    """A large job beside one of 10,000 rows: what a row costs, and whether memory grows."""
    sizes: list[tuple[float, dict[str, float]]] = []
    with Workshop(folder, [teacher], workers=os.cpu_count() or 1) as shop:
        small = [shop.annotate(examples(SMALL, f"small {turn}")) for turn in range(3)]
        large = shop.annotate(examples(scale, "large"), _every_second(lambda job: sizes.append(_seen(shop, job))))
    settled = [memory for done, memory in sizes if done >= 0.1]
    growth = {name: max(one[name] for one in settled) - first for name, first in settled[0].items()}
    ratio = "cost_ratio_1e6_over_1e4" if scale == LARGE else "cost_ratio_scale_over_1e4"
    return {
        "examples_per_second": spread([scale / large.wall]),
        "scale_cpu_seconds_per_1000_rows": spread([1000 * large.cpu / scale]),
        ratio: spread([(large.cpu / scale) / (one.cpu / SMALL) for one in small]),
        "max_rss_growth_mb": spread([max(growth.values())]),
    } | {f"rss_growth_mb, {name}": spread([value]) for name, value in growth.items()}


def _every_second(look: Callable[[Job], object]) -> Callable[[Job], None]:
    last = 0.0

    def watch(job: Job) -> None:
        nonlocal last
        if time.monotonic() - last >= 1.0:
            look(job)
            last = time.monotonic()

    return watch


def _seen(shop: Workshop, job: Job) -> tuple[float, dict[str, float]]:
    """Which share of a job's items is done, and the memory of each process."""
    items = len(plan(job, shop.settings.shard_size))
    return shop.count(job, "done") / items, shop.memory()


def _result(figures: Figures, size: Size, scale: int) -> dict[str, Any]:
    return {
        "rounds": size.rounds,
        "rows": {"instant": size.rows, "20 ms": size.slow_rows, "file": size.file_rows, "scale": scale},
        "machine": machine(),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "versions": {name: version(name) for name in ("celery", "redis", "sqlalchemy", "httpx", "pydantic")},
        "ratios": figures,
    }


def _print(figures: Figures, scale: int) -> None:
    for name in [*NAMES, *(other for other in figures if other not in NAMES)]:
        found = figures.get(name)
        goal = (
            f"at most {AT_MOST[name]}" if name in AT_MOST else f"at least {AT_LEAST[name]}" if name in AT_LEAST else ""
        )
        shown = f"{found['median']:9.3f}  ({found['min']:.3f} - {found['max']:.3f})" if found else "not measured"
        print(f"{name:<32} {shown:<34} {goal}")
    line: dict[str, float | None] = {name: figures[name]["median"] if name in figures else None for name in NAMES}
    print(json.dumps(line | {"scale": scale}))


if __name__ == "__main__":
    main()
