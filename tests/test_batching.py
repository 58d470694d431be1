from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from understudy.batching import PASS_COST, BatchFacts, DynamicBatcher, ModelThread, plan_batches
from understudy.errors import InternalError, ModelError, Overloaded, Unavailable


def test_every_position_is_planned_once_and_batches_fit_the_budget() -> None:
    lengths = [random.randint(1, 128) for _ in range(500)]
    batches = plan_batches(lengths, 512)
    assert sorted(i for batch in batches for i in batch) == list(range(500))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 512 for batch in batches)


def test_sorting_leaves_little_padding() -> None:
    lengths = [random.randint(10, 128) for _ in range(500)]
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in plan_batches(lengths, 2048))
    assert padded < 1.3 * sum(lengths)


@pytest.mark.parametrize("longest", [3, 20, 100])
@pytest.mark.parametrize("budget", [1, 20, 60, 400])
@pytest.mark.parametrize("most", [None, 1, 3, 7])
def test_no_other_plan_costs_less(longest: int, budget: int, most: int | None) -> None:
    draw = random.Random(longest * budget)
    for _ in range(20):
        lengths = [draw.randint(0, longest) for _ in range(draw.randint(0, 30))]
        batches = plan_batches(lengths, budget, most)
        assert all(len(batch) <= (most or 30) for batch in batches)
        assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget for batch in batches)
        cost = sum(len(batch) * max(1, *(lengths[i] for i in batch)) + PASS_COST * budget for batch in batches)
        assert cost == pytest.approx(
            _least_cost(sorted((max(1, one) for one in lengths), reverse=True), budget, most or 30)
        )


def _least_cost(rows: list[int], budget: int, most: int) -> float:
    """The cost of the best of all partitions of rows that fall in length."""
    best = [0.0]
    for end in range(1, len(rows) + 1):
        fitting = [at for at in range(end) if end - at <= most and (end - at == 1 or (end - at) * rows[at] <= budget)]
        best.append(min(best[at] + (end - at) * rows[at] + PASS_COST * budget for at in fitting))
    return best[-1]


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


