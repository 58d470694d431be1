"""Who shares a forward pass, and who waits for the model: padded-token batches on the one thread a model runs on.

Many callers on an event loop, one thread that works. Knows nothing of torch: a batch is a list of items, work is a
function.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar, cast

import structlog

from understudy.errors import InternalError, Overloaded, Unavailable

__all__ = ["PASS_COST", "BatchFacts", "DynamicBatcher", "ModelThread", "all_of", "plan_batches"]

log = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")
I = TypeVar("I")  # noqa: E741
R = TypeVar("R")

HORIZON = 1024
"""Items of one key that are planned together, the oldest first: planning must stay cheap beside the work."""

PASS_COST = 1 / 32
"""What a pass costs beside its tokens, as a share of the budget: 65 of 2,048 tokens, measured on a core at the shape of
T5-small. An accelerator, which loses more by a pass, is given a greater budget for that reason."""

_FADE = 0.8  # what an older batch counts in the measured pace, against the one after it


def plan_batches(lengths: Sequence[int], max_padded_tokens: int, most_rows: int | None = None) -> list[list[int]]:
    """Group positions so that rows x longest row stays within the budget, at the least cost of all such plans.

    No batch has more than `most_rows`, where that is given.

    A plan costs its padded tokens, and `PASS_COST` of the budget for each batch. Sorted by length, longest first, so
    that running out of memory shows on the first batch and not on the last. A row that is longer than the whole budget
    gets a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    rows = [max(1, lengths[i]) for i in order]
    edges = _edges(rows, max_padded_tokens, most_rows or len(rows))
    each = PASS_COST * max_padded_tokens
    cheapest = {0: 0.0}  # of the rows before an edge
    begins: dict[int, int] = {}  # where the batch that ends at an edge begins
    for end in sorted(edges):
        costs = {start: cheapest[start] + (end - start) * rows[start] + each for start in edges[end]}
        begins[end] = min(costs, key=costs.__getitem__)
        cheapest[end] = costs[begins[end]]
    batches: list[list[int]] = []
    end = len(order)
    while end:
        batches.append(order[begins[end] : end])
        end = begins[end]
    return batches[::-1]


