"""API keys in the database: made once, found by their hash, shut out, and held to their quotas however many ask."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from services.orchestrator import admin
from services.orchestrator.database import Database, api_keys, events, files, jobs, made_by_keys, work_items
from services.orchestrator.jobs import Event
from services.orchestrator.keys import DAY_SECONDS, USED_SECONDS, KeyStore, Quotas
from services.orchestrator.pipeline import first_items
from services.orchestrator.store import FileRow
from understudy.errors import InvalidRequest, NotFound, QuotaExceeded, RateLimited, Unauthorized
from understudy.keys import NEW_KEY, Caller
from understudy.testing import FakeTeacher


@pytest.fixture
def bench(settings: Any, database_url: str, make_bench: Any, clock: Any) -> Iterator[Any]:
    one = make_bench(settings.model_copy(update={"database_url": database_url}), FakeTeacher(), clock)
    yield one
    one.context.close()


@pytest.fixture
def keys(bench: Any, clock: Any) -> KeyStore:
    return KeyStore(bench.context.database, clock)


def caller(keys: KeyStore, **quotas: int) -> Caller:
    _, key = keys.create("a test", "submit", quotas=Quotas(**quotas))
    found = keys.find(key)
    assert found is not None
    return found


def submit(bench: Any, keys: KeyStore, who: Caller) -> Any:
    job = bench.job()
    items = first_items(job, bench.context.settings)
    bench.context.flow.submit(job, items, lambda sql: keys.count_job(sql, who, job.id))
    return job


def add_file(bench: Any, keys: KeyStore, who: Caller, size: int, number: int = 0) -> None:
    row = FileRow(f"file-{number}-{size}", 1, "data.jsonl", "fine-tune", size, "file-artifact")
    bench.context.files.add(row, lambda sql: keys.count_file(sql, who, row.id, size))


def rows_of(database: Database) -> dict[str, int]:
    with database.read() as sql:
        tables = (jobs, work_items, events, files, made_by_keys)
        return {table.name: sql.scalar(select(func.count()).select_from(table)) or 0 for table in tables}


def outcomes(count: int, work: Callable[[int], Any]) -> list[str]:
    """How each of so many at once ended: `made`, or the error's code."""

    def one(number: int) -> str:
        try:
            work(number)
        except QuotaExceeded as error:
            return error.code
        return "made"

    with ThreadPoolExecutor(count) as threads:
        return sorted(threads.map(one, range(count)))


def test_a_key_is_found_by_its_text_which_is_nowhere_in_the_database(keys: KeyStore, bench: Any) -> None:
    made, key = keys.create("laptop", "read")
    assert NEW_KEY.fullmatch(key)
    assert keys.find(key) == Caller(made.id, "read")
    assert keys.find(key[:-1] + ("a" if key[-1] != "a" else "b")) is None
    with bench.context.database.read() as sql:
        stored = " ".join(map(str, sql.execute(select(api_keys)).one()))
    assert key not in stored
    assert key.removeprefix("sk-us-")[4:-4] not in stored


def test_a_revoked_key_opens_nothing_and_the_service_does_not_open_with_it(keys: KeyStore) -> None:
    assert not keys.any()
    made, key = keys.create("laptop", "admin")
    assert keys.any_open()
    assert keys.revoke(made.id).revoked_at is not None
    assert keys.revoke(made.id) == keys.all()[0]
    assert keys.find(key) is None
    assert not keys.still(Caller(made.id, "admin"))
    assert (keys.any(), keys.any_open()) == (True, False)
    with pytest.raises(NotFound, match="no key 'key-none'"):
        keys.revoke("key-none")
    with pytest.raises(NotFound):
        keys.revoke("key\0")


def test_a_key_ends_when_it_was_to_end(keys: KeyStore, clock: Any) -> None:
    made, key = keys.create("a visit", "read", expires_in=60)
    clock.now += 59
    assert keys.find(key) is not None
    clock.now += 1
    assert keys.find(key) is None
    assert made.facts(clock.now)["state"] == "expired"


def test_the_last_use_is_kept_to_the_minute(keys: KeyStore, clock: Any) -> None:
    _, key = keys.create("laptop", "read")
    keys.find(key)
    first = clock.now
    clock.now += USED_SECONDS - 1
    keys.find(key)
    assert keys.all()[0].last_used_at == first
    clock.now += 2
    keys.find(key)
    assert keys.all()[0].last_used_at == clock.now


