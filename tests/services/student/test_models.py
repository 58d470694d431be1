"""Aliases and what they name: how a model comes, moves, fails and goes while requests keep being answered."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from understudy.models.sizes import parameters
from understudy.schemas import PredictionInput
from understudy.serving.hf import HFEngine

pytestmark = pytest.mark.anyio

TEXTS = ("The plot is thin.", "A dull film: two hours of rain.", "I love it")


def corrupt(store: Any, artifact: str) -> None:
    path = Path(store.root) / artifact / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


async def test_before_anything_is_published_the_service_lives_and_says_what_to_do(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    async with running(store) as student:
        assert (await student.http.get("/livez")).status_code == 200
        answer = await student.ready()
        assert answer.status_code == 503
        assert "production" in answer.json()["error"]["message"]
        artifact = publish("one", "production")
        await student.until_ready()
        assert (await student.ready()).json() == {
            "status": "ok",
            "alias": "production",
            "artifact": artifact,
            "problems": {},
        }


async def test_the_reason_for_not_being_ready_names_the_way_out(running: Any, store: Any) -> None:
    async with running(store) as student:

        async def explained() -> bool:
            message = (await student.ready()).json()["error"]["message"]
            return "aliases: none yet" in message and "point the alias at it" in message

        await student.until(explained)
        answer = await student.ask()
        assert answer.status_code == 404
        assert "point the alias at it" in answer.json()["error"]["message"]


async def test_a_request_names_an_alias_an_artifact_or_nothing(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    one, two = publish("one", "production"), publish("two", "canary")
    async with running(store) as student:
        assert await student.artifact() == one
        assert await student.artifact(model="production") == one
        assert await student.artifact(model="canary") == two
        assert await student.artifact(model=two) == two
        assert (await student.ask(model="canary")).json()["model"] == "canary"


@pytest.mark.parametrize("name", ["prodution", "model-" + "0" * 24, "../production", "", "a\x00b", "x" * 5000])
async def test_an_unknown_model_lists_the_aliases(
    running: Any, store: Any, publish: Callable[..., str], name: str
) -> None:
    publish("one", "production", "stable")
    async with running(store) as student:
        answer = await student.ask(model=name)
        assert answer.status_code == 404
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert "no artifact" in error["message"] or "production, stable" in error["message"]


async def test_an_artifact_that_is_no_model_is_refused(running: Any, store: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text("{}")
    file = store.publish("file", tmp_path / "data").id
    async with running(store) as student:
        answer = await student.ask(model=file)
        assert answer.status_code == 404
        assert "is no model but a file" in answer.json()["error"]["message"]


async def test_an_alias_moves_under_load_without_one_failed_request(
    running: Any, store: Any, publish: Callable[..., str], folders: dict[str, Path]
) -> None:
    artifacts = [publish("one", "production"), publish("two")]
    rows = [PredictionInput(input=text) for text in TEXTS]
    truth = {
        artifact: [p.probability for p in HFEngine.load(folders[name]).predict(rows, explain=True, top_k=2)]
        for artifact, name in zip(artifacts, ("one", "two"), strict=True)
    }
    answers: list[tuple[int, str, list[float]]] = []
    async with running(store) as student:
        await student.until_ready()
        stop = asyncio.Event()

        async def client() -> None:
            while not stop.is_set():
                answer = await student.ask(*TEXTS, top_k=2)
                body = answer.json()
                answers.append((answer.status_code, body["artifact"], [p["probability"] for p in body["predictions"]]))

        clients = [asyncio.create_task(client()) for _ in range(6)]
        for artifact in (artifacts[1], artifacts[0], artifacts[1]):
            store.set_alias("production", artifact)
            await student.until_served(artifact)
        stop.set()
        await asyncio.gather(*clients)
    assert {status for status, _, _ in answers} == {200}
    for _, artifact, probabilities in answers:
        assert probabilities == pytest.approx(truth[artifact], rel=1e-4)
    moves = [artifact for artifact, _ in itertools.groupby(artifact for _, artifact, _ in answers)]
    assert set(moves) == set(artifacts)


async def test_the_old_model_answers_while_the_new_one_is_loaded(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    one, two = publish("one", "production"), publish("two")
    async with running(store) as student:
        await student.until_ready()
        store.open.clear()
        store.set_alias("production", two)
        await student.until(lambda: asyncio.sleep(0, two in store.read))
        for _ in range(5):
            assert await student.artifact() == one
            assert (await student.ready()).status_code == 200
        store.open.set()
        await student.until_served(two)


async def test_a_moved_alias_is_noticed_without_a_request(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    publish("one", "production")
    async with running(store) as student:
        await student.until_ready()
        two = publish("two", "production")

        async def moved() -> bool:
            return bool((await student.ready()).json()["artifact"] == two)

        await student.until(moved, seconds=5)


async def test_an_alias_other_than_the_default_is_followed_from_its_first_use(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    publish("one", "production")
    publish("two", "canary")
    async with running(store, max_models=3) as student:
        await student.ask(model="canary")
        three = publish("three", "canary")

        async def moved() -> bool:
            return bool(await student.artifact(model="canary") == three)

        await student.until(moved)


# --- what goes wrong -----------------------------------------------------------------------------------------------


async def has_problem(student: Any, text: str) -> bool:
    return text in str((await student.models())["problems"].get("production"))


async def test_a_corrupt_artifact_leaves_the_old_model_serving_and_is_reported(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    one, two = publish("one", "production"), publish("two")
    corrupt(store, two)
    async with running(store) as student:
        await student.until_ready()
        store.set_alias("production", two)
        await student.until(lambda: has_problem(student, "differs from its manifest"))
        ready = await student.ready()
        assert ready.status_code == 200
        assert ready.json()["artifact"] == one
        assert "differs from its manifest" in ready.json()["problems"]["production"]
        assert await student.artifact() == one
        three = publish("three", "production")
        await student.until_served(three)
        assert (await student.models())["problems"] == {}


async def test_an_alias_of_a_deleted_artifact_leaves_the_old_model_serving(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    one, two = publish("one", "production"), publish("two")
    async with running(store) as student:
        await student.until_ready()
        store.set_alias("production", two)
        store.delete(two)
        await student.until(lambda: has_problem(student, "no artifact"))
        assert await student.artifact() == one


async def test_a_removed_alias_leaves_the_old_model_serving(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    one = publish("one", "production")
    async with running(store) as student:
        await student.until_ready()
        (Path(store.root) / "aliases" / "production.json").unlink()
        await student.until(lambda: has_problem(student, "neither an artifact id nor an alias"))
        assert await student.artifact() == one


async def test_a_store_that_fails_in_its_own_way_is_a_problem_that_passes(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    one = publish("one", "production")
    async with running(store) as student:
        await student.until_ready()
        alias = Path(store.root) / "aliases" / "production.json"
        whole = alias.read_text()
        alias.write_text("{")
        await student.until(lambda: has_problem(student, "JSONDecodeError"))
        assert await student.artifact() == one
        alias.write_text(whole)

        async def passed() -> bool:
            return (await student.models())["problems"] == {}

        await student.until(passed)


async def test_a_corrupt_first_model_is_the_reason_for_not_being_ready(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    corrupt(store, publish("one", "production"))
    async with running(store) as student:

        async def explained() -> bool:
            answer = await student.ready()
            assert answer.status_code == 503
            return "differs from its manifest" in answer.text

        await student.until(explained)
        answer = await student.ask()
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "artifact_corrupt")


async def test_a_folder_that_is_no_model_never_becomes_one(
    running: Any, store: Any, publish: Callable[..., str], tmp_path: Path
) -> None:
    one = publish("one", "production")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "card.json").write_text("{}")
    async with running(store) as student:
        await student.until_ready()
        store.set_alias("production", store.publish("model", tmp_path / "empty").id)
        await student.until(lambda: has_problem(student, "no config.json"))
        assert await student.artifact() == one


async def test_a_model_that_failed_is_not_read_again_at_once(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    two = publish("two", "broken")
    publish("one", "production")
    corrupt(store, two)
    async with running(store, retry_seconds=60) as student:
        for _ in range(5):
            assert (await student.ask(model="broken")).status_code == 500
        assert store.read.count(two) == 1


async def test_a_model_that_failed_is_tried_again_later(running: Any, store: Any, publish: Callable[..., str]) -> None:
    one = publish("one", "production")
    path = Path(store.root) / one / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(b"")
    async with running(store, retry_seconds=0.1) as student:
        assert (await student.ask()).status_code == 500
        path.write_bytes(whole)
        await student.until_ready()


async def test_a_slow_load_does_not_hold_up_the_move_of_another_alias(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    one, two = publish("one", "production", "canary"), publish("two")
    async with running(store, max_models=3) as student:
        await student.until_ready()
        await student.artifact(model="canary")
        await student.artifact(model=two)
        store.open.clear()
        publish("three", "production")
        await student.until(lambda: asyncio.sleep(0, len(store.read) == 3))
        store.set_alias("canary", two)

        async def moved() -> bool:
            return bool(await student.artifact(model="canary") == two)

        await student.until(moved)
        assert await student.artifact() == one
        store.open.set()


async def test_a_load_that_fails_in_its_own_way_is_a_problem_and_no_loop(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    one = publish("one", "production")
    async with running(store, retry_seconds=60) as student:
        await student.until_ready()
        store.failure = RuntimeError("the device is out of memory")
        two = publish("two", "production")
        await student.until(lambda: has_problem(student, "RuntimeError: the device is out of memory"))
        await asyncio.sleep(0.3)
        assert store.read.count(two) == 1
        assert await student.artifact() == one


# --- room ----------------------------------------------------------------------------------------------------------


async def test_the_model_asked_longest_ago_is_put_out_but_never_the_default(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    one, two, three = publish("one", "production"), publish("two", "canary"), publish("three")
    async with running(store, max_models=2) as student:
        for name in (None, two, three):
            await student.artifact(model=name)
        assert {model["id"] for model in (await student.models())["data"]} == {one, three}
        assert await student.artifact(model="canary") == two
        assert {model["id"] for model in (await student.models())["data"]} == {one, two}


async def test_a_model_that_is_asked_again_stays(running: Any, store: Any, publish: Callable[..., str]) -> None:
    one, two, three, writer = publish("one", "production"), publish("two"), publish("three"), publish("writer")
    async with running(store, max_models=3) as student:
        for name in (one, two, three, two, writer):
            await student.artifact(model=name)
        assert {model["id"] for model in (await student.models())["data"]} == {one, two, writer}


async def test_with_room_for_one_other_models_still_answer(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    one, two = publish("one", "production"), publish("two", "canary")
    async with running(store, max_models=1) as student:
        await student.until_ready()
        assert await student.artifact(model="canary") == two
        assert [model["id"] for model in (await student.models())["data"]] == [one]
        store.set_alias("production", two)
        await student.until_served(two)
        assert [model["id"] for model in (await student.models())["data"]] == [two]


async def test_many_who_wait_for_one_model_load_it_once(running: Any, store: Any, publish: Callable[..., str]) -> None:
    publish("one", "production")
    two = publish("two", "canary")
    async with running(store) as student:
        await student.until_ready()
        store.open.clear()
        waiting = [asyncio.create_task(student.artifact(model=name)) for name in ("canary", two) * 5]
        await student.until(lambda: asyncio.sleep(0, two in store.read))
        waiting.pop().cancel()  # one that leaves takes the model from nobody
        store.open.set()
        assert set(await asyncio.gather(*waiting)) == {two}
        assert store.read.count(two) == 1


async def test_more_who_wait_for_loading_than_there_is_room_are_sent_away(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    publish("one", "production")
    publish("two", "canary")
    async with running(store, max_loading=1) as student:
        await student.until_ready()
        store.open.clear()
        first = asyncio.create_task(student.ask(model="canary"))
        await student.until(lambda: asyncio.sleep(0, len(store.read) == 2))
        refused = await student.ask(model="canary")
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        store.open.set()
        assert (await first).status_code == 200


async def test_the_service_ends_while_a_model_is_being_loaded(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    publish("one", "production")
    store.open.clear()
    async with running(store) as student:
        await student.until(lambda: asyncio.sleep(0, bool(store.read)))
        asyncio.get_running_loop().call_later(0.1, store.open.set)


async def test_models_are_put_out_when_their_bytes_are_too_many(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    one, two, three = publish("one", "production"), publish("two"), publish("three")
    async with running(store) as student:
        size = 4 * (await student.http.get(f"/v1/models/{one}")).json()["parameters"]
    async with running(store, max_models=9, max_model_bytes=int(2.5 * size)) as student:
        for name in (one, two, three):
            await student.artifact(model=name)
        kept = {model["id"]: model["parameters"] for model in (await student.models())["data"]}
        assert set(kept) == {one, three}
        assert f"understudy_models_bytes {float(4 * sum(kept.values()))}" in (await student.http.get("/metrics")).text
    async with running(store, max_model_bytes=size // 2) as student:
        answer = await student.ask()
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, "model")
        assert f"takes {size:,} bytes" in answer.json()["error"]["message"]
        assert f"models of {size // 2:,} bytes together" in answer.json()["error"]["message"]


def _sizes(store: Any, *artifacts: str) -> list[int]:
    return [4 * parameters(store.folder(artifact)) for artifact in artifacts]


async def test_a_model_that_never_fits_is_refused_unread_and_puts_out_nobody(
    running: Any, store: Any, publish: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = publish("writer", "production"), publish("one")
    sizes = _sizes(store, small, large)
    loaded = []
    load = HFEngine.load
    monkeypatch.setattr(HFEngine, "load", lambda *args, **more: loaded.append(args[2]) or load(*args, **more))
    for budget, words in ((sizes[1] - 1, "choose a smaller one"), (sum(sizes) - 1, "those of production take")):
        async with running(store, max_models=9, max_model_bytes=budget) as student:
            await student.until_ready()
            refused = await student.ask(model=large)
            assert (refused.status_code, refused.json()["error"]["param"]) == (422, "model")
            message = refused.json()["error"]["message"]
            assert f"'{large}' takes {sizes[1]:,} bytes, and this service keeps models of {budget:,} bytes" in message
            assert words in message
            assert [model["id"] for model in (await student.models())["data"]] == [small]
    assert large not in loaded


async def test_a_model_in_use_is_not_put_out_for_another(
    running: Any, store: Any, publish: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = publish("one", "production"), publish("two"), publish("three")
    began, go = threading.Event(), threading.Event()
    predict = HFEngine.predict

    def held(engine: HFEngine, inputs: Any, **options: Any) -> Any:
        if inputs[0].input == "this takes long":
            began.set()
            assert go.wait(60)
        return predict(engine, inputs, **options)

    monkeypatch.setattr(HFEngine, "predict", held)
    async with running(store, max_models=9, max_model_bytes=sum(_sizes(store, one, two))) as student:
        await student.until_ready()
        long = asyncio.create_task(student.ask("this takes long", model=two))
        assert await asyncio.to_thread(began.wait, 60)
        refused = await student.ask(model=three)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "those in memory are in use" in refused.json()["error"]["message"]
        assert {model["id"] for model in (await student.models())["data"]} == {one, two}
        go.set()
        assert (await long).json()["artifact"] == two
        assert await student.artifact(model=three) == three
        assert {model["id"] for model in (await student.models())["data"]} == {one, three}


async def test_the_default_alias_moves_although_there_is_no_room_for_two(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    one, two = publish("one", "production"), publish("two")
    async with running(store, max_model_bytes=max(_sizes(store, one, two))) as student:
        await student.until_ready()
        store.set_alias("production", two)
        await student.until_served(two)
        assert [model["id"] for model in (await student.models())["data"]] == [two]


# --- canary --------------------------------------------------------------------------------------------------------


async def test_a_canary_answers_its_share_of_the_default_aliass_requests(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    one, two = publish("one", "production"), publish("two", "canary")
    async with running(store, canary_share=0.5, max_models=1) as student:

        async def both() -> bool:
            return {model["id"] for model in (await student.models())["data"]} == {one, two}

        await student.until(both)
        answered = [await student.artifact() for _ in range(100)]
        assert 20 <= answered.count(two) <= 80  # beyond that once in 10^9 runs
        assert {await student.artifact(model="canary") for _ in range(20)} == {two}
        assert {await student.artifact(model=one) for _ in range(20)} == {one}


async def test_a_canary_that_cannot_be_served_takes_no_request(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    one = publish("one", "production")
    corrupt(store, publish("two", "canary"))
    async with running(store, canary_share=1.0) as student:
        await student.until_ready()

        async def said() -> bool:
            return "differs from its manifest" in (await student.models())["problems"].get("canary", "")

        await student.until(said)
        assert {await student.artifact() for _ in range(20)} == {one}


async def test_without_a_share_the_canary_is_an_alias_like_others(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    one, two = publish("one", "production"), publish("two", "canary")
    async with running(store) as student:
        assert await student.artifact(model="canary") == two
        assert {await student.artifact() for _ in range(20)} == {one}
