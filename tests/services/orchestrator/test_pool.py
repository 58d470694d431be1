"""The pool of addresses: the least busy is asked, a full one gets fewer calls, a broken one is tried alone."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from services.orchestrator import pool as module
from services.orchestrator.pool import FIRST_LIMIT, TRIP, Pool
from understudy.errors import InvalidRequest, Overloaded, Unavailable, UnderstudyError


def nothing() -> None:
    return None


def raising(error: UnderstudyError) -> Callable[[str], str]:
    def ask(_: str) -> str:
        raise error

    return ask


def timed_out() -> Unavailable:
    error = Unavailable("no answer")
    error.__cause__ = httpx.ReadTimeout("too long")
    return error


@pytest.fixture(autouse=True)
def _short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_REST", 0.001)
    monkeypatch.setattr(module, "LONGEST_REST", 0.01)


def test_the_least_busy_address_is_asked_and_equals_take_turns() -> None:
    pool = Pool(["a", "b"], patience=5.0)
    assert Counter(pool.call(lambda client: client, nothing) for _ in range(10)) == {"a": 5, "b": 5}
    held, go = threading.Event(), threading.Event()

    def slow(client: str) -> str:
        held.set()
        go.wait(5)
        return client

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(pool.call, slow, nothing)
        held.wait(5)
        others = {pool.call(lambda client: client, nothing) for _ in range(5)}
        go.set()
        assert others == {"a", "b"} - {first.result()}


def test_an_address_that_fails_is_passed_over_at_once_for_another() -> None:
    pool = Pool(["away", "there"], patience=5.0)
    asked: list[str] = []

    def ask(client: str) -> str:
        asked.append(client)
        if client == "away":
            raise Unavailable("refused", retry_after=60)
        return client

    started = time.monotonic()
    assert [pool.call(ask, nothing) for _ in range(5)] == ["there"] * 5
    assert asked.count("away") == 1  # it said how long it wants to be left alone
    assert time.monotonic() - started < 1


def test_calls_at_once_are_halved_when_an_address_is_full_and_grow_back_when_all_go_well() -> None:
    pool = Pool(["a"], patience=0.0)
    (address,) = pool._addresses
    for error in (Overloaded("full"), timed_out()):
        before = address.limit
        with pytest.raises(UnderstudyError):
            pool.call(raising(error), nothing)
        assert address.limit == before / 2
        time.sleep(0.02)
    assert address.limit == 1.0
    for _ in range(3):
        pool.call(nothing_of, nothing)
    assert address.limit == 2.0  # one caller never used two at once, which says nothing of three
    assert FIRST_LIMIT == 4.0


def nothing_of(client: str) -> str:
    return client


def test_calls_that_were_refused_together_halve_once() -> None:
    pool = Pool(["a"], patience=0.0)
    (address,) = pool._addresses
    together = threading.Barrier(4)

    def ask(_: str) -> str:
        together.wait(5)
        raise Overloaded("full")

    with ThreadPoolExecutor(4) as threads:
        for call in [threads.submit(pool.call, ask, nothing) for _ in range(4)]:
            assert isinstance(call.exception(), Overloaded)
    assert address.limit == FIRST_LIMIT / 2


def test_never_more_calls_at_once_than_the_limit() -> None:
    pool = Pool(["a"], patience=30.0)
    (address,) = pool._addresses
    lock, now = threading.Lock(), 0
    at_once: list[tuple[int, int]] = []

    def ask(_: str) -> None:
        nonlocal now
        with lock:
            now += 1
            at_once.append((now, address.slots))  # read while it is busy: the limit only grows when all goes well
        time.sleep(0.01)
        with lock:
            now -= 1

    address.limit = 2.0
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: pool.call(ask, nothing), range(20)))
    assert all(calls <= slots for calls, slots in at_once)
    assert max(calls for calls, _ in at_once) >= 2


def test_after_failures_in_a_row_one_call_tries_an_address_before_others_follow() -> None:
    pool = Pool(["a"], patience=0.0)
    for _ in range(TRIP):
        with pytest.raises(Unavailable):
            pool.call(raising(Unavailable("broken")), nothing)
        time.sleep(0.02)
    probing, go = threading.Event(), threading.Event()

    def probe(_: str) -> str:
        probing.set()
        go.wait(5)
        return "well"

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(pool.call, probe, nothing)
        probing.wait(5)
        with pytest.raises(Unavailable, match="broken"):  # what the address said last
            pool.call(nothing_of, nothing)
        go.set()
        assert first.result() == "well"
    assert pool.call(nothing_of, nothing) == "a"


def test_an_error_that_is_the_answer_is_raised_at_once_and_counts_as_no_failure() -> None:
    pool = Pool(["a"], patience=5.0)
    for _ in range(TRIP + 1):
        with pytest.raises(InvalidRequest):
            pool.call(raising(InvalidRequest("wrong")), nothing)
    assert pool._addresses[0].failures == 0


def test_a_caller_that_must_stop_leaves_the_queue_for_an_address() -> None:
    pool = Pool(["a"], patience=60.0)
    pool._addresses[0].rests_until = time.monotonic() + 60
    end = time.monotonic() + 0.2

    def check() -> None:
        if time.monotonic() > end:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        pool.call(nothing_of, check)
    assert pool._addresses[0].busy == 0