def _edges(rows: Sequence[int], budget: int, most: int) -> dict[int, list[int]]:
    """Where a batch of the best plan may end, and for each of these where it may begin. `rows` fall in length.

    It begins with the first of several rows of one length, or where it is full: a row that is parted from others of its
    length joins the batch behind at no cost while that has room.
    """
    first: list[int] = []  # where the rows as long as this one begin
    for i, length in enumerate(rows):
        first.append(first[-1] if i and rows[i - 1] == length else i)
    edges: dict[int, list[int]] = {}
    reached = [len(rows)]
    while reached:
        end = start = reached.pop()
        if end == 0 or end in edges:
            continue
        edges[end] = []
        while start and (full := end - min(most, max(1, budget // rows[start - 1]))) < start:
            start = max(first[start - 1], full)
            edges[end].append(start)
        reached += edges[end]
    return edges


async def all_of(futures: Sequence[asyncio.Future[R]]) -> list[R]:
    """The results of futures, in order, or as soon as one fails its error: the first one's, where several have failed.

    Whatever ends the wait, a cancellation too, cancels the futures that are not done.
    """
    try:
        if futures:
            await asyncio.wait(futures, return_when=asyncio.FIRST_EXCEPTION)
        errors = [future.exception() for future in futures if future.done()]
        for error in errors:
            if error is not None:
                raise error
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()


@dataclass(frozen=True)
class BatchFacts:
    """One batch that has run: its rows, their tokens, those with padding, and the seconds that it took."""

    size: int
    tokens: int
    padded: int
    seconds: float


@dataclass(frozen=True, eq=False)
class _Entry(Generic[I, R]):
    """An item that was accepted. `cost` is its length times the passes that it takes."""

    number: int
    item: I
    length: int
    cost: int
    future: asyncio.Future[R]


@dataclass(frozen=True)
class _Failed:
    error: Exception


class DynamicBatcher(Generic[I, R]):
    """One thread that works on items of many callers, as many in a batch as a budget of padded tokens allows.

    Items with equal keys may share a batch. The batch that holds the oldest item of all is always the next, so nobody
    starves; in it are the items whose lengths are closest. Nothing waits while the thread is idle, and batches fill by
    themselves while it is busy.

    Work that groups its items by length itself is better given those that have waited longest: with `in_order`, a batch
    is the oldest items of its key whose lengths fit the budget together, padding not counted. Nobody is overtaken then,
    and under load the slowest answers take about as long as the others.

    `work` receives a key and its items and returns one result for each. Where it raises, the batch is halved until only
    the items at fault are left, whose futures get the error.

    `max_items` and `max_tokens` (in costs) bound what is accepted and has not ended; more is refused at once
    with Overloaded, whose `retry_after` is the time that the queue takes to drain at its measured pace. An item whose
    future is cancelled is dropped before its batch is made. All callers share one event loop.
    """

    def __init__(
        self,
        work: Callable[[Any, list[I]], Sequence[R]],
        *,
        max_padded_tokens: int,
        max_items: int,
        max_tokens: int | None = None,
        in_order: bool = False,
        watch: Callable[[BatchFacts], None] | None = None,
    ) -> None:
        self.max_padded_tokens = max_padded_tokens
        self.in_order = in_order
        self.max_items = max_items
        self.max_tokens = max_tokens
        self.items = 0
        """Items that were accepted and have not ended."""
        self.tokens = 0
        """The same in tokens, each counted once for every pass that it takes."""
        self._work = work
        self._watch = watch
        self._numbers = itertools.count()
        self._waiting: dict[Hashable, dict[int, _Entry[I, R]]] = {}  # each in order of arrival
        self._changed = threading.Condition()
        self._closing = False
        self._done_tokens, self._done_seconds = 0.0, 0.0  # of the last batches, older ones faded
        self._thread = threading.Thread(target=self._serve, name="model", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closing

    def submit(
        self, key: Hashable, items: Sequence[I], lengths: Sequence[int], costs: Sequence[int] | None = None
    ) -> list[asyncio.Future[R]]:
        """Accept all items, or none; one future for each. Raises Overloaded, or Unavailable after `close`.

        `costs` are the items' tokens times the passes that they take, where that is not one. A caller that alone brings
        more than may wait is accepted when nobody else is there.
        """
        loop = asyncio.get_running_loop()
        entries: list[_Entry[I, R]] = [
            _Entry(next(self._numbers), item, length, cost, loop.create_future())
            for item, length, cost in zip(items, lengths, costs or lengths, strict=True)
        ]
        with self._changed:
            if not self.alive:
                raise Unavailable("the service is shutting down and accepts no more work")
            self._admit(len(entries), sum(entry.cost for entry in entries))
            if entries:
                self._waiting.setdefault(key, {}).update((entry.number, entry) for entry in entries)
            self._changed.notify()
        for entry in entries:
            entry.future.add_done_callback(partial(self._left, key, entry))
        return [entry.future for entry in entries]

    async def run(
        self, key: Hashable, items: Sequence[I], lengths: Sequence[int], costs: Sequence[int] | None = None
    ) -> list[R]:
        """Submit items and wait for all of them. Raises what `submit` raises, or the first item's error."""
        return await all_of(self.submit(key, items, lengths, costs))

    def close(self) -> None:
        """Accept nothing more, end what was accepted, and stop the thread. Blocks until that is done."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _admit(self, items: int, tokens: int) -> None:
        full = self.items + items > self.max_items
        full = full or (self.max_tokens is not None and self.tokens + tokens > self.max_tokens)
        if full and self.items:
            pace = self._done_tokens / self._done_seconds if self._done_seconds else 0.0
            wait = max(1.0, self.tokens / pace if pace else 1.0)
            raise Overloaded(f"{self.items} items are waiting already: try again in {wait:.0f} s", retry_after=wait)
        self.items += items
        self.tokens += tokens

    def _left(self, key: Hashable, entry: _Entry[I, R], future: asyncio.Future[R]) -> None:
        """Drop an item that nobody waits for any more, unless its batch runs already."""
        if not future.cancelled():
            return
        with self._changed:
            group = self._waiting.get(key, {})
            if group.pop(entry.number, None) is not None:
                self._ended([entry])
            if not group:
                self._waiting.pop(key, None)

    def _ended(self, entries: Iterable[_Entry[I, R]]) -> None:
        for entry in entries:
            self.items -= 1
            self.tokens -= entry.cost

    def _serve(self) -> None:
        try:
            while (batch := self._next()) is not None:
                self._run(*batch)
                del batch  # nothing of it is kept while the thread waits for the next one
        except BaseException as error:
            log.error("model_thread_ended", exc_info=error)
        finally:
            self._give_up()

    def _next(self) -> tuple[Hashable, list[_Entry[I, R]]] | None:
        """Wait for the next batch, the one with the oldest item; None when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                return None
            key = min(self._waiting, key=lambda key: next(iter(self._waiting[key])))
            group = self._waiting[key]
            batch = self._oldest(group.values()) if self.in_order else self._closest(group.values())
            for entry in batch:
                del group[entry.number]
            if not group:
                del self._waiting[key]
            return key, batch

    def _oldest(self, waiting: Collection[_Entry[I, R]]) -> list[_Entry[I, R]]:
        sums = itertools.accumulate(entry.length for entry in waiting)
        fit = sum(1 for _ in itertools.takewhile(lambda total: total <= self.max_padded_tokens, sums))
        return list(itertools.islice(waiting, max(1, fit)))

    def _closest(self, waiting: Collection[_Entry[I, R]]) -> list[_Entry[I, R]]:
        oldest = list(itertools.islice(waiting, HORIZON))
        plan = plan_batches([entry.length for entry in oldest], self.max_padded_tokens)
        return [oldest[i] for i in next(positions for positions in plan if 0 in positions)]

    def _padded(self, lengths: Sequence[int]) -> int:
        """Tokens with padding; work that is given its items in order groups them as well as this."""
        passes = plan_batches(lengths, self.max_padded_tokens) if self.in_order else [range(len(lengths))]
        return sum(len(one) * max(lengths[i] for i in one) for one in passes)

    def _run(self, key: Hashable, batch: list[_Entry[I, R]]) -> None:
        began = time.monotonic()
        outcomes = self._outcomes(key, batch)
        seconds = time.monotonic() - began
        with self._changed:
            self._ended(batch)
            self._done_tokens = _FADE * self._done_tokens + sum(entry.cost for entry in batch)
            self._done_seconds = _FADE * self._done_seconds + seconds
        _deliver(batch, outcomes)
        if self._watch is not None:
            lengths = [entry.length for entry in batch]
            self._watch(BatchFacts(len(batch), sum(lengths), self._padded(lengths), seconds))

    def _outcomes(self, key: Hashable, batch: list[_Entry[I, R]]) -> list[R | _Failed]:
        """A result or an error for each item; a batch that fails is halved, so that no item fails for its neighbour."""
        try:
            results = list(self._work(key, [entry.item for entry in batch]))
            if len(results) != len(batch):
                raise InternalError(f"{len(batch)} items went into a batch and {len(results)} results came out")
            return cast("list[R | _Failed]", results)
        except BaseException as error:
            if len(batch) == 1 or not isinstance(error, Exception):
                return [_Failed(_tellable(error)) for _ in batch]
        half = len(batch) // 2
        return self._outcomes(key, batch[:half]) + self._outcomes(key, batch[half:])

    def _give_up(self) -> None:
        """Nobody waits for a thread that has ended: what is left, if a defect ended it, gets an error."""
        with self._changed:
            self._closing = True
            left = [entry for group in self._waiting.values() for entry in group.values()]
            self._waiting.clear()
            self._ended(left)
        if left:
            gone = InternalError("the model thread has ended: restart the service")
            _deliver(left, [_Failed(gone) for _ in left])


def _tellable(error: BaseException) -> Exception:
    """What a caller's task can raise without ending the event loop or confusing a generator."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    told = InternalError(f"the model's work was ended by {type(error).__name__}")
    told.__cause__ = error
    return told


def _deliver(batch: Sequence[_Entry[I, R]], outcomes: Sequence[R | _Failed]) -> None:
    """Hand the outcomes over to the event loop, in one step for the whole batch."""
    with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
        batch[0].future.get_loop().call_soon_threadsafe(_settle, batch, outcomes)


def _settle(batch: Sequence[_Entry[I, R]], outcomes: Sequence[R | _Failed]) -> None:
    for entry, outcome in zip(batch, outcomes, strict=True):
        if entry.future.done():
            continue  # its caller has left
        if isinstance(outcome, _Failed):
            entry.future.set_exception(outcome.error)
        else:
            entry.future.set_result(outcome)


class ModelThread:
    """One thread that runs functions in order of arrival, with a bounded queue: a batcher whose items share nothing.

    `limit` callers may wait or run; one more is refused at once with Overloaded. Work that nobody waits for any more is
    dropped before it starts.
    """

    def __init__(self, limit: int) -> None:
        self._batcher: DynamicBatcher[Callable[[], Any], Any] = DynamicBatcher(
            _call_each, max_padded_tokens=1, max_items=limit
        )

    @property
    def alive(self) -> bool:
        return self._batcher.alive

    @property
    def waiting(self) -> int:
        """Calls that wait or run."""
        return self._batcher.items

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` on the thread. Raises Overloaded when the queue is full, or what `work` raises."""
        (result,) = await self._batcher.run(object(), [partial(work, *args, **kwargs)], [1])
        return cast(T, result)

    def close(self) -> None:
        """Accept nothing more, end what was accepted, and stop the thread. Blocks until that is done."""
        self._batcher.close()


def _call_each(_: Hashable, calls: Sequence[Callable[[], Any]]) -> list[Any]:
    return [call() for call in calls]
