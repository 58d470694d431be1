"""What others see of a job that publishes: its alias moves with the job's end, once, and not for one that is over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.orchestrator.dispatch import sweep
from services.orchestrator.jobs import Event, Item, Job
from services.orchestrator.phases import publish
from services.orchestrator.settings import Settings
from understudy.errors import ArtifactNotFound, LeaseLost, NotFound
from understudy.testing import FakeTeacher


@pytest.fixture
def bench(settings: Settings, teacher: FakeTeacher, database_url: str, make_bench: Any) -> Iterator[Any]:
    one = make_bench(settings.model_copy(update={"database_url": database_url, "lease_seconds": 10.0}), teacher)
    yield one
    one.context.close()


def model(bench: Any, folder: Path, name: str) -> str:
    (folder / name).mkdir()
    (folder / name / "weights").write_text(name)
    return str(bench.context.artifacts.publish("model", folder / name, {"role": "published"}).id)


def begun(bench: Any) -> tuple[Job, Item]:
    """A job whose last item is worked on."""
    job = bench.submit_items(1, phase="publish", queue="control")
    return job, bench.context.leases.claim(bench.item_ids(job, "publish")[0], "a")


def published(bench: Any, artifact: str) -> Job:
    """A job whose last item is done, and which nobody has ended yet."""
    job, item = begun(bench)
    result = publish.Published(model=artifact, result_file="file-report")
    bench.context.leases.complete(item, result.model_dump(), 1)
    return job


def alias(bench: Any) -> str | None:
    try:
        return str(bench.context.artifacts.resolve("production"))
    except ArtifactNotFound:
        return None


def test_a_job_moves_its_alias_when_it_succeeds(bench: Any, tmp_path: Path) -> None:
    made = model(bench, tmp_path, "made")
    job = published(bench, made)
    assert alias(bench) is None
    sweep(bench.context)
    sweep(bench.context)
    assert (bench.context.jobs.get(job.id).status, alias(bench)) == ("succeeded", made)
    (move,) = bench.context.artifacts.moves.history("production")
    assert (move.how, move.by) == ("publish", job.id)


def test_a_job_that_is_cancelled_before_its_end_is_written_moves_nothing(bench: Any, tmp_path: Path) -> None:
    job = published(bench, model(bench, tmp_path, "made"))
    bench.context.flow.end(job.id, "cancelled", Event(message="Job cancelled"))
    sweep(bench.context)
    assert (bench.context.jobs.get(job.id).status, alias(bench)) == ("cancelled", None)


def test_a_job_that_is_paused_moves_its_alias_when_it_goes_on(bench: Any, tmp_path: Path) -> None:
    made = model(bench, tmp_path, "made")
    job = published(bench, made)
    bench.context.flow.pause(job.id)
    sweep(bench.context)
    assert alias(bench) is None
    bench.context.flow.resume(job.id)
    sweep(bench.context)
    assert (bench.context.jobs.get(job.id).status, alias(bench)) == ("succeeded", made)


def test_a_cancel_that_races_the_end_leaves_an_alias_only_of_a_job_that_has_succeeded(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = model(bench, tmp_path, "made")
    job = published(bench, made)
    move, answers = bench.context.artifacts.set_alias, []

    def cancel() -> None:
        try:
            answers.append(bench.context.flow.end(job.id, "cancelled", Event(message="Job cancelled")).status)
        except Exception as error:
            answers.append(str(error))

    late = threading.Thread(target=cancel)

    def slowly(*given: Any, **named: Any) -> Any:
        late.start()
        late.join(0.3)
        assert answers == []  # it waits for the end of the job's transaction
        return move(*given, **named)

    monkeypatch.setattr(bench.context.artifacts, "set_alias", slowly)
    sweep(bench.context)
    late.join()
    assert (bench.context.jobs.get(job.id).status, alias(bench)) == ("succeeded", made)
    assert "it has ended" in answers[0]


def test_a_process_that_dies_before_it_commits_a_jobs_end_leaves_it_to_another_and_the_alias_moves_once(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, better = model(bench, tmp_path, "made"), model(bench, tmp_path, "better")
    job = published(bench, made)
    move = bench.context.artifacts.set_alias

    def die(*given: Any, **named: Any) -> Any:
        move(*given, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(bench.context.artifacts, "set_alias", die)
        with pytest.raises(KeyboardInterrupt):
            sweep(bench.context)
    assert (bench.context.jobs.get(job.id).phase, alias(bench)) == ("publish", made)
    move("production", better, how="promote", by="somebody")  # who has seen it, and does not want it
    sweep(bench.context)
    assert (bench.context.jobs.get(job.id).status, alias(bench)) == ("succeeded", better)
    assert [one.by for one in bench.context.artifacts.moves.history("production")] == [job.id, "somebody"]


def test_a_store_that_cannot_move_the_alias_now_is_named_once_and_asked_again(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = model(bench, tmp_path, "made")
    job, other = published(bench, made), bench.submit_items(1)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("the store does not answer")

    with monkeypatch.context() as away:
        away.setattr(bench.context.artifacts, "set_alias", refuse)
        for _ in range(3):
            sweep(bench.context)
    now = bench.context.jobs.get(job.id)
    assert (now.phase, now.active) == ("publish", True)
    assert (
        bench.messages(job).count(
            "alias 'production' cannot be moved now: OSError: the store does not answer; it is tried again"
        )
        == 1
    )
    assert bench.sent == [(bench.item_ids(other)[0], "annotate")]  # it is in nobody's way
    sweep(bench.context)
    assert (bench.context.jobs.get(job.id).status, alias(bench)) == ("succeeded", made)


def test_a_job_whose_model_is_gone_fails_by_it(bench: Any) -> None:
    job = published(bench, "model-" + 24 * "0")
    sweep(bench.context)
    ended = bench.context.jobs.get(job.id)
    assert (ended.status, ended.error.code) == ("failed", "artifact_not_found")


def test_the_report_of_a_job_that_is_cancelled_meanwhile_is_no_file(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    job, item = begun(bench)
    bench.context.flow.end(job.id, "cancelled", Event(message="Job cancelled"))
    with pytest.raises(LeaseLost):
        publish._keep_report(bench.context, job, item, tmp_path / "report.json", tmp_path / "report")
    with pytest.raises(NotFound):
        bench.context.files.get(f"file-{job.id.removeprefix('ftjob-')}")


def test_the_report_is_a_file_once_also_where_a_slow_worker_keeps_it_again(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    job, item = begun(bench)
    given = (bench.context, job, item, tmp_path / "report.json", tmp_path / "report")
    kept = [publish._keep_report(*given)]
    bench.context.leases.complete(item, {}, 1)
    kept.append(publish._keep_report(*given))
    assert kept == [f"file-{job.id.removeprefix('ftjob-')}"] * 2
    assert [one.id for one in bench.context.files.page(None, 10)[0]] == kept[:1]
