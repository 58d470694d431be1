"""Garbage collection: nothing goes that anybody needs and all else does, whoever races with it, wherever it dies."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select
from stand.bench import Bench, Clock
from typer.testing import CliRunner

from services.orchestrator.database import Database, files, idempotency_keys, rationales, work_items
from services.orchestrator.flow import Next
from services.orchestrator.garbage import Collector, Janitor, main
from services.orchestrator.jobs import ENDED, Job, NewItem, Status, new_id
from services.orchestrator.migrate import migrate
from services.orchestrator.needs import Bounds
from services.orchestrator.settings import Settings
from services.orchestrator.store import write_job
from understudy.artifacts import ArtifactStore
from understudy.cli import app
from understudy.errors import ArtifactNotFound, Conflict
from understudy.testing import FakeTeacher

DAY = 24 * 3600.0
OLD = time.time() - 100 * DAY
BOUNDS = Bounds(retention=30 * DAY, grace=DAY, cache_bytes=10**9, cache_seconds=180 * DAY)


class Yard:
    """A database and a store, ten days from now: everything in them is old, unless a test makes it young."""

    def __init__(self, settings: Settings, root: str, bounds: Bounds = BOUNDS) -> None:
        self.clock = Clock()
        self.clock.now = time.time() + 10 * DAY
        self.bench = Bench(settings.model_copy(update={"artifacts": root}), FakeTeacher(), self.clock)
        self.database, self.store = self.bench.context.database, self.bench.context.artifacts
        self.folder, self.bounds = settings.home / "made", bounds

    def collector(self, store: ArtifactStore | None = None) -> Collector:
        work = self.bench.context.settings.work
        return Collector(self.database, store or self.store, self.bounds, work, self.clock)

    def made(self, name: str, size: int = 10) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(name)
        (folder / "weights.bin").write_bytes(name.encode() * size)
        return folder

    def publish(self, kind: Any, name: str, **meta: Any) -> str:
        return self.store.publish(kind, self.made(name), meta).id

    def dated(self, artifact: str, at: float) -> None:
        """As if it had been published then."""
        path = f"{self.store.root}/{artifact}/manifest.json"
        record = json.loads(self.store.fs.cat_file(path)) | {"created_at": int(at)}
        self.store.fs.pipe_file(path, json.dumps(record).encode())

    def young(self, artifact: str) -> None:
        self.dated(artifact, self.clock.now - DAY / 2)

    def used(self, artifact: str, at: float) -> None:
        """As if it had been used then."""
        self.store.use(artifact)
        self.store.fs.pipe_file(f"{self.store.root}/used/{artifact}", str(at).encode())

    def job(self, status: Status = "running", days_ago: float = 0.0, **changes: Any) -> Job:
        """A job in the database; one that has ended did so many days ago."""
        ended = int(self.clock.now - days_ago * DAY) if status in ENDED else None
        job = self.bench.job(status=status, finished_at=ended, phase="train", **changes)
        self.bench.context.flow.submit(job, Next("train", [NewItem()]))
        return job

    def answer(self, job: Job, *artifacts: str) -> None:
        """What the job's items have answered."""
        result = {"artifacts": list(artifacts)}
        with self.database.write() as sql:
            sql.execute(work_items.update().where(work_items.c.job_id == job.id).values(result=result, state="done"))

    def facts(self, job: Job, **changes: Any) -> None:
        with self.database.write() as sql:
            write_job(sql, job.with_facts(**changes))

    def whole(self, artifact: str) -> bool:
        """Whether it is there with every byte; half of one is an error."""
        fresh = ArtifactStore(self.store.url, cache=self.folder / uuid.uuid4().hex)
        try:
            fresh.folder(artifact)
        except ArtifactNotFound:
            return False
        return True

    def two_rounds(self) -> None:
        self.collector().collect()
        self.clock.now += self.bounds.grace + 1
        self.collector().collect()


S3 = os.environ.get("UNDERSTUDY_TEST_S3")
"""A bucket to use as well, `s3://name`, where AWS_ENDPOINT_URL and the credentials are in the environment."""


@pytest.fixture(params=["folder", "memory", *(["s3"] if S3 else [])])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    remote = {"memory": f"memory://{uuid.uuid4().hex}", "s3": f"{S3}/{uuid.uuid4().hex}"}
    return str(tmp_path / "artifacts") if request.param == "folder" else f"{remote[request.param]}/artifacts"


