"""What teachers said before: asked once, found by everything that decides the answer, and never believed blindly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from stand.bench import LABELS, Bench
from stand.listening import Listening

from services.orchestrator.database import Database, rationales
from services.orchestrator.jobs import Event
from services.orchestrator.rationales import Rationales, keys_of
from services.orchestrator.settings import Settings
from services.teacher.app import create_app as teacher_app
from services.teacher.settings import Settings as TeacherSettings
from understudy.artifacts import ArtifactStore
from understudy.data.parquet import AnnotatedExample, write_annotated
from understudy.errors import Conflict
from understudy.schemas import (
    Attribution,
    AttributionExample,
    AttributionRequest,
    Example,
    ModelInfo,
    Word,
)
from understudy.testing import FakeTeacher, tiny_classifier

INFO = ModelInfo(
    id="teacher",
    architecture="classifier",
    parameters=1,
    max_tokens=512,
    fingerprint="0" * 16,
    precision="float32",
    device="cpu",
)
ASKED = AttributionRequest(
    model="teacher", examples=(AttributionExample(id="1", input="a b", output="x"),), labels=("x", "y")
)


def key(info: dict[str, Any] | None = None, example: dict[str, Any] | None = None, **changes: Any) -> str:
    examples = (ASKED.examples[0].model_copy(update=example or {}),)
    (found,) = keys_of(ASKED.model_copy(update={"examples": examples, **changes}), INFO.model_copy(update=info or {}))
    return found


@pytest.mark.parametrize(
    "changed",
    [
        {"example": {"input": "a c"}},
        {"example": {"output": "y"}},
        {"example": {"choices": ("x", "y")}},
        {"labels": ("x", "z")},
        {"labels": ("y", "x")},
        {"template": "Say: {input}"},
        {"method": "integrated_gradients"},
        {"settings": {"norm": "l2"}},
        {"target": "gold"},
        {"aggregation": "mean"},
        {"top_k": 3},
        {"token_probabilities": 4},
        {"info": {"fingerprint": "1" * 16}},
        {"info": {"precision": "bfloat16"}},
    ],
    ids=str,
)
def test_a_key_changes_with_all_that_decides_the_answer(changed: dict[str, Any]) -> None:
    assert key(**changed) != key()


@pytest.mark.parametrize("changed", [{"example": {"id": "2"}}, {"model": "an alias"}, {"info": {"id": "other"}}])
def test_a_key_does_not_change_with_names(changed: dict[str, Any]) -> None:
    assert key(**changed) == key()


@pytest.fixture
def known(database_url: str, store: ArtifactStore) -> Iterator[Rationales]:
    database = Database(database_url)
    yield Rationales(database, store)
    database.close()


def example(n: int) -> Example:
    return Example(id=f"row-{n}", input=f"text {n}", output="x")


def attribution(n: int) -> Attribution:
    words = (Word(text="text", start=0, end=4, score=0.1 + n),)
    return Attribution(
        id=f"row-{n}",
        prediction="x",
        probability=1 / 3,
        probabilities={"x": 1 / 3, "y": 2 / 3},
        explained="x",
        words=words,
        rationale=words,
        tokens=3,
    )


@pytest.fixture
def publish(store: ArtifactStore, tmp_path: Path) -> Callable[[list[int]], str]:
    def make(numbers: list[int]) -> str:
        folder = tmp_path / "-".join(map(str, numbers))
        folder.mkdir()
        rows = [AnnotatedExample(example=example(n), attribution=attribution(n)) for n in numbers]
        write_annotated(folder / "shard.parquet", rows)
        return store.publish("shard", folder).id

    return make


def test_an_answer_comes_back_bit_by_bit_under_the_new_examples_name(known: Rationales, publish: Any) -> None:
    known.keep(["k1", "k2"], publish([1, 2]))
    known.keep(["k3"], publish([3]))
    asked = [example(3).model_copy(update={"id": "new"}), example(9), example(1)]
    first, nothing, third = known.find(["k3", "k9", "k1"], asked)
    assert first == attribution(3).model_copy(update={"id": "new"})
    assert nothing is None
    assert third == attribution(1)
    assert known.find(["k1"] * 3, [example(1).model_copy(update={"id": name}) for name in "abc"])[1].id == "b"  # type: ignore[union-attr]


def test_an_entry_that_points_to_another_example_is_not_believed(known: Rationales, publish: Any) -> None:
    known.keep(["k1", "k2", "k3"], publish([2, 1]))  # swapped, and one too many
    assert known.find(["k1", "k2", "k3"], [example(1), example(2), example(3)]) == [None] * 3


@pytest.mark.parametrize("damage", ["gone", "flipped"])
def test_a_shard_that_is_gone_or_damaged_is_asked_again(
    known: Rationales, publish: Any, store: ArtifactStore, damage: str
) -> None:
    shard = publish([1])
    known.keep(["k1"], shard)
    file = Path(store.root) / shard / "shard.parquet"
    if damage == "gone":
        store.delete(shard)
    else:
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert known.find(["k1"], [example(1)]) == [None]
    assert known.folder("k1") is None


def test_noting_the_same_keys_again_keeps_the_newest(known: Rationales, publish: Any, store: ArtifactStore) -> None:
    old = publish([1, 2])
    known.keep(["k1", "k2"], old)
    known.keep(["k2"], publish([2]))
    store.delete(old)
    assert known.find(["k1", "k2"], [example(1), example(2)]) == [None, attribution(2)]


def annotated(bench: Bench, content: str, **spec: Any) -> list[str]:
    job = bench.submit(training_file=bench.upload(content), spec=spec)
    done = bench.work(job, until="train")
    assert done.phase == "train", done.error
    bench.context.flow.end(job.id, "cancelled", Event(message="Job cancelled"))
    bench.sent.clear()
    return [result["shard"] for result in bench.context.flow.results(job.id, "annotate")]


def asked(teacher: FakeTeacher) -> int:
    count = sum(len(getattr(request, "examples", ())) for request in teacher.requests)
    teacher.requests.clear()
    return count


def test_the_same_job_again_asks_the_teacher_nothing_and_has_the_same_shards(
    bench: Bench, teacher: FakeTeacher, rows: Any
) -> None:
    first = annotated(bench, rows(80))
    assert asked(teacher) > 60
    assert annotated(bench, rows(80)) == first
    assert asked(teacher) == 0
    assert any(
        "which it has explained before" in line for line in bench.messages(bench.context.jobs.page(None, 1)[0][0])
    )


def test_a_job_with_some_new_rows_asks_for_those_alone(bench: Bench, teacher: FakeTeacher, rows: Any) -> None:
    for count in (80, 120):
        before = _known(bench)
        annotated(bench, rows(count))
        asked_for = asked(teacher)
        new = _known(bench) - before
        assert new > 20
        assert new <= asked_for <= new + 16  # preflight's are asked for twice where they are new


def _known(bench: Bench) -> int:
    with bench.context.database.read() as sql:
        return sql.scalar(select(func.count()).select_from(rationales)) or 0


def test_another_teacher_or_other_options_are_asked_anew(bench: Bench, teacher: FakeTeacher, rows: Any) -> None:
    first = annotated(bench, rows(80))
    everything = asked(teacher)
    annotated(bench, rows(80), attribution={"top_k": 2})
    assert asked(teacher) == everything
    teacher.fingerprint = "f" * 16
    assert annotated(bench, rows(80)) == first  # the fake says the same whatever it is called
    assert asked(teacher) == everything


def test_a_teacher_that_answers_as_another_than_it_said_it_is_fails_the_job(
    settings: Settings, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = FakeTeacher()
    bench = Bench(settings, teacher)
    honest = teacher._attributions
    monkeypatch.setattr(
        teacher, "_attributions", lambda request: honest(request).model_copy(update={"fingerprint": "f" * 16})
    )
    failed = bench.work(bench.submit(training_file=bench.upload(rows(80))))
    assert failed.error is not None
    assert failed.error.code == Conflict.code
    with bench.context.database.read() as sql:
        assert sql.scalar(select(func.count()).select_from(rationales)) == 0
    bench.context.close()


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """The real teacher service with a tiny model behind real HTTP: its address, and what it is asked to work on."""
    store, asked = ArtifactStore(tmp_path / "teachers"), list[str]()
    folder = tiny_classifier(tmp_path / "tiny", labels=LABELS, seed=10)  # one that says two things
    store.set_alias("teacher", store.publish("model", folder).id)
    app = teacher_app(TeacherSettings(artifacts=store.root, model="teacher", device="cpu"))

    @app.middleware("http")
    async def count(request: Any, answer: Any) -> Any:
        if request.method == "POST":
            asked.append(request.url.path)
        return await answer(request)

    with Listening(app).until_ready() as service:
        yield service.url, asked


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("fork_server")
def test_the_same_job_again_makes_no_call_of_a_real_teacher_from_its_beginning_to_its_end(
    settings: Settings, counted: tuple[str, list[str]], rows: Any
) -> None:
    url, asked = counted
    bench = Bench(settings.model_copy(update={"teacher_urls": (url,)}), None)  # type: ignore[arg-type]
    file_id = bench.upload(rows(80))
    done = []
    for _ in range(2):
        spec = {"recipe": "finetune", "hyperparameters": {"max_steps": 2}}
        done.append(bench.work(bench.submit(training_file=file_id, spec=spec), seconds=280))
        assert done[-1].status == "succeeded", done[-1].error
        if len(done) == 1:
            assert {"/v1/attributions", "/v1/predictions"} <= set(asked)
            asked.clear()
    assert asked == []
    first, again = ([r["shard"] for r in bench.context.flow.results(job.id, "annotate")] for job in done)
    assert first == again
    bench.context.close()
