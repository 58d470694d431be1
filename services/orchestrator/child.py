"""Runs one stage in a process of its own and brings back its events, its result, or its error by type.

A training cannot be interrupted from within its process, holds the memory it took, and can be killed by the system:
none of that may happen to a worker. Children come from a fork server that has imported torch once, so that they start
in milliseconds; neither the worker nor this module imports it. A child leads a process group, which is ended whole, and
ends itself when its parent is gone. Knows nothing of jobs.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, forkserver, spawn
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from understudy.errors import LeaseLost, StageFailed, UnderstudyError, from_body

__all__ = ["PRELOAD", "Stage", "cool", "run_child", "warm"]

Stage = Callable[[Mapping[str, Any], Path, Callable[[Mapping[str, Any]], None]], Mapping[str, Any]]
"""`stage(spec, out, emit) -> result`: all plain JSON values, and importable by name."""

PRELOAD = ("understudy.training.run", "understudy.evaluation.run", "services.orchestrator.stages")
TAIL_LINES = 12
POLL_SECONDS = 0.2
LEAVE_SECONDS = 1.0

_context = multiprocessing.get_context("forkserver")
# Two threads that reap at once would both read a child's exit status from one pipe, and one would get none.
_reaping = threading.Lock()


def warm(modules: Sequence[str] = PRELOAD) -> bool:
    """Start the fork server, which imports what the stages need while the worker does something else.

    False where one runs already: then it is not ours to end.
    """
    server: Any = forkserver._forkserver  # Python has no public way
    fresh = server._forkserver_pid is None
    _context.set_forkserver_preload(list(modules))
    forkserver.ensure_running()
    return fresh


def cool() -> None:
    """End the fork server, and let the next one be as Python starts it: this process is not ours alone.

    Only for where `warm` has started it and no child runs any more.
    """
    server: Any = forkserver._forkserver
    server._stop()
    _context.set_forkserver_preload(["__main__"])


def run_child(
    stage: Stage,
    spec: Mapping[str, Any],
    out: Path,
    *,
    emit: Callable[[Mapping[str, Any]], None],
    check: Callable[[], None],
    threads: int = 1,
    grace: float = 5.0,
    lock: Path | None = None,
) -> Mapping[str, Any]:
    """Run `stage` to its end. `check` is called several times a second and may raise, which ends the child.

    It has `grace` seconds to keep what it has, but none where what was raised is LeaseLost.

    `lock` names a file that one child holds at a time: a child that has it already is ended first.

    Raises the UnderstudyError that the stage raised, or StageFailed when it ended in any other way.
    """
    ours, theirs = _context.Pipe(duplex=False)
    check()  # a worker that has lost its item must not end the child of the one that has it now
    process = _context.Process(target=_child, args=(stage, json.dumps(spec), str(out), threads, lock, theirs))
    with ours:
        with theirs, _reaping, _without_main():
            process.start()
        try:
            answer = _follow(process, ours, emit, check)
            connection.wait([process.sentinel], LEAVE_SECONDS)  # it gives back what the system has lent it: semaphores
            return answer
        except LeaseLost:
            grace = 0.0  # whatever it could keep now is nobody's any more
            raise
        finally:
            _end(process, grace)


@contextmanager
def _without_main() -> Iterator[None]:
    """What this thread starts inside does not run the program's main module again.

    A stage is never in it, and a script without a guard, which calls us in one process, would begin anew in each child.
    """
    whole, here = spawn.get_preparation_data, threading.get_ident()

    def least(name: str) -> dict[str, Any]:
        data = whole(name)
        ours = threading.get_ident() == here
        return {key: value for key, value in data.items() if not (ours and key.startswith("init_main_from_"))}

    spawn.get_preparation_data = least
    try:
        yield
    finally:
        spawn.get_preparation_data = whole


def _follow(
    process: Any, ours: Connection, emit: Callable[[Mapping[str, Any]], None], check: Callable[[], None]
) -> Mapping[str, Any]:
    while True:
        check()
        if not connection.wait([ours, process.sentinel], POLL_SECONDS):
            continue
        kind, value = _next_message(ours)
        if kind == "event":
            emit(value)
        elif kind == "result":
            return dict(value)
        elif kind == "error":
            raise from_body(value["status"], value["body"])
        elif kind == "crash":
            raise StageFailed(f"the stage ended with {value[-1]}\n" + "\n".join(value))
        else:
            raise StageFailed(f"the stage's process {_how_it_ended(process)} before it had a result")


def _next_message(ours: Connection) -> tuple[str, Any]:
    """What the child has said; silence when it has ended without another word."""
    try:
        kind, value = json.loads(ours.recv_bytes()) if ours.poll() else ("silence", None)
    except EOFError:
        return "silence", None
    return kind, value


def _has_ended(process: Any) -> bool:
    return bool(connection.wait([process.sentinel], 0))


def _how_it_ended(process: Any) -> str:
    with _reaping:
        process.join(POLL_SECONDS)
        code = process.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        memory = " (the system does that when memory runs out)" if name == "SIGKILL" else ""
        return f"was ended by {name}{memory}"
    return f"ended with code {code}"


def _end(process: Any, grace: float) -> None:
    """End the child's whole group, gently first. A child that has answered has nothing left to do."""
    if not _has_ended(process):
        _signal(process.pid, signal.SIGTERM)
        connection.wait([process.sentinel], grace)
    with suppress(ProcessLookupError):  # a child that is deaf to that, and what it has started itself and left behind
        os.killpg(process.pid, signal.SIGKILL)
    connection.wait([process.sentinel])
    with _reaping:
        process.join()
        process.close()


