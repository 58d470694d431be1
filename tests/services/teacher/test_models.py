"""Which models are in memory, and who may take one out."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

import services.teacher.models
from services.teacher.engine import Engine, Model, Place
from services.teacher.models import Models
from services.teacher.settings import Settings
from understudy.artifacts import ArtifactStore
from understudy.errors import ModelError, ModelNotFound, Overloaded
from understudy.testing import tiny_classifier

pytestmark = pytest.mark.anyio

MakeSettings = Callable[..., Settings]
Open = Callable[..., AbstractAsyncContextManager[Models]]


@pytest.fixture
def models(settings: MakeSettings) -> Open:
    @asynccontextmanager
    async def run(engine: Engine | None = None, **options: object) -> AsyncIterator[Models]:
        one = Models(engine or Engine(settings(**options)))
        try:
            yield one
        finally:
            await one.stop()

    return run


async def ask(models: Models, ref: str) -> Model:
    async with models.use(ref) as model:
        return model


async def test_models_asked_longest_ago_make_room(models: Open, published: ArtifactStore) -> None:
    names = {published.resolve(alias): alias for alias in ("classifier", "writer", "decoder")}
    seen = []
    async with models(max_models=2) as kept:
        for ref in ("classifier", "writer", "classifier", "decoder", "writer"):
            await ask(kept, ref)
            seen.append([names[info.id] for info in kept.loaded()])
    assert seen == [
        ["classifier"],
        ["classifier", "writer"],
        ["writer", "classifier"],
        ["classifier", "decoder"],
        ["decoder", "writer"],
    ]


async def test_one_model_under_two_names_is_loaded_once(models: Open, published: ArtifactStore) -> None:
    async with models() as kept:
        assert not await kept.is_loaded("classifier")
        one = await ask(kept, "classifier")
        assert await ask(kept, published.resolve("classifier")) is one
        assert await kept.is_loaded("classifier")
        assert await kept.is_loaded(published.resolve("classifier"))
        assert not await kept.is_loaded("writer")


async def test_a_model_that_many_ask_for_at_once_is_loaded_once(models: Open, settings: MakeSettings) -> None:
    loads = []

    class Counting(Engine):
        def load(self, place: Place) -> Model:
            loads.append(place)
            return super().load(place)

    async with models(Counting(settings())) as kept:
        found = await asyncio.gather(*(ask(kept, "classifier") for _ in range(20)))
    assert len({id(model) for model in found}) == len(loads) == 1


async def test_an_alias_that_moved_is_another_model(models: Open, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    prints = []
    async with models(artifacts=str(tmp_path / "artifacts")) as kept:
        for seed in (0, 1):
            store.set_alias("best", store.publish("model", tiny_classifier(tmp_path / str(seed), seed=seed)).id)
            prints.append((await ask(kept, "best")).info.fingerprint)
    assert prints[0] != prints[1]


async def test_a_folder_that_was_trained_again_is_loaded_anew(models: Open, tmp_path: Path) -> None:
    async with models() as kept:
        found = [await ask(kept, str(tiny_classifier(tmp_path / "mine", seed=seed))) for seed in (0, 1)]
        assert found[0].info.fingerprint != found[1].info.fingerprint
        assert len(kept.loaded()) == 1
        assert await ask(kept, str(tmp_path / "mine")) is found[1]


async def test_models_are_kept_within_a_budget_of_bytes(models: Open) -> None:
    async with models(max_models=9) as kept:
        sizes = {ref: (await ask(kept, ref)).bytes for ref in ("classifier", "writer", "decoder")}
        assert kept.bytes == sum(sizes.values())
    budget = sizes["classifier"] + max(sizes["writer"], sizes["decoder"]) + 5000
    async with models(max_models=9, max_model_bytes=budget) as kept:
        for ref in ("writer", "classifier", "decoder"):
            await ask(kept, ref)
            assert kept.bytes <= budget
        assert [info.architecture for info in kept.loaded()] == ["classifier", "causal"]


async def test_a_model_that_can_never_fit_is_refused_before_it_is_loaded_and_before_others_go(
    models: Open, settings: MakeSettings
) -> None:
    loads: list[str] = []

    class Watched(Engine):
        def load(self, place: Place) -> Model:
            loads.append(place.key)
            return super().load(place)

    async with models(Watched(settings(max_model_bytes=60_000))) as kept:
        await ask(kept, "writer")
        with pytest.raises(ModelError, match="and this service keeps models of 60000 bytes together") as caught:
            await ask(kept, "decoder")
        assert caught.value.param == "model"
        assert len(loads) == 1
        assert len(kept.loaded()) == 1


async def test_a_model_whose_size_is_not_known_before_is_measured_when_it_is_there(
    models: Open, settings: MakeSettings
) -> None:
    class Hub(Engine):
        def size(self, place: Place) -> int | None:
            return None if place == self.find("decoder") else super().size(place)

    async with models(Hub(settings(max_models=9, max_model_bytes=100_000))) as kept:
        await ask(kept, "classifier")
        await ask(kept, "decoder")
        assert [info.architecture for info in kept.loaded()] == ["causal"]
    async with models(Hub(settings(max_model_bytes=60_000))) as kept:
        with pytest.raises(ModelError, match="keeps models of 60000 bytes"):
            await ask(kept, "decoder")
        assert kept.loaded() == []


async def test_a_model_at_work_is_not_taken_from_under_its_request(models: Open) -> None:
    async with models(max_models=1) as kept:
        async with kept.use("classifier") as model:
            other = asyncio.create_task(ask(kept, "writer"))
            await asyncio.sleep(0.1)
            assert not other.done()
            assert model.lengths(["still here"], None)
            again = asyncio.create_task(ask(kept, "classifier"))
        await asyncio.gather(other, again)  # in whichever order they come to their turn
        assert len(kept.loaded()) == 1


async def test_requests_that_never_end_do_not_block_the_others_for_ever(
    models: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.teacher.models, "PATIENCE", 0.05)
    async with models(max_models=1) as kept, kept.use("classifier") as model:
        with pytest.raises(Overloaded, match="has 1 requests"):
            await ask(kept, "writer")
        assert await ask(kept, "classifier") is model


async def test_a_model_that_nobody_needs_makes_room_before_one_at_work(
    models: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.teacher.models, "PATIENCE", 0.05)
    async with models(max_models=2) as kept, kept.use("classifier") as model:
        for ref in ("writer", "decoder"):
            await ask(kept, ref)
        assert [info.architecture for info in kept.loaded()] == ["classifier", "causal"]
        assert await ask(kept, "classifier") is model


async def test_models_that_are_asked_at_once_beside_one_at_work_do_not_push_each_other_out_unused(
    models: Open, settings: MakeSettings
) -> None:
    loads: list[str] = []

    class Quick(Engine):
        def size(self, _: Place) -> int | None:
            return None

        def load(self, place: Place) -> Model:
            loads.append(place.key)
            return super().load(place)

        def find(self, ref: str) -> Place:
            time.sleep(0.02)  # a store that is far away
            return super().find(ref)

    async with models(Quick(settings(max_models=2))) as kept, kept.use("classifier"):
        await asyncio.gather(ask(kept, "writer"), ask(kept, "decoder"))
    assert len(loads) == 3


async def test_a_model_that_was_to_make_room_and_stayed_answers_who_asked_meanwhile(
    models: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.teacher.models, "PATIENCE", 0.2)
    async with models(max_models=1) as kept, kept.use("classifier") as model:
        other = asyncio.create_task(ask(kept, "writer"))
        await asyncio.sleep(0.05)
        again = asyncio.create_task(ask(kept, "classifier"))
        with pytest.raises(Overloaded):
            await other
        assert await again is model


async def test_a_model_is_unloaded_by_name_when_its_requests_have_ended(models: Open, published: ArtifactStore) -> None:
    async with models() as kept:
        gone = weakref.ref((await ask(kept, "classifier")).adapter.model)
        async with kept.use("classifier"):
            unloading = asyncio.create_task(kept.unload(published.resolve("classifier")))
            await asyncio.sleep(0.05)
            assert not unloading.done()
        await unloading
        assert kept.loaded() == []
        with pytest.raises(ModelNotFound, match="the models in memory are none"):
            await kept.unload("classifier")
        gc.collect()
        assert gone() is None


async def test_a_failure_to_load_is_told_to_all_who_wait_and_tried_again_later(models: Open, tmp_path: Path) -> None:
    async with models() as kept:
        place = str(tmp_path / "later")
        answers = await asyncio.gather(*(ask(kept, place) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(answer, ModelNotFound) for answer in answers)
        tiny_classifier(tmp_path / "later")
        assert (await ask(kept, place)).info.architecture == "classifier"


async def test_a_caller_that_leaves_while_a_model_is_loaded_leaves_it_to_the_others(
    models: Open, settings: MakeSettings
) -> None:
    release = threading.Event()

    class Slow(Engine):
        def load(self, place: Place) -> Model:
            release.wait(10)
            return super().load(place)

    async with models(Slow(settings())) as kept:
        first, second = (asyncio.create_task(ask(kept, "classifier")) for _ in range(2))
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.sleep(0.01)
        release.set()
        assert (await second).info.architecture == "classifier"
