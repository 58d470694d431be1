from __future__ import annotations

import asyncio
import random
import threading

import pytest

from understudy.batching import ModelThread, plan_batches
from understudy.errors import Overloaded


def test_every_position_is_planned_once_and_batches_fit_the_budget() -> None:
    lengths = [random.randint(1, 128) for _ in range(500)]
    batches = plan_batches(lengths, 512)
    assert sorted(i for batch in batches for i in batch) == list(range(500))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 512 for batch in batches)


def test_sorting_leaves_little_padding() -> None:
    lengths = [random.randint(10, 128) for _ in range(500)]
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in plan_batches(lengths, 2048))
    assert padded < 1.3 * sum(lengths)


def test_a_row_above_the_budget_goes_alone() -> None:
    assert plan_batches([5, 900, 5], 100) == [[1], [0, 2]]
    assert plan_batches([], 100) == []


def test_work_runs_on_one_thread_in_order_of_arrival() -> None:
    async def main() -> list[tuple[int, int]]:
        thread = ModelThread(limit=10)
        seen: list[tuple[int, int]] = []
        await asyncio.gather(*(thread.run(lambda i=i: seen.append((i, threading.get_ident()))) for i in range(10)))
        thread.close()
        return seen

    seen = asyncio.run(main())
    assert [i for i, _ in seen] == list(range(10))
    assert len({ident for _, ident in seen}) == 1


def test_a_full_queue_refuses_at_once_and_says_when_to_return() -> None:
    async def main() -> None:
        thread = ModelThread(limit=2)
        gate = threading.Event()
        held = [asyncio.create_task(thread.run(gate.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await thread.run(gate.wait)
        assert caught.value.retry_after is not None
        assert caught.value.retry_after >= 1
        gate.set()
        await asyncio.gather(*held)
        assert await thread.run(lambda: 7) == 7
        thread.close()

    asyncio.run(main())


def test_an_error_reaches_its_caller_and_the_thread_lives() -> None:
    async def main() -> None:
        thread = ModelThread(limit=2)
        with pytest.raises(ZeroDivisionError):
            await thread.run(lambda: 1 / 0)
        assert await thread.run(lambda: "still here") == "still here"
        assert thread.alive
        thread.close()
        assert not thread.alive

    asyncio.run(main())


def test_a_cancelled_caller_is_dropped_before_its_work_starts() -> None:
    async def main() -> list[str]:
        thread = ModelThread(limit=5)
        gate, ran = threading.Event(), []
        first = asyncio.create_task(thread.run(gate.wait))
        await asyncio.sleep(0.05)
        gone = asyncio.create_task(thread.run(ran.append, "gone"))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.sleep(0.05)
        gate.set()
        await first
        await thread.run(ran.append, "stayed")
        assert thread.waiting == 0
        thread.close()
        return ran

    assert asyncio.run(main()) == ["stayed"]