class Model:
    """Work for a batcher that remembers its batches, can be held, and fails for items named `bad`."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.batches: list[tuple[Any, list[Any]]] = []
        self.open = threading.Event()
        self.open.set()
        self.working = threading.Event()

    def __call__(self, key: Any, items: list[Any]) -> list[str]:
        self.working.set()
        assert self.open.wait(10)
        self.batches.append((key, list(items)))
        time.sleep(self.seconds)
        if "bad" in items:
            raise ModelError("this one cannot be explained")
        return [f"{key}:{item}" for item in items]


def batcher(model: Callable[[Any, list[Any]], Any], **options: Any) -> DynamicBatcher[Any, Any]:
    return DynamicBatcher(model, **{"max_padded_tokens": 100, "max_items": 1000} | options)


async def held(queue: DynamicBatcher[Any, Any], model: Model) -> asyncio.Task[Any]:
    """The thread at work on one item, so that what is submitted next waits."""
    model.open.clear()
    model.working.clear()
    task = asyncio.create_task(queue.run("held", ["first"], [1]))
    await asyncio.to_thread(model.working.wait, 10)
    return task


def test_items_of_many_callers_share_batches_within_the_budget_sorted_by_length() -> None:
    async def main() -> Model:
        model = Model()
        queue = batcher(model)
        first = await held(queue, model)
        waiting = [asyncio.create_task(queue.run("k", [length], [length])) for length in (50, 10, 49, 11, 11, 48, 10)]
        await asyncio.sleep(0.01)
        model.open.set()
        assert [await one for one in waiting] == [[f"k:{n}"] for n in (50, 10, 49, 11, 11, 48, 10)]
        assert await first == ["held:first"]
        queue.close()
        return model

    assert asyncio.run(main()).batches == [
        ("held", ["first"]),
        ("k", [50, 49]),
        ("k", [11, 11, 10, 10]),
        ("k", [48]),
    ]


def test_in_order_nobody_is_overtaken_and_a_batch_is_full_without_its_padding() -> None:
    async def main() -> tuple[Model, list[BatchFacts]]:
        model, seen = Model(), list[BatchFacts]()
        queue = batcher(model, in_order=True, watch=seen.append)
        first = await held(queue, model)
        lengths = (45, 10, 44, 11, 11, 200, 10)
        waiting = [asyncio.create_task(queue.run("k", [length], [length])) for length in lengths]
        await asyncio.sleep(0.01)
        model.open.set()
        assert [await one for one in waiting] == [[f"k:{n}"] for n in lengths]
        await first
        await asyncio.to_thread(queue.close)
        return model, seen

    model, seen = asyncio.run(main())
    assert model.batches[1:] == [("k", [45, 10, 44]), ("k", [11, 11]), ("k", [200]), ("k", [10])]
    assert [(facts.size, facts.tokens, facts.padded) for facts in seen[1:3]] == [(3, 99, 100), (2, 22, 22)]


def test_the_batch_with_the_oldest_item_is_the_next_whatever_its_key_and_length() -> None:
    async def main() -> list[tuple[Any, list[Any]]]:
        model = Model()
        queue = batcher(model)
        first = await held(queue, model)
        tasks = [
            asyncio.create_task(queue.run(key, [(key, length)], [length]))
            for key, length in [("a", 2), ("b", 60), ("a", 90), ("b", 70), ("a", 3), ("c", 1)]
        ]
        await asyncio.sleep(0.01)
        model.open.set()
        await asyncio.gather(first, *tasks)
        queue.close()
        return model.batches[1:]

    found = asyncio.run(main())
    assert [(key, sorted(length for _, length in items)) for key, items in found] == [
        ("a", [2, 3]),
        ("b", [60]),
        ("a", [90]),
        ("b", [70]),
        ("c", [1]),
    ]


def test_no_key_starves_under_a_steady_stream_of_another() -> None:
    async def main() -> int:
        model = Model()
        queue = batcher(model, max_padded_tokens=1)
        first = await held(queue, model)
        crowd = queue.submit("crowd", list(range(20)), [1] * 20)
        lonely = queue.submit("lonely", ["x"], [1])
        late = queue.submit("crowd", list(range(20, 40)), [1] * 20)
        model.open.set()
        await asyncio.gather(first, *crowd, *lonely, *late)
        queue.close()
        return [key for key, _ in model.batches].index("lonely")

    assert asyncio.run(main()) == 21


def test_an_idle_model_starts_at_once() -> None:
    async def main() -> float:
        queue = batcher(Model())
        await queue.run("k", [1], [1])
        began = time.perf_counter()
        for i in range(50):
            await queue.run("k", [i], [1])
        queue.close()
        return (time.perf_counter() - began) / 50

    assert asyncio.run(main()) < 0.02


@pytest.mark.parametrize("limits", [{"max_items": 4}, {"max_tokens": 40}])
def test_a_full_batcher_refuses_all_of_a_request_and_says_when_it_will_have_drained(limits: dict[str, int]) -> None:
    async def main() -> None:
        model = Model()
        queue = batcher(model, **limits)
        queue._done_tokens, queue._done_seconds = 10.0, 1.0  # ten tokens a second so far
        first = await held(queue, model)
        accepted = queue.submit("k", [1, 2, 3], [9, 10, 10])
        with pytest.raises(Overloaded) as caught:
            queue.submit("k", ["x", "y"], [10, 10])
        assert caught.value.retry_after == pytest.approx(3.0)
        assert queue.items == 4
        model.open.set()
        await asyncio.gather(first, *accepted)
        assert (queue.items, queue.tokens) == (0, 0)
        assert await queue.run("k", ["x", "y"], [10, 10]) == ["k:x", "k:y"]
        queue.close()

    asyncio.run(main())


def test_passes_count_as_tokens_that_wait() -> None:
    async def main() -> None:
        model = Model()
        queue = batcher(model, max_tokens=100)
        first = await held(queue, model)
        many = queue.submit("k", ["x"], [9], [90])
        with pytest.raises(Overloaded):
            queue.submit("k", ["y"], [10])
        model.open.set()
        await asyncio.gather(first, *many)
        queue.close()

    asyncio.run(main())


def test_a_caller_with_more_than_may_wait_is_served_when_nobody_else_is_there() -> None:
    async def main() -> int:
        queue = batcher(Model(), max_items=2)
        found = len(await queue.run("k", list(range(5)), [1] * 5))
        queue.close()
        return found

    assert asyncio.run(main()) == 5


def test_the_pace_is_measured_and_answers_when_to_return() -> None:
    async def main() -> float | None:
        gate = threading.Event()

        def work(_: Any, items: list[Any]) -> list[Any]:
            if items == ["held"]:
                gate.wait(10)
            time.sleep(0.05)
            return items

        queue = batcher(work, max_items=1)
        await queue.run("k", ["x"], [100])  # about 2,000 tokens a second
        running = queue.submit("k", ["held"], [20_000])
        with pytest.raises(Overloaded) as caught:
            queue.submit("k", ["y"], [1])
        gate.set()
        await asyncio.gather(*running)
        queue.close()
        return caught.value.retry_after

    assert 5 < (asyncio.run(main()) or 0) < 11


def test_items_of_a_caller_that_left_are_dropped_and_make_room() -> None:
    async def main() -> Model:
        model = Model()
        queue = batcher(model, max_items=4)
        first = await held(queue, model)
        gone = asyncio.create_task(queue.run("k", ["gone", "too"], [1, 1]))
        stays = asyncio.create_task(queue.run("k", ["stays"], [1]))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0.01)
        assert queue.items == 2
        more = queue.submit("k", ["more"], [1])
        model.open.set()
        await asyncio.gather(first, stays, *more)
        queue.close()
        return model

    assert asyncio.run(main()).batches[1:] == [("k", ["stays", "more"])]


def test_a_caller_may_leave_while_its_batch_runs() -> None:
    async def main() -> None:
        model = Model()
        queue = batcher(model)
        first = await held(queue, model)
        first.cancel()
        await asyncio.sleep(0.01)
        model.open.set()
        assert await queue.run("k", ["next"], [1]) == ["k:next"]
        assert (queue.items, queue.tokens) == (0, 0)
        queue.close()

    asyncio.run(main())


def test_only_the_request_with_the_bad_item_fails() -> None:
    async def main() -> Model:
        model = Model()
        queue = batcher(model)
        first = await held(queue, model)
        good = asyncio.create_task(queue.run("k", ["a", "b", "c"], [1, 1, 1]))
        bad = asyncio.create_task(queue.run("k", ["d", "bad", "e"], [1, 1, 1]))
        other = asyncio.create_task(queue.run("k", ["f"], [1]))
        await asyncio.sleep(0.01)
        model.open.set()
        assert await good == ["k:a", "k:b", "k:c"]
        assert await other == ["k:f"]
        with pytest.raises(ModelError, match="cannot be explained"):
            await bad
        await first
        assert queue.alive
        assert (queue.items, queue.tokens) == (0, 0)
        queue.close()
        return model

    batches = asyncio.run(main()).batches
    assert batches[1] == ("k", ["a", "b", "c", "d", "bad", "e", "f"])
    assert ("k", ["bad"]) in batches


@pytest.mark.parametrize("failure", [ZeroDivisionError(), SystemExit(1), StopIteration(), MemoryError()])
def test_every_caller_is_answered_whatever_the_work_raises(failure: BaseException) -> None:
    async def main() -> None:
        def work(key: str, items: list[Any]) -> list[Any]:
            if key == "fails":
                raise failure
            return items

        queue = batcher(work)
        answers = await asyncio.gather(*queue.submit("fails", [1, 2, 3], [1, 1, 1]), return_exceptions=True)
        assert all(isinstance(answer, Exception) for answer in answers)
        assert await queue.run("works", [1], [1]) == [1]
        queue.close()

    asyncio.run(main())


@pytest.mark.parametrize("results", [[], [1], [1, 2, 3]])
def test_a_wrong_number_of_results_is_an_error_and_never_a_mix_up(results: list[int]) -> None:
    async def main() -> None:
        queue = batcher(lambda _, items: results if len(items) > 1 else [])
        answers = await asyncio.gather(*queue.submit("k", ["a", "b"], [1, 1]), return_exceptions=True)
        assert all(isinstance(answer, InternalError) for answer in answers)
        queue.close()

    asyncio.run(main())


def test_the_first_error_of_a_request_cancels_the_rest_of_it() -> None:
    async def main() -> Model:
        model = Model(seconds=0.005)
        queue = batcher(model, max_padded_tokens=1)
        first = await held(queue, model)
        bad = asyncio.create_task(queue.run("k", ["bad", *range(100)], [1] * 101))
        await asyncio.sleep(0.01)
        model.open.set()
        with pytest.raises(ModelError):
            await bad
        await first
        await asyncio.to_thread(queue.close)
        return model

    assert len(asyncio.run(main()).batches) < 50


def test_closing_answers_what_was_accepted_and_accepts_no_more() -> None:
    async def main() -> None:
        model = Model()
        queue = batcher(model, max_padded_tokens=1)
        first = await held(queue, model)
        accepted = queue.submit("k", list(range(10)), [1] * 10)
        closing = asyncio.create_task(asyncio.to_thread(queue.close))
        await asyncio.sleep(0.02)
        assert not queue.alive
        with pytest.raises(Unavailable, match="shutting down"):
            queue.submit("k", ["late"], [1])
        model.open.set()
        assert await asyncio.gather(*accepted) == [f"k:{i}" for i in range(10)]
        await asyncio.gather(first, closing)

    asyncio.run(main())


def test_a_defect_that_ends_the_thread_leaves_nobody_waiting(capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        def watch(_: BatchFacts) -> None:
            raise KeyError("a defect outside of the work")

        model = Model()
        queue = batcher(model, watch=watch, max_padded_tokens=1)
        first = await held(queue, model)
        waiting = queue.submit("k", [1, 2], [1, 1])
        model.open.set()
        await first
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(answer, InternalError) for answer in answers)
        assert not queue.alive
        with pytest.raises(Unavailable):
            queue.submit("k", ["late"], [1])

    asyncio.run(main())
    assert "model_thread_ended" in capfd.readouterr().out


def test_batches_tell_their_size_and_padding() -> None:
    async def main() -> list[BatchFacts]:
        seen: list[BatchFacts] = []
        model = Model()
        queue = batcher(model, watch=seen.append)
        first = await held(queue, model)
        rest = queue.submit("k", ["a", "b"], [28, 30])
        model.open.set()
        await asyncio.gather(first, *rest)
        await asyncio.to_thread(queue.close)
        return seen

    facts = asyncio.run(main())[1]
    assert (facts.size, facts.tokens, facts.padded) == (2, 58, 60)


def test_thousands_of_callers_that_come_and_go_are_all_answered_or_dropped() -> None:
    async def main() -> None:
        dice = random.Random(1)

        def work(key: int, items: list[Any]) -> list[Any]:
            if 13 in items:
                raise ModelError("unlucky")
            return [(key, item) for item in items]

        queue = batcher(work, max_items=10_000)

        async def caller(number: int) -> str:
            items = [dice.randrange(200) for _ in range(dice.randint(1, 5))]
            await asyncio.sleep(dice.random() / 20)
            task = asyncio.create_task(queue.run(number % 7, items, [1 + item for item in items]))
            if number % 5 == 0:
                await asyncio.sleep(dice.random() / 100)
                task.cancel()
            try:
                assert await task == [(number % 7, item) for item in items]
            except ModelError:
                assert 13 in items
                return "failed"
            except asyncio.CancelledError:
                return "left"
            assert 13 not in items
            return "answered"

        ends = await asyncio.gather(*(caller(number) for number in range(2000)))
        assert set(ends) == {"answered", "failed", "left"}
        await asyncio.to_thread(queue.close)
        assert (queue.items, queue.tokens, queue._waiting) == (0, 0, {})

    asyncio.run(main())
