"""The desk: one pass for many requests, one answer for equal questions, and each error where it belongs."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.teacher.desk import STREAM_CHUNK, Desk
from services.teacher.engine import Engine, Model
from services.teacher.metrics import TeacherMetrics
from services.teacher.settings import Settings
from understudy.errors import InvalidRequest, ModelError, Overloaded, PayloadTooLarge, Unavailable
from understudy.schemas import (
    Attribution,
    AttributionExample,
    AttributionOptions,
    AttributionRequest,
    PredictionRequest,
)
from understudy.testing import LABELS, SENTENCES

pytestmark = pytest.mark.anyio

MakeSettings = Callable[..., Settings]
OpenDesk = Callable[..., Any]

MANY = tuple(f"answer {i}" for i in range(100))


class Watched(Engine):
    """An engine that remembers what it explained, can be held, and refuses texts that say `bad`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.working = threading.Event()

    def explain(
        self, model: Model, options: AttributionOptions, examples: Sequence[AttributionExample]
    ) -> list[Attribution]:
        self.working.set()
        assert self.gate.wait(10)
        self.batches.append([example.input for example in examples])
        for i, example in enumerate(examples):
            if "bad" in example.input:
                raise ModelError(f"examples[{i}].input: cannot be explained", param=f"examples[{i}].input")
            if "defect" in example.input:
                raise KeyError("a defect")
        return super().explain(model, options, examples)


def request(*texts: str, **options: Any) -> AttributionRequest:
    examples = tuple(AttributionExample(id=f"id-{i}", input=text) for i, text in enumerate(texts))
    return AttributionRequest(examples=examples, **options)


async def hold(engine: Watched, desk: Desk) -> asyncio.Task[Any]:
    """The model at work, so that what comes next waits."""
    await desk.load("classifier")
    engine.gate.clear()
    engine.working.clear()
    task = asyncio.create_task(desk.attribute(request("held")))
    await asyncio.to_thread(engine.working.wait, 10)
    return task


async def test_requests_that_wait_share_a_pass_and_each_gets_its_own(desk: OpenDesk, settings: MakeSettings) -> None:
    engine = Watched(settings())
    async with desk(engine) as one:
        first = await hold(engine, one)
        waiting = [asyncio.create_task(one.attribute(request(text))) for text in SENTENCES]
        await asyncio.sleep(0.1)
        engine.gate.set()
        found = await asyncio.gather(*waiting)
        await first
        alone = await one.attribute(request(*SENTENCES))
    assert len(engine.batches) < 6
    for text, answer, other in zip(SENTENCES, found, alone.results, strict=True):
        (result,) = answer.results
        assert result.id == "id-0"
        assert result.words[-1].end <= len(text)
        assert [word.text for word in result.words] == [word.text for word in other.words]


async def test_other_options_never_share_a_pass(desk: OpenDesk, settings: MakeSettings) -> None:
    engine = Watched(settings())
    async with desk(engine) as one:
        first = await hold(engine, one)
        requests = [
            request("a", top_k=1),
            request("b", top_k=2),
            request("c", method="input_x_gradient"),
            request("d", template="Say: {input}"),
            request("e", against="neutral", target="label", label="positive"),
            request("f", model="writer"),
        ]
        waiting = [asyncio.create_task(one.attribute(each)) for each in requests]
        await asyncio.sleep(0.3)
        engine.gate.set()
        await asyncio.gather(first, *waiting)
    assert sorted(engine.batches[1:]) == [["a"], ["b"], ["c"], ["d"], ["e"], ["f"]]


async def test_an_example_that_is_compared_never_shares_a_pass_with_one_that_is_not(
    desk: OpenDesk, settings: MakeSettings
) -> None:
    engine = Watched(settings())
    async with desk(engine) as one:
        first = await hold(engine, one)
        plain = AttributionExample(input="a", output="positive")
        asked = [plain, plain.model_copy(update={"input": "b", "against": "neutral"})]
        waiting = [
            asyncio.create_task(one.attribute(AttributionRequest(examples=(each,), target="gold"))) for each in asked
        ]
        await asyncio.sleep(0.1)
        engine.gate.set()
        await first
        assert [answer.results[0].against for answer in await asyncio.gather(*waiting)] == [None, "neutral"]
    assert sorted(engine.batches[1:]) == [["a"], ["b"]]