@pytest.fixture
def yard(make_settings: Callable[[Path], Settings], tmp_path: Path, root: str) -> Iterator[Yard]:
    one = Yard(make_settings(tmp_path), root)
    yield one
    one.bench.context.close()


# --- what goes and what stays --------------------------------------------------------------------------------------


def test_what_an_ended_job_made_goes_when_its_retention_is_over_but_for_its_model_and_its_papers(yard: Yard) -> None:
    job = yard.job("succeeded", days_ago=29)
    arm = yard.publish("model", "arm", role="arm", job_id=job.id)
    best = yard.publish("model", "best", role="published", job_id=job.id)
    papers = yard.publish("report", "papers", job_id=job.id)
    dataset = yard.publish("dataset", "rows")
    yard.answer(job, arm)
    yard.facts(job, dataset=dataset, report=papers)
    yard.two_rounds()
    assert all(map(yard.whole, (arm, best, papers)))
    assert yard.whole(dataset)
    yard.clock.now += 2 * DAY
    yard.two_rounds()
    assert [yard.whole(one) for one in (arm, dataset, best, papers)] == [False, False, True, True]


@pytest.mark.parametrize("status", ["validating_files", "queued", "running", "paused"])
def test_all_that_a_job_mentions_stays_however_long_it_has_not_ended(yard: Yard, status: Status) -> None:
    student, shard = yard.publish("model", "student", job_id="ftjob-other"), yard.publish("shard", "s", job_id="x")
    teacher, dataset = yard.publish("model", "teacher", job_id="ftjob-other"), yard.publish("dataset", "rows")
    yard.collector().collect(adopt=True)
    job = yard.job(status, model=f"cut:2@{student}", spec={"teacher": {"model": teacher}})
    yard.answer(job, shard)
    yard.facts(job, dataset=dataset)
    yard.clock.now += 1000 * DAY
    yard.two_rounds()
    assert all(map(yard.whole, (student, teacher, shard, dataset)))


def test_what_an_alias_names_stays_and_what_it_named_as_long_as_one_may_want_it_back(yard: Yard) -> None:
    job = yard.job("failed", days_ago=100)
    first, second, third = (yard.publish("model", name, role="arm", job_id=job.id) for name in ("1", "2", "3"))
    for one in (first, second, third):
        yard.store.set_alias("production", one)
    yard.two_rounds()
    assert all(map(yard.whole, (first, second, third)))  # moved 11 days ago, by the yard's clock
    yard.clock.now += 30 * DAY
    yard.two_rounds()
    assert [yard.whole(one) for one in (first, second, third)] == [False, True, True]
    assert yard.store.resolve("production") == third


def test_an_artifact_is_left_alone_for_the_grace_period_after_it_was_made_used_or_marked(yard: Yard) -> None:
    fresh, used, old = (yard.publish("dataset", name) for name in ("fresh", "used", "old"))
    yard.young(fresh)
    first = yard.collector().collect()
    assert {one.name: one.what for one in first.fates} == {fresh: "kept", used: "marked", old: "marked"}
    yard.clock.now += DAY + 1
    yard.used(used, yard.clock.now)
    second = {one.name: one.what for one in yard.collector().collect().fates}
    assert second == {fresh: "marked", used: "kept", old: "removed"}
    assert yard.whole(fresh)
    yard.clock.now += DAY + 1
    assert {one.name: one.what for one in yard.collector().collect().fates} == {fresh: "removed", used: "marked"}
    assert not yard.store.fs.exists(f"{yard.store.root}/used/{old}")


def test_a_mark_does_not_outlive_the_time_in_which_nobody_needed_it(yard: Yard) -> None:
    dataset = yard.publish("dataset", "rows")
    yard.collector().collect()
    job = yard.job("running")
    yard.facts(job, dataset=dataset)
    yard.clock.now += DAY + 1
    yard.collector().collect()
    yard.bench.context.flow.end(job.id, "cancelled", yard.bench.context.jobs.events(job.id, None, 1)[0][0].event)
    yard.clock.now += 31 * DAY
    (fate,) = yard.collector().collect().fates
    assert (fate.what, fate.bytes) == ("marked", 44)
    assert "retention is over: `reproduce` cannot use it" in fate.reason
    assert yard.whole(dataset)
    (fate,) = yard.collector().collect(at_once=True).fates
    assert (fate.what, yard.whole(dataset)) == ("removed", False)


