"""Child processes: results, errors by type, signals, and that nothing of one is left when it is ended."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.orchestrator.child import run_child
from understudy.errors import LeaseLost, StageFailed, UnknownName

pytestmark = pytest.mark.usefixtures("fork_server")

STAGES = Path(__file__).parent / "stages"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(STAGES))
    import child_stages

    return child_stages


def run(stage: Any, out: Path, spec: Any = None, **options: Any) -> Any:
    chosen = {"emit": lambda _: None, "check": lambda: None, **options}
    return run_child(stage, spec or {}, out, **chosen)


def wait_gone(pids: list[int], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still there: {[pid for pid in pids if _alive(pid)]}"
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop_when(ready: Callable[[], bool]) -> Callable[[], None]:
    def check() -> None:
        if ready():
            raise LeaseLost("cancelled")

    return check


def test_a_stage_gives_its_events_in_order_and_then_its_result(stages: Any, tmp_path: Path) -> None:
    seen: list[Any] = []
    answer = run(stages.echo, tmp_path, {"a": [1]}, emit=seen.append)
    assert seen == [{"step": 0}, {"step": 1}, {"step": 2}]
    assert answer["spec"] == {"a": [1]}
    assert (tmp_path / "seen").read_text() == "here"


def test_a_child_leads_a_process_group_of_its_own(stages: Any, tmp_path: Path) -> None:
    answer = run(stages.echo, tmp_path)
    assert answer["pid"] == answer["group"] != os.getpgid(0)


def test_an_error_comes_back_by_its_type_with_its_field(stages: Any, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="choose from finetune, saliency") as caught:
        run(stages.refuse, tmp_path)
    assert caught.value.param == "recipe"


def test_a_defect_comes_back_with_the_end_of_its_traceback(stages: Any, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"(?s)ended with ZeroDivisionError: a defect\n.*child_stages.py"):
        run(stages.crash, tmp_path)


@pytest.mark.parametrize(("name", "words"), [("SIGKILL", "SIGKILL .*memory"), ("SIGSEGV", "SIGSEGV")])
def test_a_child_that_is_killed_says_by_what(stages: Any, tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(StageFailed, match=words):
        run(stages.die, tmp_path, {"signal": name})


def test_a_child_that_leaves_without_a_word_says_its_code(stages: Any, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="ended with code 3"):
        run(stages.leave, tmp_path)


@pytest.mark.parametrize("deaf", [False, True])
def test_ending_a_child_ends_its_whole_group_deaf_or_not(stages: Any, tmp_path: Path, deaf: bool) -> None:
    started: list[Any] = []
    began = time.monotonic()
    with pytest.raises(LeaseLost):
        run(
            stages.sleep,
            tmp_path,
            {"deaf": deaf},
            emit=started.append,
            check=stop_when(lambda: bool(started)),
            grace=0.3,
        )
    assert time.monotonic() - began < 10
    wait_gone([int(pid) for pid in (tmp_path / "pids").read_text().split()])


def test_an_error_of_the_listener_ends_the_child(stages: Any, tmp_path: Path) -> None:
    def listen(_: Any) -> None:
        raise KeyError("a defect of the listener")

    with pytest.raises(KeyError):
        run(stages.sleep, tmp_path, emit=listen)
    wait_gone([int(pid) for pid in (tmp_path / "pids").read_text().split()])


def test_two_children_run_side_by_side_from_threads(stages: Any, tmp_path: Path) -> None:
    barrier = threading.Barrier(2)

    def one(number: int) -> Any:
        out = tmp_path / str(number)
        out.mkdir()
        barrier.wait()
        return [run(stages.echo, out, {"n": number})["spec"]["n"] for _ in range(5)]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(one, range(2))) == [[0] * 5, [1] * 5]


@pytest.mark.parametrize("machine", [os.uname().nodename, "elsewhere"])
def test_who_holds_the_place_is_ended_on_this_machine_and_waited_for_on_another(
    stages: Any, tmp_path: Path, machine: str
) -> None:
    """Process numbers are a machine's own, and a pod counts as one: elsewhere the same number is another process's."""
    lock = tmp_path / "owner.lock"
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    lock.write_text(f"{process.pid} {machine}")
    try:
        with ThreadPoolExecutor() as threads, lock.open("r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            answer = threads.submit(run, stages.echo, tmp_path, lock=lock)
            if machine == "elsewhere":
                time.sleep(0.5)
                assert process.poll() is None
            else:
                process.wait(5)
            assert not answer.done()
            fcntl.flock(held, fcntl.LOCK_UN)
            assert answer.result(10)["pid"] == int(lock.read_text().split()[0])
    finally:
        process.kill()
        process.wait()


def test_torch_computes_with_the_threads_that_were_given(stages: Any, tmp_path: Path) -> None:
    assert run(stages.threads, tmp_path, threads=2) == {"threads": 2, "environment": "2"}


def test_a_child_ends_itself_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(STAGES)!r})
        import child_stages
        from services.orchestrator.child import run_child
        if __name__ == "__main__":
            run_child(child_stages.sleep, {{}}, Path({str(tmp_path)!r}), emit=print, check=lambda: None)
    """
    (tmp_path / "parent.py").write_text(textwrap.dedent(script))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{STAGES}"}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py")], cwd=ROOT, env=environment)
    deadline = time.monotonic() + 30
    while not (tmp_path / "pids").exists() or len((tmp_path / "pids").read_text().split()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    wait_gone([int(pid) for pid in (tmp_path / "pids").read_text().split()])