async def test_what_is_known_is_not_computed_again(desk: OpenDesk, settings: MakeSettings) -> None:
    engine = Watched(settings())
    async with desk(engine) as one:
        fresh = await one.attribute(request(*SENTENCES[:3]))
        known = await one.attribute(request(SENTENCES[1], "new", SENTENCES[0]))
        other = await one.attribute(request(*SENTENCES[:3], top_k=1))
    assert (fresh.cached, known.cached, other.cached) == (0, 2, 0)
    assert [found.id for found in known.results] == ["id-0", "id-1", "id-2"]
    assert known.results[0].words == fresh.results[1].words
    assert sum(map(len, engine.batches)) == 3 + 1 + 3


async def test_an_equal_question_is_computed_once_in_and_across_requests(
    desk: OpenDesk, settings: MakeSettings
) -> None:
    engine = Watched(settings(cache_bytes=0))
    async with desk(engine) as one:
        first = await hold(engine, one)
        waiting = [asyncio.create_task(one.attribute(request("same", "same", "other"))) for _ in range(5)]
        await asyncio.sleep(0.1)
        waiting[0].cancel()  # it brought the question, and the others still get the answer
        await asyncio.sleep(0.01)
        engine.gate.set()
        found = await asyncio.gather(first, *waiting[1:])
        again = await one.attribute(request("same"))
    assert sorted(text for batch in engine.batches[1:-1] for text in batch) == ["other", "same"]
    assert engine.batches[-1] == ["same"]  # without a cache it is asked again
    assert all([result.id for result in answer.results] == ["id-0", "id-1", "id-2"] for answer in found[1:])
    assert again.cached == 0


async def test_a_caller_that_left_costs_nothing(desk: OpenDesk, settings: MakeSettings) -> None:
    engine = Watched(settings())
    async with desk(engine) as one:
        first = await hold(engine, one)
        gone = asyncio.create_task(one.attribute(request(*SENTENCES)))
        await asyncio.sleep(0.1)
        gone.cancel()
        await asyncio.sleep(0.01)
        engine.gate.set()
        await first
        await one.attribute(request("last"))
    assert engine.batches == [["held"], ["last"]]


async def test_an_error_names_the_example_by_its_place_in_its_own_request(
    desk: OpenDesk, settings: MakeSettings
) -> None:
    engine = Watched(settings())
    async with desk(engine) as one:
        first = await hold(engine, one)
        good = asyncio.create_task(one.attribute(request("a", "b")))
        bad = asyncio.create_task(one.attribute(request("c", "d", "bad")))
        inputs = asyncio.create_task(one.predict(PredictionRequest(inputs=("e", "bad"))))
        await asyncio.sleep(0.1)
        engine.gate.set()
        await asyncio.gather(first, good)
        with pytest.raises(ModelError) as caught:
            await bad
        assert (caught.value.param, caught.value.message) == (
            "examples[2].input",
            "examples[2].input: cannot be explained",
        )
        with pytest.raises(ModelError) as caught:
            await inputs
        assert caught.value.param == "inputs[1].input"


async def test_predictions_are_those_of_attributions(desk: OpenDesk) -> None:
    async with desk() as one:
        explained = await one.attribute(request(*SENTENCES, top_k=3))
        inputs = tuple({"id": f"id-{i}", "input": text} for i, text in enumerate(SENTENCES))
        with_words = await one.predict(PredictionRequest(inputs=inputs, top_k=3))
        without = await one.predict(PredictionRequest(inputs=inputs, explain=False))
    assert (with_words.reasons, without.reasons) == ("saliency", None)
    for a, b, c in zip(explained.results, with_words.predictions, without.predictions, strict=True):
        assert a.id == b.id == c.id
        assert a.prediction == b.label == c.label
        assert a.probability == pytest.approx(b.probability) == pytest.approx(c.probability)
        assert a.rationale == b.words
        assert c.words is None


async def test_a_request_may_bring_its_own_template_and_labels(desk: OpenDesk) -> None:
    example = AttributionExample(input=SENTENCES[0], output="positive")
    async with desk(model="writer") as one:
        plain = await one.attribute(AttributionRequest(examples=(example,), target="gold"))
        framed = await one.attribute(
            AttributionRequest(examples=(example,), target="gold", labels=LABELS, template="Review: {input} Good?")
        )
    assert plain.results[0].probabilities is None
    assert set(framed.results[0].probabilities or ()) == set(LABELS)
    assert framed.results[0].tokens > plain.results[0].tokens
    assert framed.fingerprint == plain.fingerprint