def _signal(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:  # it has not come as far as its own group
        with suppress(ProcessLookupError):
            os.kill(pid, number)


# --- in the child --------------------------------------------------------------------------------------------------


def _child(stage: Stage, spec: str, out: str, threads: int, lock: Path | None, theirs: Connection) -> None:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _end_with_parent()
    _limit_threads(threads)
    held = _hold(lock) if lock else None

    def say(kind: str, value: Any) -> None:
        theirs.send_bytes(json.dumps([kind, value]).encode())

    try:
        say("result", stage(json.loads(spec), Path(out), lambda event: say("event", event)))
    except UnderstudyError as error:
        say("error", {"status": error.status, "body": error.body()})
    except Exception:
        lines = traceback.format_exc().strip().splitlines()
        print("\n".join(lines), file=sys.stderr, flush=True)
        say("crash", lines[-TAIL_LINES:])
    finally:
        if held is not None:
            os.close(held)


def _hold(lock: Path) -> int:
    """Be the only one in a place: end the child that a worker left at work there when it was taken for dead.

    Of a place that machines or pods share, one on another is waited for: its worker ends it, or its lock goes with it.
    """
    file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        number, _, machine = os.pread(file, 256, 0).decode().partition(" ")
        if machine == os.uname().nodename:  # elsewhere the number is of nobody, or of one who has no part in this
            with suppress(ProcessLookupError, ValueError):
                os.killpg(int(number), signal.SIGKILL)  # whoever holds the lock lives, and this is its id
        fcntl.flock(file, fcntl.LOCK_EX)
    os.ftruncate(file, 0)
    os.pwrite(file, f"{os.getpid()} {os.uname().nodename}".encode(), 0)
    return file


def _end_with_parent() -> None:
    """End the group when the parent is gone, from a process of its own, which ends with the group.

    A thread would not do: while a library waits for a disk it may keep all others of its process from running.
    """
    if os.fork():
        return
    try:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()  # returns when the parent is gone, however it went
    finally:
        os.killpg(os.getpgid(0), signal.SIGKILL)


def _limit_threads(threads: int) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)  # for libraries that are loaded from here on
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
