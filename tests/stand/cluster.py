"""The whole installation on hosts of its own: PostgreSQL, Redis, two of each service and of the workers, networked."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from services.orchestrator.context import Context
from services.orchestrator.settings import Settings
from stand.network import Host, Network
from stand.postgres import Postgres
from stand.processes import ROOT, wait
from understudy.client import OrchestratorClient
from understudy.stack import broker_command

__all__ = ["Cluster", "Replicas"]

KEY = "a-key-of-this-network"
PORTS = {"orchestrator": 8000, "teacher": 8001, "student": 8002}
PREFIXES = {"orchestrator": "UNDERSTUDY_", "teacher": "UNDERSTUDY_TEACHER_", "student": "UNDERSTUDY_STUDENT_"}
START_SECONDS = 120.0


class Cluster:
    """`hosts` by name: `orchestrator-1`, `teacher-2`, `worker-1`, ... Everything runs once this is entered."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self._settings = settings
        self._closing = contextlib.ExitStack()
        self.hosts: dict[str, Host] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Cluster:
        with contextlib.ExitStack() as undo:
            undo.callback(self._closing.close)
            self._start()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def url(self, name: str) -> str:
        return f"http://{self.hosts[name].address}:{PORTS[name.rpartition('-')[0]]}"

    def client(self, name: str = "orchestrator-1") -> OrchestratorClient:
        return OrchestratorClient(self.url(name), api_key=KEY)

    @contextlib.contextmanager
    def context(self) -> Iterator[Context]:
        """The database and the store, as the orchestrators have them."""
        settings = Settings(
            home=self.folder / "test", database_url=self._database, artifacts=str(self.folder / "artifacts")
        )
        context = Context(settings, lambda *_: None)
        try:
            yield context
        finally:
            context.close()

    def launch(self, name: str) -> None:
        """Start the service or the worker of a host; `await_ready` waits until it serves."""
        kind, _, number = name.rpartition("-")
        home = self.folder / name
        command = [sys.executable, "-m", f"services.{kind}"]
        if kind == "worker":
            # Both annotate; one of them also trains.
            queues = "control,annotate" if number == "1" else "control,annotate,train"
            command = [sys.executable, "-m", "services.orchestrator.worker", "--queues", queues, "--concurrency", "3"]
        with (self.folder / f"{name}.log").open("ab") as log:
            more: dict[str, Any] = {"cwd": ROOT, "stdout": log, "stderr": log, "start_new_session": True}
            environment = self._environment(name) | {"UNDERSTUDY_HOME": str(home)}
            self.processes[name] = self.hosts[name].run(command, environment, **more)

    def stop(self, name: str) -> int:
        """As a rollout does it: SIGTERM, and wait. Gives the exit status."""
        self.processes[name].send_signal(signal.SIGTERM)
        return self.processes[name].wait(60)

    def ready(self, name: str) -> bool:
        try:
            return httpx.get(f"{self.url(name)}/readyz", timeout=2, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def await_ready(self, name: str) -> None:
        def answers() -> bool:
            assert self.processes[name].poll() is None, self.log(name)[-3000:]
            return self.ready(name)

        wait(answers, START_SECONDS)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def _start(self) -> None:
        network = Network()
        self._closing.callback(network.close)
        self._closing.callback(self._end)
        for name in ("database", "broker", *(f"{kind}-{n}" for kind in (*PORTS, "worker") for n in (1, 2))):
            self.hosts[name] = network.host(name)
        postgres = Postgres(self.hosts["database"])
        self._closing.callback(postgres.close)
        postgres.start()
        self._database = postgres.create("cluster")
        options = ["--bind", self.hosts["broker"].address, "--port", "6379", "--requirepass", "redis", "--save", ""]
        quiet = {"stdout": subprocess.DEVNULL, "cwd": self.folder}
        redis = self.hosts["broker"].run([*broker_command(), *options], {}, **quiet)
        self._closing.callback(redis.wait)
        self._closing.callback(redis.kill)
        migrate = [sys.executable, "-m", "services.orchestrator.migrate"]
        assert self.hosts["worker-1"].run(migrate, self._environment("worker-1"), cwd=ROOT).wait(60) == 0
        for name in self.hosts.keys() - {"database", "broker"}:
            self.launch(name)
        for kind in ("orchestrator", "teacher"):
            for number in (1, 2):
                self.await_ready(f"{kind}-{number}")

    def _environment(self, name: str) -> dict[str, str]:
        ours = {
            "UNDERSTUDY_DATABASE_URL": self._database,
            "UNDERSTUDY_BROKER_URL": f"redis://:redis@{self.hosts['broker'].address}:6379/0",
            "UNDERSTUDY_ARTIFACTS": str(self.folder / "artifacts"),
            "UNDERSTUDY_TEACHER_URLS": ",".join(self.url(f"teacher-{n}") for n in (1, 2)),
            "UNDERSTUDY_TEACHER_API_KEY": KEY,
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        for prefix in PREFIXES.values():
            ours |= {f"{prefix}API_KEYS": KEY, f"{prefix}HOST": self.hosts[name].address}
        return ours | {f"UNDERSTUDY_{key.upper()}": str(value) for key, value in self._settings.items()}

    def _end(self) -> None:
        for host in self.hosts.values():
            host.heal()
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Replicas:
    """Which replicas of a service are ready, as a load balancer knows it: it asks each several times a second."""

    def __init__(self, cluster: Cluster, kind: str) -> None:
        self.names = [f"{kind}-{number}" for number in (1, 2)]
        self.failures: list[str] = []
        self.answers = 0
        self._cluster = cluster
        self._ready: list[str] = []
        self._turn = 0
        self._over = threading.Event()

    @contextlib.contextmanager
    def under_load(self, callers: int, ask: Callable[[httpx.Client, str], httpx.Response]) -> Iterator[None]:
        """So many callers ask one after another; what is not answered 2xx is a failure."""
        threads = [threading.Thread(target=self._watch, daemon=True)]
        threads += [threading.Thread(target=self._call, args=(ask,), daemon=True) for _ in range(callers)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join(60)

    def replace_all(self) -> None:
        """A rolling restart: each is ended and started again while the other one serves."""
        for name in self.names:
            wait(lambda: len(self._ready) == len(self.names), START_SECONDS)
            before = self.answers
            wait(lambda before=before: self.answers > before)  # there is load
            assert self._cluster.stop(name) == 0, self._cluster.log(name)[-2000:]
            self._cluster.launch(name)
            self._cluster.await_ready(name)

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self._ready = [name for name in self.names if self._cluster.ready(name)]

    def _call(self, ask: Callable[[httpx.Client, str], httpx.Response]) -> None:
        headers: Mapping[str, str] = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(headers=headers, timeout=60, trust_env=False) as client:
            while not self._over.is_set():
                ready = self._ready
                if not ready:
                    time.sleep(0.05)
                    continue
                self._turn += 1
                name = ready[self._turn % len(ready)]
                try:
                    answer = ask(client, self._cluster.url(name))
                    if answer.is_success:
                        self.answers += 1
                    else:
                        self.failures.append(f"{name}: {answer.status_code} {answer.text[:200]}")
                except httpx.TransportError as error:
                    self.failures.append(f"{name}: {type(error).__name__} {error}")