async def test_the_settings_of_the_method_are_told_with_their_defaults(desk: OpenDesk) -> None:
    async with desk() as one:
        plain = await one.attribute(request("a", method="integrated_gradients"))
        chosen = await one.attribute(request("a", method="integrated_gradients", settings={"n_steps": 3}))
    assert (plain.settings, chosen.settings) == ({"n_steps": 20}, {"n_steps": 3})


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (PredictionRequest(inputs=("x",), labels=("a", "b", "c", "d")), "labels"),
        (PredictionRequest(inputs=("x", {"input": "x", "choices": ("a", "b", "c", "d")})), "inputs[1].choices"),
        (PredictionRequest(inputs=("x",) * 9), "inputs"),
        (PredictionRequest(inputs=("x" * 2000,)), "inputs"),
        (PredictionRequest(inputs=("x",) * 8, template="word " * 26 + "{input}"), "inputs"),
        (PredictionRequest(inputs=("x",) * 8, labels=("a" * 70, "b" * 70)), "inputs"),
        (PredictionRequest(inputs=({"input": "x", "choices": ("a" * 500, "b" * 500)},)), "inputs"),
        (PredictionRequest(inputs=SENTENCES[:8], explain=False), "inputs"),
    ],
)
async def test_predictions_have_the_same_limits(desk: OpenDesk, asked: PredictionRequest, param: str) -> None:
    async with desk(max_candidates=3, max_examples=8, max_request_chars=1000, max_request_tokens=50) as one:
        with pytest.raises(PayloadTooLarge) as caught:
            await one.predict(asked)
    assert caught.value.param == param


@pytest.mark.parametrize("change", [{"label": "x" * 400}, {"against": "x" * 400}, {"output": "x" * 400}])
async def test_the_answers_of_an_explanation_are_characters_too(desk: OpenDesk, change: dict[str, str]) -> None:
    own = {name: change[name] for name in change if name == "output"}
    asked = {name: change[name] for name in change if name != "output"}
    examples = tuple(AttributionExample(input=str(i), **own) for i in range(3))
    target = {"label": "label", "output": "gold"}.get(next(iter(change)), "predicted")
    async with desk(max_request_chars=1000) as one:
        with pytest.raises(PayloadTooLarge, match="have 1203 characters together"):
            await one.attribute(AttributionRequest(examples=examples, target=target, **asked))


@pytest.mark.parametrize(
    "asked",
    [
        AttributionRequest(examples=(AttributionExample(input="which?"),), labels=MANY),
        PredictionRequest(inputs=("which?",), labels=MANY),
        PredictionRequest(inputs=("which?",), labels=MANY, explain=False),
        PredictionRequest(inputs=({"input": "which?", "choices": MANY},), explain=False),
    ],
)
async def test_answers_to_choose_from_are_work_whichever_way_they_are_asked_for(
    desk: OpenDesk, settings: MakeSettings, asked: AttributionRequest | PredictionRequest
) -> None:
    async def ask(one: Desk) -> Any:
        return await (one.predict(asked) if isinstance(asked, PredictionRequest) else one.attribute(asked))

    async with desk(model="decoder", max_request_work=300) as one:
        with pytest.raises(PayloadTooLarge, match="fewer answers to choose from"):
            await ask(one)
    engine = Watched(settings(max_queue_tokens=300))
    async with desk(engine) as one:
        first = await hold(engine, one)
        asked = asked.model_copy(update={"model": "decoder"})
        with pytest.raises(Overloaded):
            await ask(one)
        engine.gate.set()
        await first
        await ask(one)  # nobody else is there


async def test_an_answer_named_twice_is_refused(desk: OpenDesk) -> None:
    async with desk() as one:
        with pytest.raises(InvalidRequest, match="same answer twice") as caught:
            await one.predict(PredictionRequest(inputs=({"input": "x", "choices": ("a", "a")},)))
    assert caught.value.param == "inputs[0].choices"


