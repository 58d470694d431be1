"""The desk under load: who shares a pass, who waits, who is sent away, and who leaves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.student.desk import Desk
from services.student.metrics import StudentMetrics
from services.student.models import Models
from services.student.settings import Settings
from understudy.errors import DeadlineExceeded, InvalidRequest, ModelError, Overloaded, PayloadTooLarge
from understudy.schemas import Prediction, PredictionInput, PredictionRequest
from understudy.serving.hf import HFEngine

pytestmark = pytest.mark.anyio


class Held:
    """A real engine whose passes wait until they are let through."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.batches: list[list[str]] = []
        self.began, self.go = threading.Event(), threading.Event()
        self.go.set()

    @property
    def reasons(self) -> Any:
        return self.engine.reasons

    @property
    def bytes(self) -> int:
        return int(self.engine.bytes)

    def bound(self, max_padded_tokens: int) -> None:
        self.engine.bound(max_padded_tokens)

    def info(self) -> Any:
        return self.engine.info()

    def predict(self, inputs: Sequence[PredictionInput], **options: Any) -> list[Prediction]:
        self.batches.append([one.input for one in inputs])
        self.began.set()
        assert self.go.wait(60)
        return self.engine.predict(inputs, **options)


@pytest.fixture
def opened(store: Any, publish: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """`async with opened(max_queue=3) as (desk, engine):` with the model `production` held or let through."""
    engines: list[Held] = []
    load = HFEngine.load

    def held(*args: Any, **options: Any) -> Any:
        engines.append(Held(load(*args, **options)))
        return engines[-1]

    monkeypatch.setattr(HFEngine, "load", held)
    publish("one", "production")

    @asynccontextmanager
    async def run(**settings: Any) -> AsyncIterator[tuple[Desk, Held]]:
        chosen = Settings(artifacts=store.root, device="cpu", refresh_seconds=0.05, **settings)
        desk = Desk(Models(chosen, store), StudentMetrics(CollectorRegistry()))
        desk.models.start()
        try:
            await desk.model("production")
            yield desk, engines[0]
        finally:
            for engine in engines:
                engine.go.set()
            await desk.stop()

    return run


def asked(*texts: str, **options: Any) -> PredictionRequest:
    return PredictionRequest(inputs=texts, **{"explain": False} | options)


async def busy(desk: Desk, engine: Held) -> asyncio.Task[Any]:
    """A request that holds the model's thread until `engine.go` is set."""
    engine.go.clear()
    engine.began.clear()
    first = asyncio.create_task(desk.predict(asked("the first")))
    await asyncio.to_thread(engine.began.wait, 60)
    return first


async def test_what_comes_while_a_batch_runs_shares_the_next_one(opened: Any) -> None:
    async with opened() as (desk, engine):
        first = await busy(desk, engine)
        texts = [f"film number {i}" for i in range(8)]
        others = [asyncio.create_task(desk.predict(asked(text))) for text in texts]
        explained = asyncio.create_task(desk.predict(asked("with words", explain=True)))
        await asyncio.sleep(0)
        engine.go.set()
        found = [(await other).predictions[0] for other in others]
        await asyncio.gather(first, explained)
        assert [sorted(batch) for batch in engine.batches[-3:]] == [["the first"], texts, ["with words"]]
        alone = engine.engine.predict([PredictionInput(input=text) for text in texts], explain=False, top_k=5)
        assert [one.probability for one in found] == pytest.approx([one.probability for one in alone], rel=1e-4)


async def test_one_bad_input_fails_its_own_request_and_says_where_it_stood(opened: Any) -> None:
    async with opened() as (desk, engine):
        first = await busy(desk, engine)
        good = asyncio.create_task(desk.predict(asked("a", "b")))
        bad = asyncio.create_task(desk.predict(asked("c", "d", " ")))
        await asyncio.sleep(0)
        engine.go.set()
        assert len((await good).predictions) == 2
        with pytest.raises(InvalidRequest, match=r"inputs\[2\] is blank") as caught:
            await bad
        assert caught.value.param == "inputs[2]"
        await first


async def test_a_batch_request_takes_as_many_places_as_single_ones(opened: Any) -> None:
    async with opened(max_queue=4) as (desk, engine):
        first = await busy(desk, engine)
        waiting = asyncio.create_task(desk.predict(asked("a", "b")))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await desk.predict(asked("c", "d"))
        assert (caught.value.retry_after or 0) >= 1
        single = asyncio.create_task(desk.predict(asked("c")))
        await asyncio.sleep(0)
        engine.go.set()
        await asyncio.gather(first, waiting, single)


async def test_a_caller_who_leaves_is_never_computed(opened: Any) -> None:
    async with opened() as (desk, engine):
        first = await busy(desk, engine)
        leaving = asyncio.create_task(desk.predict(asked("nobody waits for this")))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        engine.go.set()
        await first
        await desk.predict(asked("the last"))
        assert engine.batches[-2:] == [["the first"], ["the last"]]


@pytest.mark.parametrize(("settings", "seconds"), [({}, 0.05), ({"request_seconds": 0.05}, None), ({}, 1e-9)])
async def test_after_its_deadline_a_request_is_told_so_and_dropped(opened: Any, settings: Any, seconds: Any) -> None:
    async with opened() as (desk, engine):
        first = await busy(desk, engine)
        desk.settings = desk.settings.model_copy(update=settings)
        with pytest.raises(DeadlineExceeded, match="no answer after"):
            await desk.predict(asked("too late"), seconds)
        await asyncio.sleep(0)  # what was cancelled leaves the queue in the loop's next round
        engine.go.set()
        await first
        desk.settings = desk.settings.model_copy(update={"request_seconds": 60})
        await desk.predict(asked("the last"))
        assert ["too late"] not in engine.batches


async def test_an_alias_that_moves_leaves_a_waiting_request_with_its_model(
    opened: Any, store: Any, publish: Callable[..., str]
) -> None:
    """Its inputs end up in several batches, before and after the move: one model answers them all."""
    async with opened(max_padded_tokens=64) as (desk, engine):
        one = store.resolve("production")
        first = await busy(desk, engine)
        texts = tuple(f"a rather long sentence about film number {i}" for i in range(40))
        waiting = asyncio.create_task(desk.predict(asked(*texts)))
        await asyncio.sleep(0)
        two = publish("two", "production")
        async with asyncio.timeout(60):
            while desk.ready().artifact != two:
                await asyncio.sleep(0.01)
        later = asyncio.create_task(desk.predict(asked(*texts)))
        await asyncio.sleep(0)
        engine.go.set()
        old, new = await waiting, await later
        await first
        assert (old.model.artifact, new.model.artifact) == (one, two)
        rows = [PredictionInput(input=text) for text in texts]
        for found in (old, new):
            real = found.model.engine.engine.predict(rows, explain=False, top_k=5)  # type: ignore[attr-defined]
            expected = [prediction.probability for prediction in real]
            assert [one.probability for one in found.predictions] == pytest.approx(expected, rel=1e-4)
        assert len(engine.batches) > 3


async def test_what_was_accepted_is_answered_before_the_end(opened: Any) -> None:
    async with opened() as (desk, engine):
        first = await busy(desk, engine)
        waiting = [asyncio.create_task(desk.predict(asked(str(i)))) for i in range(5)]
        await asyncio.sleep(0)
        ending = asyncio.create_task(desk.stop())
        await asyncio.sleep(0.05)
        engine.go.set()
        found = await asyncio.gather(first, *waiting)
        await ending
        assert all(len(one.predictions) == 1 for one in found)


async def test_answers_to_choose_from_count_where_a_model_scores_each(opened: Any, publish: Callable[..., str]) -> None:
    publish("writer", "writer")
    async with opened(max_request_work=2000) as (desk, _):
        row = PredictionInput(input="which of these?", choices=tuple(str(i) for i in range(400)))
        with pytest.raises(PayloadTooLarge, match="fewer answers to choose from"):
            await desk.predict(PredictionRequest(model="writer", inputs=(row,), explain=False))
        assert (await desk.predict(asked("which of these?"))).predictions


async def test_an_answer_counts_as_much_as_the_model_may_write(opened: Any, publish: Callable[..., str]) -> None:
    publish("writer", "writer")
    rows = tuple(f"which {i}?" for i in range(20))
    async with opened(max_request_work=1000) as (desk, _):
        with pytest.raises(PayloadTooLarge, match="inputs take about"):
            await desk.predict(PredictionRequest(model="writer", inputs=rows, explain=False))
        closed = PredictionRequest(model="writer", inputs=rows, labels=("a", "b"), explain=False)
        assert len((await desk.predict(closed)).predictions) == 20


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ("x", {"template": "word " * 20 + "{input}"}),
        ("x", {"labels": ("a" * 60, "b" * 60)}),
        (PredictionInput(input="x", choices=("a" * 60, "b" * 60)), {}),
        ("x" * 101, {}),
    ],
)
async def test_every_text_counts_with_what_is_read_beside_it(opened: Any, row: Any, options: dict[str, Any]) -> None:
    async with opened(max_request_chars=1000) as (desk, engine):
        with pytest.raises(PayloadTooLarge, match="characters together"):
            await desk.predict(asked(*[row] * 10, **options))
        assert not engine.batches


async def test_a_template_that_leaves_no_room_for_a_text_never_reaches_a_batch(opened: Any) -> None:
    async with opened() as (desk, engine):
        with pytest.raises(ModelError, match="shorten the template") as caught:
            await desk.predict(asked(*["a film"] * 10, template="word " * 500 + "{input}"))
        assert caught.value.param == "template"
        assert not engine.batches


async def test_the_budget_of_a_pass_is_the_engines_too(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request whose inputs do not fit one pass takes several, none of them larger than the setting."""
    passes: list[int] = []
    async with opened(max_padded_tokens=40) as (desk, engine):
        adapter = engine.engine.adapter
        forward = type(adapter.model).forward

        def counted(model: Any, *args: Any, **options: Any) -> Any:
            passes.append(options["input_ids"].numel())
            return forward(model, *args, **options)

        monkeypatch.setattr(type(adapter.model), "forward", counted)
        await desk.predict(asked(*["a text of some length"] * 12))
        assert len(passes) > 1
        assert max(passes) <= 40
