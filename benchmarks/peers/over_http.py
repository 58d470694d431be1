"""What the student service costs beside its engine, beside other servers of that engine, and under too much load.

All ask one engine for one text a request, each with one thread for the model. In each round everybody has a turn, and
servers whose turn it is not are stopped. Knows no engines' own figures.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from peers.rounds import spread
from peers.servers import Asked, Askers, Server, bentoml, litserve, ours
from understudy.batching import plan_batches
from understudy.schemas import PredictionInput
from understudy.server import keep_memory
from understudy.serving.export import open_exported
from understudy.serving.hf import HFEngine
from understudy.serving.published import MAX_DROP, MIN_AGREEMENT, REPORT, EngineReport, EngineResult

__all__ = ["Load", "OverHttp", "measure", "soak"]

CALLERS = 64
BUDGETS = (256, 512, 1024, 2048)
HELD = 0.8  # of saturation
BURST = 10  # times the load that was held
BLOCK = 8  # single requests in a row, before it is the other one's turn
SETTLED = 5  # parts of the load that is held, before its memory counts

# What the peers' documentation leaves to a search: how large a batch may be, and how long it waits for company.
LITSERVE = (
    {"batch": 16, "timeout": 0.01, "fast_queue": False},
    {"batch": 64, "timeout": 0.01, "fast_queue": False},
    {"batch": 64, "timeout": 0.05, "fast_queue": False},
    {"batch": 64, "timeout": 0.01, "fast_queue": True},
)
BENTOML = (
    {"batch": 16, "latency_ms": 60_000},
    {"batch": 64, "latency_ms": 60_000},
    {"batch": 64, "latency_ms": 10_000},
)

Figures = dict[str, dict[str, float] | None]


@dataclass(frozen=True)
class Load:
    """How much is asked: rounds, requests of each at saturation and alone, and seconds of the load that is held.

    `search`: whether the peers' best settings are searched, or their first ones taken.
    """

    rounds: int
    requests: int
    alone: int
    held: float
    burst: float
    search: bool = True


@dataclass
class OverHttp:
    """Figures, and what is to be known about them."""

    figures: Figures = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def measure(folder: Path, name: str, texts: Sequence[str], load: Load, peers: Path | None) -> OverHttp:
    """Everything over HTTP, of a model folder with one engine. `peers` is the Python that has LitServe and BentoML."""
    _publish(folder, name)
    found = OverHttp(facts={"engine": name, "callers": CALLERS, **asdict(load)})
    engine = _Bare(open_exported(folder, name), texts)
    settings = _peers_settings(folder, name, texts, load, peers)
    found.facts["peers"] = {peer: best for peer, (best, _) in settings.items()}
    with ExitStack() as stack:
        servers = [stack.enter_context(ours(folder, name, texts))]
        servers += [stack.enter_context(start(**best)) for best, start in settings.values()]
        saturated = _in_rounds(found, engine, servers, stack.enter_context(Askers(servers)), load)
    _overloaded(found, folder, name, texts, load, saturated)
    return found


def soak(folder: Path, name: str, texts: Sequence[str], load: Load) -> OverHttp:
    """Only the load that is held and the burst after it."""
    _publish(folder, name)
    found = OverHttp(facts={"engine": name, "callers": CALLERS, "held": load.held, "burst": load.burst})
    with ours(folder, name, texts) as server, Askers([server]) as askers:
        rates = [askers.in_turn(server, CALLERS, load.requests).rate for _ in range(load.rounds)]
    _overloaded(found, folder, name, texts, load, statistics.median(rates))
    return found


def _publish(folder: Path, name: str) -> None:
    report = EngineReport(
        min_agreement=MIN_AGREEMENT,
        max_drop=MAX_DROP,
        threads=1,
        results=(EngineResult(name=name, published=True, speedup=2.0),),
    )
    (folder / REPORT).write_text(report.model_dump_json(), encoding="utf-8")


class _Bare:
    """The engine in this process, without a server; its memory is kept as the service keeps it."""

    def __init__(self, engine: HFEngine, texts: Sequence[str]) -> None:
        keep_memory()
        self._engine = engine
        self._rows = [PredictionInput(input=text) for text in texts]
        self._lengths = engine.adapter.lengths(texts)
        self.budget = 0

    def find_budget(self, requests: int) -> None:
        """The best batches: of those within some budgets of tokens, which take the least time."""
        rates = {}
        for self.budget in BUDGETS:
            rates[self.budget] = self.saturated(requests)[0]
        self.budget = max(rates, key=rates.__getitem__)

    def saturated(self, requests: int) -> tuple[float, float]:
        """Texts a second, and seconds of processor time a text, when all are known beforehand."""
        self._engine.adapter.max_padded_tokens = self.budget
        chosen = [i % len(self._rows) for i in range(requests)]
        cpu, began = time.process_time(), time.perf_counter()
        for places in plan_batches([self._lengths[i] for i in chosen], self.budget):
            self._ask([self._rows[chosen[i]] for i in places])
        return requests / (time.perf_counter() - began), (time.process_time() - cpu) / requests

    def alone(self, first: int, count: int) -> list[float]:
        """Milliseconds of each of so many single texts."""
        return [self._timed(i % len(self._rows)) for i in range(first, first + count)]

    def _timed(self, i: int) -> float:
        began = time.perf_counter()
        self._ask([self._rows[i]])
        return 1000 * (time.perf_counter() - began)

    def _ask(self, rows: Sequence[PredictionInput]) -> None:
        self._engine.predict(rows, explain=False, top_k=1)


_Start = Callable[..., AbstractContextManager[Server]]


def _peers_settings(
    folder: Path, name: str, texts: Sequence[str], load: Load, python: Path | None
) -> dict[str, tuple[dict[str, Any], _Start]]:
    """The settings under which each peer answers most texts a second, and how it is started with them.

    Where nothing is searched, the first ones.
    """
    if python is None:
        return {}
    found = {}
    for peer, start, choices in (("litserve", litserve, LITSERVE), ("bentoml", bentoml, BENTOML)):
        starting: _Start = partial(start, python, folder, name, texts)
        if not load.search:
            found[peer] = (dict(choices[0]), starting)
            continue
        rates = [_rate(starting, choice, load.requests) for choice in choices]
        print(f"{peer}: " + ", ".join(f"{choice} {rate:.1f}/s" for choice, rate in zip(choices, rates, strict=True)))
        found[peer] = (dict(choices[rates.index(max(rates))]), starting)
    return found


def _rate(start: _Start, settings: Mapping[str, Any], requests: int) -> float:
    with start(**settings) as server, Askers([server]) as askers:
        try:
            askers.in_turn(server, CALLERS, requests // 2)  # it learns how to batch
            return askers.in_turn(server, CALLERS, requests).rate
        except RuntimeError as error:
            print(error)
            return 0.0


def _in_rounds(found: OverHttp, engine: _Bare, servers: Sequence[Server], askers: Askers, load: Load) -> float:
    """Everybody at saturation, and our service alone with a caller; returns our answers a second."""
    for server in servers:
        with _awake(server, servers):
            askers.in_turn(server, CALLERS, load.requests)
        server.sleep()
    engine.find_budget(load.requests)
    bare, cpu, over, asked = [], [], [], {server.name: list[Asked]() for server in servers}
    spent: dict[str, list[float]] = {server.name: [] for server in servers}
    loads = []
    for number in range(load.rounds):
        rate, seconds = engine.saturated(load.requests)
        bare.append(rate)
        cpu.append(seconds)
        for server in servers:
            with _awake(server, servers):
                before = server.cpu_seconds()
                asked[server.name].append(askers.in_turn(server, CALLERS, load.requests))
                spent[server.name].append((server.cpu_seconds() - before) / load.requests)
        with _awake(servers[0], servers):
            over.append(_overhead(engine, servers[0], askers, load.alone))
        loads.append(os.getloadavg()[0])
        told = ", ".join(f"{name} {found[-1].rate:.1f}/s" for name, found in asked.items())
        print(
            f"round {number + 1} of {load.rounds}: engine {rate:.1f}/s, {told}, overhead {over[-1]:.2f} ms", flush=True
        )
    mine = asked["ours"]
    found.figures["http_over_engine"] = spread([one.rate / rate for one, rate in zip(mine, bare, strict=True)])
    found.figures["http_over_engine_cpu"] = spread([one / its for one, its in zip(cpu, spent["ours"], strict=True)])
    found.figures["overhead_ms_p50"] = spread(over)
    for peer in ("litserve", "bentoml"):
        theirs = asked.get(peer)
        found.figures[f"{peer}_over_ours"] = _over(theirs, mine, lambda one: one.seconds) if theirs else None
        found.figures[f"{peer}_p99_over_ours"] = (
            _over(theirs, mine, lambda one: one.percentile(0.99)) if theirs else None
        )
    found.facts |= {
        "engine_budget": engine.budget,
        "loads": [round(one, 2) for one in loads],
        "texts_a_second": {
            "engine": _median(bare),
            **{name: _median([x.rate for x in all_]) for name, all_ in asked.items()},
        },
        "p99_ms": {name: _median([one.percentile(0.99) for one in all_]) for name, all_ in asked.items()},
        "cpu_ms_a_text": {"engine": 1000 * statistics.median(cpu)}
        | {name: 1000 * statistics.median(values) for name, values in spent.items()},
    }
    return statistics.median(one.rate for one in mine)


def _overhead(engine: _Bare, server: Server, askers: Askers, count: int) -> float:
    """Milliseconds that a text takes longer over HTTP than in this process, at the median, asked in turns."""
    more = []
    for first in range(0, count, BLOCK):
        bare = engine.alone(first, BLOCK)
        asked = askers.in_turn(server, 1, BLOCK, first=first).milliseconds
        more += [one - other for one, other in zip(asked, bare, strict=True)]
    return statistics.median(more)


def _overloaded(found: OverHttp, folder: Path, name: str, texts: Sequence[str], load: Load, saturated: float) -> None:
    """Load held, then ten times as much of it.

    The queue is as long as the held load needs it: what is answered in the time that its slowest hundredth takes.
    """
    rate = HELD * saturated
    with ours(folder, name, texts) as server, Askers([server]) as askers:
        askers.in_turn(server, CALLERS, load.requests)
        calm = askers.arriving(server, rate, load.held / 4 if load.held < 120 else 30)
    room = max(2, math.ceil(saturated * calm.percentile(0.99) / 1000))
    with ours(folder, name, texts, {"UNDERSTUDY_STUDENT_MAX_QUEUE": str(room)}) as server, Askers([server]) as askers:
        askers.in_turn(server, min(CALLERS, room), load.requests)
        parts = [(askers.arriving(server, rate, load.held / 20), server.memory()) for _ in range(20)]
        held = [one for one, _ in parts]
        memory = [size / 2**20 for _, size in parts][SETTLED:]
        burst = askers.arriving(server, BURST * rate, load.burst)
        after = askers.arriving(server, rate, load.burst)
    calm_p99 = _percentile([ms for one in held for ms in one.milliseconds], 0.99)
    found.figures["burst_p99_ratio"] = spread([burst.percentile(0.99) / calm_p99])
    found.figures["held_memory_growth"] = spread([memory[-1] / memory[0] - 1])
    found.facts["overload"] = {
        "held_a_second": round(rate, 2),
        "max_queue": room,
        "held_ms": {"p50": _percentile([ms for one in held for ms in one.milliseconds], 0.5), "p99": calm_p99},
        "held_statuses": _statuses(held),
        "memory_mib": [round(one, 1) for one in memory],
        "burst_a_second": round(BURST * rate, 2),
        "burst_ms": {"p50": burst.percentile(0.5), "p99": burst.percentile(0.99)},
        "burst_statuses": _statuses([burst]),
        "after_statuses": _statuses([after]),
        "load": round(os.getloadavg()[0], 2),
    }


@contextmanager
def _awake(server: Server, servers: Sequence[Server]) -> Iterator[None]:
    """One server at work, and the others stopped: what waits for requests may poll."""
    for other in servers:
        if other is not server:
            other.sleep()
    server.wake()
    try:
        yield
    finally:
        server.sleep()


def _over(theirs: Sequence[Asked], mine: Sequence[Asked], of: Any) -> dict[str, float]:
    return spread([of(one) / of(other) for one, other in zip(theirs, mine, strict=True)])


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 1)


def _percentile(values: Sequence[float], share: float) -> float:
    return Asked(1.0, tuple(values), {}).percentile(share)


def _statuses(asked: Sequence[Asked]) -> dict[str, int]:
    names = sorted({status for one in asked for status in one.statuses})
    return {status: sum(one.statuses.get(status, 0) for one in asked) for status in names}