async def test_a_method_that_leaves_out_each_word_costs_a_pass_for_each(desk: OpenDesk) -> None:
    text = "word " * 30
    async with desk(max_request_work=500) as one:
        await one.attribute(request(text))
        with pytest.raises(PayloadTooLarge, match="every pass"):
            await one.attribute(request(text, method="occlusion"))


async def test_rows_that_a_method_has_not_are_refused_before_anything_waits(
    desk: OpenDesk, settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(settings())
    monkeypatch.setattr(engine, "explain", lambda *_: pytest.fail("the model was asked"))
    async with desk(engine) as one:
        with pytest.raises(InvalidRequest, match="no rows for the tokens") as caught:
            await one.attribute(request("some words", method="random", rows=True))
    assert caught.value.param == "rows"


async def test_a_pass_of_any_method_takes_as_many_tokens_as_the_service_says(desk: OpenDesk) -> None:
    async with desk(max_padded_tokens=77) as one, one._models.use("classifier") as model:
        assert model.adapter.with_template("{input}!").max_padded_tokens == 77


async def test_what_was_accepted_is_answered_when_the_desk_stops(settings: MakeSettings) -> None:
    engine = Watched(settings())
    one = Desk(engine, TeacherMetrics(CollectorRegistry()))
    first = await hold(engine, one)
    waiting = asyncio.create_task(one.attribute(request(*SENTENCES)))
    await asyncio.sleep(0.1)
    stopping = asyncio.create_task(one.stop())
    await asyncio.sleep(0.1)
    assert not one.alive
    with pytest.raises(Unavailable):
        await one.attribute(request("late"))
    engine.gate.set()
    assert len((await waiting).results) == len(SENTENCES)
    await asyncio.gather(first, stopping)


async def test_callers_that_come_go_and_err_are_all_answered(desk: OpenDesk, settings: MakeSettings) -> None:
    dice = random.Random(0)
    engine = Watched(settings(max_models=2, max_queue=200, cache_bytes=20_000))

    async def caller(number: int) -> str:
        texts = [dice.choice([*SENTENCES, f"own {number}", "bad"]) for _ in range(dice.randint(1, 4))]
        asked = request(*texts, model=dice.choice(["classifier", "writer", "decoder"]), labels=LABELS)
        await asyncio.sleep(dice.random() / 2)
        work = lines(one, asked) if number % 3 == 0 else one.attribute(asked)
        task: asyncio.Task[Any] = asyncio.create_task(work)  # type: ignore[arg-type]
        if number % 4 == 0:
            await asyncio.sleep(dice.random() / 5)
            task.cancel()
        try:
            answer = await task
        except (asyncio.CancelledError, Overloaded):
            return "left"
        except ModelError as error:
            place = str(error.param).removeprefix("examples[").removesuffix("].input")
            return "failed" if texts[int(place)] == "bad" else f"{error.param} is not at fault"
        if isinstance(answer, list):
            assert answer[-1]["failed"] == texts.count("bad")
            assert len(answer) == len(texts) + 2
            return "streamed"
        assert [result.id for result in answer.results] == [f"id-{i}" for i in range(len(texts))]
        assert "bad" not in texts
        return "answered"

    async with desk(engine) as one:
        ends = await asyncio.gather(*(caller(number) for number in range(150)))
        for _ in range(100):
            if not one._answers.queue.items:
                break
            await asyncio.sleep(0.02)  # a batch whose callers have left ends too
        assert (one._answers.queue.items, one._answers.queue.tokens) == (0, 0)
        for ref in [info.id for info in one.loaded()]:
            await one.unload(ref)  # nobody holds one any more
    assert set(ends) == {"left", "failed", "streamed", "answered"}


async def lines(desk: Desk, asked: AttributionRequest) -> list[Any]:
    return [line async for line in await desk.stream(asked)]


async def test_a_stream_gives_every_result_once_and_says_how_many(desk: OpenDesk) -> None:
    texts = [f"{text} {i}" for i in range(20) for text in SENTENCES]
    async with desk(max_examples=8) as one:
        head, *found, end = await lines(one, request(*texts))
        whole = await one.attribute(request(*texts[:8]))
    assert head == {
        "model": "classifier",
        "fingerprint": whole.fingerprint,
        "method": "saliency",
        "settings": {"norm": "l1"},
        "target": "predicted",
        "precision": "float32",
    }
    assert end == {"done": True, "completed": 240, "failed": 0}
    assert sorted(line["index"] for line in found) == list(range(240))
    by_index = {line["index"]: line["result"] for line in found}
    assert all(by_index[i]["id"] == f"id-{i}" for i in by_index)
    assert [by_index[i] for i in range(8)] == [result.model_dump(mode="json") for result in whole.results]


async def test_one_example_of_a_stream_that_fails_is_a_line_and_the_others_go_on(
    desk: OpenDesk, settings: MakeSettings
) -> None:
    texts = ["a", "bad", *SENTENCES, "a defect"]
    async with desk(Watched(settings())) as one:
        _, *found, end = await lines(one, request(*texts))
    errors = {line["index"]: line["error"] for line in found if "error" in line}
    assert errors[1]["param"] == "examples[1].input"
    assert errors[1]["code"] == "model_error"
    assert errors[len(texts) - 1]["code"] == "internal_error"
    assert "a defect" not in errors[len(texts) - 1]["message"]
    assert end == {"done": True, "completed": len(SENTENCES) + 1, "failed": 2}


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        (request("a", method="salience"), InvalidRequest),
        (request("a", template="no place"), InvalidRequest),
        (request(*["a"] * 31), PayloadTooLarge),
        (
            AttributionRequest(
                examples=(AttributionExample(input="a", against="neutral"), AttributionExample(input="b"))
            ),
            InvalidRequest,
        ),
    ],
)
async def test_a_stream_that_is_wrong_as_a_whole_has_no_first_line(
    desk: OpenDesk, asked: AttributionRequest, kind: type[Exception]
) -> None:
    async with desk(max_stream_examples=30) as one:
        with pytest.raises(kind):
            await one.stream(asked)