def test_a_dry_run_says_all_and_changes_nothing(yard: Yard) -> None:
    dataset = yard.publish("dataset", "rows")
    before = sorted(yard.store.fs.find(yard.store.root))
    result = yard.collector().collect(dry_run=True, at_once=True)
    assert [(one.name, one.what) for one in result.fates] == [(dataset, "removed")]
    assert sorted(yard.store.fs.find(yard.store.root)) == before


def test_a_file_stays_while_a_row_holds_it(yard: Yard) -> None:
    kept = yard.bench.context.files.get(yard.bench.upload("a")).artifact
    gone = yard.bench.context.files.get(file_id := yard.bench.upload("b")).artifact
    yard.bench.context.files.delete(file_id)
    yard.two_rounds()
    assert (yard.whole(kept), yard.whole(gone)) == (True, False)


def test_the_cache_of_rationales_loses_what_was_used_longest_ago(yard: Yard) -> None:
    job = yard.job("succeeded", days_ago=100)
    shards = [yard.publish("shard", f"s{i}", job_id=job.id) for i in range(4)]
    for i, shard in enumerate(shards):
        yard.bench.context.rationales.keep([f"k{i}"], shard)
        yard.dated(shard, yard.clock.now - 100 * DAY)
        yard.used(shard, yard.clock.now - (10 + i) * DAY)
    forgotten = yard.publish("shard", "no entry", job_id=job.id)
    yard.bounds = replace(yard.bounds, cache_bytes=yard.store.get(shards[0]).bytes * 3, cache_seconds=12.5 * DAY)
    yard.collector().collect(at_once=True)
    assert [yard.whole(one) for one in shards] == [True, True, True, False]
    assert not yard.whole(forgotten)
    with yard.database.read() as sql:
        assert set(sql.scalars(select(rationales.c.key))) == {"k0", "k1", "k2"}
    yard.clock.now += DAY  # the third was last used 13 days ago now
    yard.collector().collect(at_once=True)
    assert [yard.whole(one) for one in shards] == [True, True, False, False]
    running = yard.job("running")
    yard.answer(running, shards[1])
    yard.clock.now += 100 * DAY
    yard.collector().collect(at_once=True)
    assert [yard.whole(one) for one in shards] == [False, True, False, False]


def test_what_no_job_made_stays(yard: Yard) -> None:
    mine = yard.publish("model", "brought here by hand")
    yard.two_rounds()
    assert yard.whole(mine)


def test_parts_work_folders_and_keys_that_nobody_completes_go(yard: Yard) -> None:
    store, work = yard.store, yard.bench.context.settings.work
    part, half = f"{store.root}/model-{'0' * 24}.{'a' * 32}.part", f"{store.root}/model-{'1' * 24}"
    for place in (part, half):
        store.fs.makedirs(place, exist_ok=True)
        store.fs.pipe_file(f"{place}/weights.bin", b"1234")
    item = yard.bench.item_ids(yard.job("running"), "train")[0]
    for name in (item, "item-unknown"):
        (work / name / "checkpoints").mkdir(parents=True)
        (work / name / "checkpoints" / "state").write_bytes(b"12")
    with yard.database.write() as sql:
        values = {"scope": "s", "key": "k", "token": "t", "content": "c", "taken_at": yard.clock.now - 2 * DAY}
        sql.execute(insert(idempotency_keys).values(values))
    result = yard.collector().collect()
    assert not store.fs.exists(part)
    assert not store.fs.exists(half)
    assert [path.name for path in work.iterdir()] == [item]
    assert result.expired_keys == 1
    assert {one.kind for one in result.of("removed")} == {"part", "work folder"}


def test_parts_that_are_being_written_stay(yard: Yard) -> None:
    yard.clock.now = time.time()
    half = f"{yard.store.root}/model-{'1' * 24}"
    yard.store.fs.makedirs(half, exist_ok=True)
    yard.store.fs.pipe_file(f"{half}/weights.bin", b"1234")
    yard.collector().collect(at_once=True)
    assert yard.store.fs.exists(f"{half}/weights.bin")