def test_a_database_that_takes_no_note_keeps_nobody_out_and_is_tried_once_a_minute(
    keys: KeyStore, bench: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []

    def locked() -> None:
        tried.append(clock.now)
        raise OperationalError("UPDATE", {}, Exception("database is locked"))

    made, key = keys.create("laptop", "read")
    monkeypatch.setattr(bench.context.database, "write", locked)
    for _ in range(3):
        assert keys.find(key) == Caller(made.id, "read")
        clock.now += USED_SECONDS / 2
    assert len(tried) == 2
    assert keys.all()[0].last_used_at is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"scope": "submitt"}, "scope"),
        ({"expires_in": 0.0}, "expires"),
        ({"expires_in": float("nan")}, "expires"),
        ({"quotas": Quotas(max_active_jobs=-1)}, "max_active_jobs"),
        ({"quotas": Quotas(max_jobs_per_day=2**31)}, "max_jobs_per_day"),
        ({"quotas": Quotas(max_stored_bytes=2**63)}, "max_stored_bytes"),
    ],
)
def test_a_key_that_cannot_be_names_the_field(keys: KeyStore, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        keys.create(**{"name": "laptop", "scope": "read", **fields})
    assert caught.value.param == param
    assert keys.all() == []


def test_fifty_submits_at_once_make_as_many_jobs_as_the_quota_has(keys: KeyStore, bench: Any) -> None:
    who, other = caller(keys, max_active_jobs=3), caller(keys)
    submit(bench, keys, other)
    before = rows_of(bench.context.database)
    assert outcomes(50, lambda _: submit(bench, keys, who)) == ["made"] * 3 + ["rate_limit_exceeded"] * 47
    after = rows_of(bench.context.database)
    # Each job brings one item and one event: nothing is half made.
    grown = {"jobs": 3, "work_items": 3, "events": 3, "made_by_keys": 3, "files": 0}
    assert {name: after[name] - before[name] for name in after} == grown


def test_a_job_that_has_ended_makes_room_and_a_paused_one_does_not(keys: KeyStore, bench: Any) -> None:
    who = caller(keys, max_active_jobs=1)
    job = submit(bench, keys, who)
    bench.context.flow.pause(job.id)
    with pytest.raises(RateLimited, match="cancel one") as caught:
        submit(bench, keys, who)
    assert caught.value.retry_after is None
    bench.context.flow.end(job.id, "cancelled", Event(message="Job cancelled"))
    submit(bench, keys, who)


def test_the_jobs_of_a_day_are_those_of_the_last_24_hours(keys: KeyStore, bench: Any, clock: Any) -> None:
    who = caller(keys, max_jobs_per_day=2)
    for _ in range(2):
        job = submit(bench, keys, who)
        bench.context.flow.end(job.id, "cancelled", Event(message="Job cancelled"))
        clock.now += 1000
    with pytest.raises(RateLimited) as caught:
        submit(bench, keys, who)
    assert caught.value.retry_after == DAY_SECONDS - 2000
    clock.now += caught.value.retry_after
    submit(bench, keys, who)
    with pytest.raises(RateLimited) as caught:
        submit(bench, keys, who)
    assert caught.value.retry_after == 1000
    with pytest.raises(QuotaExceeded, match="may make no jobs"):
        submit(bench, keys, caller(keys, max_jobs_per_day=0))


def test_stored_bytes_are_those_of_the_keys_files_that_are_there(keys: KeyStore, bench: Any) -> None:
    who = caller(keys, max_stored_bytes=100)
    keys.check_room(who, 100)
    assert outcomes(20, lambda n: add_file(bench, keys, who, 40, n)) == ["insufficient_quota"] * 18 + ["made"] * 2
    assert rows_of(bench.context.database)["files"] == 2
    with pytest.raises(QuotaExceeded, match="may store 100 bytes and stores 80: 21 more") as caught:
        keys.check_room(who, 21)
    assert caught.value.param == "file"
    with bench.context.database.write() as sql:
        sql.execute(files.delete().where(files.c.id == sql.scalar(select(files.c.id).limit(1))))
    add_file(bench, keys, who, 60)
    add_file(bench, keys, Caller("static-1"), 1000)  # a key of the settings has no quota


def test_a_key_that_is_revoked_while_its_request_is_at_work_makes_nothing(keys: KeyStore, bench: Any) -> None:
    who = caller(keys)
    keys.revoke(who.id)
    with pytest.raises(Unauthorized):
        submit(bench, keys, who)
    assert rows_of(bench.context.database)["jobs"] == 0


def test_the_command_that_stands_beside_the_service_answers_in_json(
    settings: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(admin, "Settings", lambda: settings)
    assert admin.main(["keys", "create", "--scope", "submit", "--max-active-jobs", "3", "--", "-odd name"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["name"], made["quotas"]["max_active_jobs"], made["state"]) == ("-odd name", 3, "active")
    assert NEW_KEY.fullmatch(made["key"])
    assert admin.main(["keys", "list"]) == 0
    listed = capsys.readouterr().out
    assert [one["id"] for one in json.loads(listed)["data"]] == [made["id"]]
    assert made["key"] not in listed
    assert admin.main(["keys", "revoke", "key-none"]) == 1
    assert '"code": "not_found"' in capsys.readouterr().err