async def test_a_full_queue_refuses_a_stream_at_its_start_and_never_later(
    desk: OpenDesk, settings: MakeSettings
) -> None:
    texts = [f"{i} {SENTENCES[i % 12]}" for i in range(3 * STREAM_CHUNK)]
    engine = Watched(settings(max_queue=STREAM_CHUNK + 2))
    async with desk(engine) as one:
        first = await hold(engine, one)
        stream = await one.stream(request(*texts))
        with pytest.raises(Overloaded):
            await one.stream(request(*SENTENCES))
        engine.gate.set()
        found = [line async for line in stream]
        await first
    assert found[-1] == {"done": True, "completed": len(texts), "failed": 0}


async def test_a_stream_has_the_template_once_for_what_is_under_way(desk: OpenDesk) -> None:
    texts, template = [str(i % 10) for i in range(2 * STREAM_CHUNK)], "the plot of {input}"
    characters = len(texts) + STREAM_CHUNK * len(template)
    async with desk(max_request_chars=characters) as one:
        found = await lines(one, request(*texts, template=template))
        assert found[-1] == {"done": True, "completed": len(texts), "failed": 0}
    async with desk(max_request_chars=characters - 1) as one:
        with pytest.raises(PayloadTooLarge, match="a shorter template"):
            await one.stream(request(*texts, template=template))


async def test_no_more_of_a_stream_is_computed_than_is_taken(desk: OpenDesk, settings: MakeSettings) -> None:
    texts = [f"{i} {SENTENCES[i % 12]}" for i in range(10 * STREAM_CHUNK)]
    engine = Watched(settings())
    async with desk(engine) as one:
        stream = await one.stream(request(*texts))
        for _ in range(STREAM_CHUNK + 2):
            await anext(stream)
        await asyncio.sleep(0.3)
        assert sum(map(len, engine.batches)) <= 3 * STREAM_CHUNK
        await stream.aclose()


async def test_what_is_left_of_a_stream_that_nobody_reads_is_dropped(desk: OpenDesk, settings: MakeSettings) -> None:
    engine = Watched(settings())
    async with desk(engine) as one:
        first = await hold(engine, one)
        stream = await one.stream(request(*SENTENCES))
        await anext(stream)
        await stream.aclose()
        await asyncio.sleep(0.05)  # what is cancelled leaves the queue in the loop's next rounds
        engine.gate.set()
        await first
        await one.attribute(request("last"))
        await one.unload("classifier")  # nobody holds it any more
    assert engine.batches == [["held"], ["last"]]