def test_a_store_of_another_installation_is_not_touched(
    yard: Yard, make_settings: Callable[[Path], Settings], tmp_path: Path, root: str
) -> None:
    job = yard.job("succeeded", days_ago=100)
    arm = yard.publish("model", "arm", role="arm", job_id=job.id)
    other = Yard(make_settings(tmp_path / "other"), root)
    with pytest.raises(Conflict, match="are not in this database"):
        other.collector().collect(at_once=True)
    yard.collector().collect()
    with pytest.raises(Conflict, match="belong to another installation"):
        other.collector().collect(at_once=True)
    assert yard.whole(arm)
    other.collector().collect(at_once=True, adopt=True)
    assert not yard.whole(arm)
    other.bench.context.close()


# --- at random -----------------------------------------------------------------------------------------------------

STATUSES: tuple[Status, ...] = ("validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled")


def scatter(yard: Yard, rng: random.Random) -> tuple[set[str], set[str]]:
    """Jobs, aliases, files and artifacts at random, some shared; which of these are needed, and which are not.

    Written down as it is made, and not worked out as the collector does it.
    """
    needed: set[str] = set()
    made: set[str] = set()

    def artifact(kind: Any, **meta: Any) -> str:
        one = yard.publish(
            kind, f"{kind} {rng.randrange(12)}", **{"job_id": first.id, **meta}
        )  # few, so that many share
        made.add(one)
        return one

    first = yard.job("succeeded", days_ago=1000)
    for _ in range(rng.randrange(1, 10)):
        status, days = rng.choice(STATUSES), rng.choice((1.0, 20.0, 45.0, 100.0))
        dataset, teacher, arms = artifact("dataset"), artifact("model"), [artifact("model") for _ in range(3)]
        shards, papers, best = [artifact("shard") for _ in range(2)], artifact("report"), None
        files_of = artifact("file")
        job = yard.job(status, days, model=rng.choice(("scratch:bert-1x16", artifact("model"))))
        yard.answer(job, *arms, *shards)
        if status == "succeeded":
            best = yard.publish("model", f"published {rng.random()}", role="published", job_id=job.id)
        with yard.database.write() as sql:
            write_job(
                sql,
                job.with_facts(dataset=dataset, teacher=teacher, report=papers).model_copy(
                    update={"fine_tuned_model": best}
                ),
            )
        if status not in ENDED or days < 30:
            needed |= {dataset, teacher, *arms, *shards, *({job.model} & made)}
        needed |= {papers} | ({best} if best else set())
        if rng.random() < 0.5:
            with yard.database.write() as sql:
                values = {"id": new_id("file-"), "created_at": 0, "filename": "f", "purpose": "p", "bytes": 1}
                sql.execute(insert(files).values(artifact=files_of, **values))
            needed.add(files_of)
    models = sorted(one for one in made if one.startswith("model"))
    for name in ("production", "canary"):
        for target in rng.sample(models, k=min(len(models), rng.randrange(3))):
            yard.store.set_alias(name, target)
            needed.add(target)  # moved within the retention, so that what was named before stays as well
    for one in sorted(made - needed):
        if rng.random() < 0.1:
            yard.young(one)
            needed.add(one)
        elif one.startswith("shard") and rng.random() < 0.5:
            yard.bench.context.rationales.keep([uuid.uuid4().hex], one)
            needed.add(one)  # the bounds of the cache are far
    return needed, made - needed


@pytest.mark.parametrize("seed", range(3))
def test_whatever_there_is_what_is_needed_stays_whole_and_the_rest_goes(yard: Yard, seed: int) -> None:
    needed, free = scatter(yard, random.Random(seed))
    yard.bounds = replace(yard.bounds, grace=0.75 * DAY)
    # Published again, and aliased: that was now, and the yard's clock is ten days later.
    yard.collector().collect(at_once=True)
    assert {one for one in needed if not yard.whole(one)} == set()
    assert {one for one in free if yard.store.exists(one)} == set()
    assert all(name.split("/")[0] != "removed" or name.endswith("lock") for name in _paths(yard.store))


def _paths(store: ArtifactStore) -> list[str]:
    return [path.removeprefix(store.root).lstrip("/") for path in store.fs.find(store.root)]


# --- races ---------------------------------------------------------------------------------------------------------


class Watched(ArtifactStore):
    """A store that lets somebody else act just before or just after one of its steps."""

    act: Callable[[], None]
    at: tuple[str, str]

    def __init__(self, root: str) -> None:
        super().__init__(root)
        for owner, name in (
            (self, "inventory"),
            (self, "used_at"),
            (self.removals, "set_aside"),
            (self.removals, "purge"),
        ):
            setattr(owner, name, self._watched(name, getattr(owner, name)))

    def _watched(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            if self.at == ("before", name):
                self.act()
            found = step(*arguments)
            if self.at == ("after", name):
                self.act()
            return found

        return watched


STEPS = [(when, step) for step in ("inventory", "set_aside", "used_at", "purge") for when in ("before", "after")]


def race(yard: Yard, at: tuple[str, str], other: Callable[[], object]) -> None:
    """A round in which another thread begins `other` at that step, the first time that it comes."""
    yard.clock.now = time.time() + 10 * DAY
    yard.bounds = replace(yard.bounds, grace=10.5 * DAY)  # what is used now, really now, is used just now
    store = Watched(yard.store.url)
    store.at = at
    begun: list[threading.Thread] = []

    def act() -> None:
        if not begun:
            begun.append(threading.Thread(target=other))
            begun[0].start()
            begun[0].join(0.5)  # it may have to wait until the round is over

    store.act = act
    yard.collector(store).collect(at_once=True)
    for thread in begun:
        thread.join(90)
        assert not thread.is_alive()


@pytest.mark.parametrize("at", STEPS, ids=" ".join)
def test_the_same_content_published_meanwhile_is_there_and_whole(yard: Yard, at: tuple[str, str]) -> None:
    dataset = yard.publish("dataset", "rows")
    yard.dated(dataset, OLD)
    race(yard, at, lambda: yard.publish("dataset", "rows"))
    assert yard.whole(dataset)


@pytest.mark.parametrize("at", STEPS, ids=" ".join)
def test_an_alias_that_is_set_meanwhile_names_what_is_there_or_is_refused(yard: Yard, at: tuple[str, str]) -> None:
    job = yard.job("failed", days_ago=100)
    arm = yard.publish("model", "arm", role="arm", job_id=job.id)
    yard.dated(arm, OLD)

    def name_it() -> None:
        try:
            yard.store.set_alias("production", arm)
        except ArtifactNotFound:
            assert yard.store.moves.get("production") is None

    race(yard, at, name_it)
    assert yard.store.moves.get("production") is None or yard.whole(arm)
    if at in (("before", "inventory"), ("after", "inventory"), ("before", "used_at")):
        assert yard.whole(arm)


@pytest.mark.parametrize("at", [("before", "inventory"), ("after", "inventory"), ("before", "used_at")], ids=" ".join)
def test_a_job_that_was_submitted_before_the_last_look_keeps_what_it_names(yard: Yard, at: tuple[str, str]) -> None:
    job = yard.job("failed", days_ago=100)
    student = yard.publish("model", "student", role="arm", job_id=job.id)
    yard.dated(student, OLD)
    race(yard, at, lambda: yard.job("running", model=student))
    assert yard.whole(student)


# --- killed --------------------------------------------------------------------------------------------------------

KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from services.orchestrator.database import Database
from services.orchestrator.garbage import Collector
from services.orchestrator.needs import Bounds
from understudy.artifacts import ArtifactStore

DAY = 24 * 3600.0
home, now = Path(sys.argv[1]), float(sys.argv[2])

def round_of(place):
    database = Database(f"sqlite:///{place / 'understudy.db'}")
    bounds = Bounds(retention=30 * DAY, grace=DAY, cache_bytes=0, cache_seconds=0)
    Collector(database, ArtifactStore(place / "artifacts"), bounds, clock=lambda: now).collect(at_once=True)
    database.close()

def killed_at(step, place):
    left = [step]
    def hook(event, arguments):
        if event in ("os.rename", "os.remove", "os.rmdir") and str(place / "artifacts") in str(arguments[0]):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    round_of(place)

step, alive = 0, False
while not alive:
    step += 1
    place = home / f"killed-{step}"
    shutil.copytree(home / "template", place)
    child = os.fork()
    if child == 0:
        killed_at(step, place)
        os._exit(0)
    alive = os.waitpid(child, 0)[1] == 0
    shutil.copytree(place, home / f"again-{step}")
    round_of(home / f"again-{step}")
print(step)
"""


@pytest.mark.slow
def test_a_round_killed_at_any_step_leaves_whole_artifacts_or_none_and_the_next_one_ends_it(
    make_settings: Callable[[Path], Settings], tmp_path: Path
) -> None:
    yard = Yard(make_settings(tmp_path), str(tmp_path / "artifacts"))
    job = yard.job("failed", days_ago=100)
    arms = [yard.publish("model", name, role="arm", job_id=job.id) for name in ("a", "b", "c")]
    yard.store.set_alias("production", arms[2])
    yard.store.set_alias("production", arms[2])
    template = tmp_path / "killed" / "template"
    shutil.copytree(tmp_path / "artifacts", template / "artifacts")
    yard.bench.context.close()
    shutil.copyfile(yard.bench.context.settings.home / "understudy.db", template / "understudy.db")
    arguments = [str(template.parent), str(yard.clock.now + 100 * DAY)]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout.split()[-1])
    assert steps > 8
    for step in range(1, steps + 1):
        store, after = (ArtifactStore(template.parent / f"{name}-{step}" / "artifacts") for name in ("killed", "again"))
        there = [one for one in arms if store.exists(one)]
        assert arms[2] in there
        for one in there:
            store.folder(one)  # which verifies every byte
        after.folder(arms[2])
        left = sorted(path.name for path in Path(after.root).iterdir())
        assert left == sorted([arms[2], "aliases", "gc.json", "history", "removed", "used"])
        assert [path.name for path in (Path(after.root) / "removed").iterdir()] == ["lock"]


# --- its doors -----------------------------------------------------------------------------------------------------


def test_the_command_lists_what_would_go_and_why(
    make_settings: Callable[[Path], Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    yard = Yard(make_settings(tmp_path), str(tmp_path / "home" / "artifacts"))
    (job, dataset) = yard.job("running"), yard.publish("dataset", "rows")
    kept = yard.publish("model", "arm", job_id=job.id)
    yard.answer(job, kept)
    for artifact in (dataset, kept):
        yard.dated(artifact, OLD)
    yard.bench.context.close()
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "home"))
    assert main(["--dry-run", "--json", "--now"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {one["name"]: one["what"] for one in said["fates"]} == {dataset: "removed", kept: "kept"}
    assert said["bytes"]["removed"] == said["fates"][-1]["bytes"] == 44
    assert yard.store.exists(dataset)
    assert main(["--now"]) == 0
    shown = capsys.readouterr().out
    assert f"{dataset}  no job mentions it" in shown
    assert f"{kept}  job {job.id} is running and may need it" in shown
    assert not yard.store.exists(dataset)


def test_understudy_gc_is_the_same_command_on_the_folder_that_is_named(
    make_settings: Callable[[Path], Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    yard = Yard(make_settings(tmp_path), str(tmp_path / "home" / "artifacts"))
    rows = yard.publish("dataset", "rows")
    yard.bench.context.close()
    other = tmp_path / "other"
    monkeypatch.setenv("UNDERSTUDY_DATABASE_URL", f"sqlite:///{other}.db")
    monkeypatch.setenv("UNDERSTUDY_ARTIFACTS", str(other))
    result = CliRunner().invoke(app, ["gc", "--home", str(tmp_path / "home"), "--dry-run", "--json"])
    assert result.exit_code == 0, result.output
    assert [one["name"] for one in json.loads(capfd.readouterr().out)["fates"]] == [rows]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


def test_garbage_of_a_place_where_no_service_has_run_is_not_looked_for(tmp_path: Path, capfd: Any) -> None:
    result = CliRunner().invoke(app, ["gc", "--home", str(tmp_path / "wrong")])
    assert result.exit_code == 1
    assert "no service has run there" in capfd.readouterr().err
    assert not (tmp_path / "wrong").exists()


def test_the_janitor_runs_rounds_by_itself_and_only_when_one_is_due(
    make_settings: Callable[[Path], Settings], tmp_path: Path
) -> None:
    settings = make_settings(tmp_path).model_copy(
        update={"gc_every_hours": 0.05 / 3600, "artifacts": str(tmp_path / "a")}
    )
    database, store = Database(settings.database), ArtifactStore(settings.artifact_root)
    migrate(database)
    off = Janitor(settings.model_copy(update={"gc": False}), database, store)
    off.start()
    off.stop()
    assert store.noted("gc") is None
    janitor = Janitor(settings, database, store)
    janitor.start()
    deadline = time.monotonic() + 30
    while store.noted("gc") is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    janitor.stop()
    collector = Collector(database, store, BOUNDS)
    assert not collector.due(3600)
    assert collector.due(0)
    database.close()
