"""`make check-images`: builds the images, starts docker-compose.yml under another name, and runs a small job there.

For a machine with Docker and its compose plugin, or Podman with one; without either it says so and checks nothing.
Docker builds need a network. The job does not: its models are made on the spot. What it has started, volumes among
it, is taken away at the end. Knows no cluster; see check.py for what can be known without running anything.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parents[1]
PROJECT = "understudy-check"
PASSWORDS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "S3_SECRET_KEY", "TEACHER_API_KEY")
KEYS = ("ORCHESTRATOR_API_KEY", "STUDENT_API_KEY")
OURS = ("orchestrator", "annotator", "trainer", "teacher", "student")
WRITABLE = """
import os
for place in ("/", "/opt/understudy", "/etc", "/tmp", "/var/lib/understudy"):
    print(os.access(place, os.W_OK, effective_ids=True))
"""
JOB = "--teacher scratch:bert-2x64 --finetune-teacher --student scratch:bert-1x32 --seeds 1 --max-steps 60"
JOB += " --recipe finetune --recipe attribution_alignment"


class Stack:
    """The composition, and what can be asked about its containers."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        made = {name: secrets.token_hex(16) for name in (*PASSWORDS, *KEYS)}
        # Podman leaves health checks out of images of its own format.
        self.environment = {**os.environ, **made, "BUILDAH_FORMAT": "docker"}

    def run(self, *arguments: str, check: bool = True, quiet: bool = True) -> subprocess.CompletedProcess[str]:
        out = subprocess.PIPE if quiet else None
        command = [self.engine, *arguments]
        done = subprocess.run(command, stdout=out, stderr=out, text=True, env=self.environment, check=False, cwd=ROOT)
        if check and done.returncode:
            raise SystemExit(
                f"{' '.join(command)} ended with {done.returncode}\n{done.stdout or ''}{done.stderr or ''}"
            )
        return done

    def compose(self, *arguments: str, quiet: bool = False) -> str:
        return self.run("compose", "--project-name", PROJECT, *arguments, quiet=quiet).stdout or ""

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine knows of a service's container."""
        (container,) = self.compose("ps", "--all", "--quiet", service, quiet=True).split()
        (found,) = json.loads(self.run("inspect", container).stdout)
        return dict(found)

    def python(self, service: str, code: str) -> subprocess.CompletedProcess[str]:
        return self.run("exec", self.inspect(service)["Id"], "python", "-c", code, check=False)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make check-images", description="Builds the images and runs a job in them.")
    parser.add_argument("--no-build", action="store_true", help="take the images that are there")
    parser.add_argument("--patience", type=float, default=600, help="seconds until every container must be healthy")
    options = parser.parse_args(arguments)
    engine = next((one for one in ("docker", "podman") if _usable(one)), None)
    if engine is None:
        print("neither docker nor podman runs here with its compose plugin: NO image was built, nothing was checked")
        return 0
    stack = Stack(engine)
    try:
        if not options.no_build:
            stack.compose("build")
        stack.compose("up", "--detach", "--no-build")
        problems = list(problems_of(stack, options.patience))
        if problems:
            stack.compose("logs", "--tail", "30", *OURS)
    finally:
        stack.compose("down", "--volumes", "--timeout", "10")
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(problems)} problems" if problems else "all well")
    return bool(problems)


def problems_of(stack: Stack, patience: float) -> Iterator[str]:
    yield from unhealthy(stack, patience)
    for service in OURS:
        yield from rights(stack, service)
        yield from checks_that_say_yes(stack, service)
    if not stack.python("orchestrator", "import torch").returncode:
        yield "orchestrator: there is torch in its image"
    yield from job(stack)
    yield from endings(stack)


def unhealthy(stack: Stack, patience: float) -> Iterator[str]:
    end = time.monotonic() + patience
    for service in OURS:
        while (state := stack.inspect(service)["State"])["Health"]["Status"] != "healthy":
            if time.monotonic() > end:
                last = state["Health"]["Log"][-1:]
                yield f"{service} is {state['Health']['Status']} after {patience:.0f} seconds: {last}"
                break
            time.sleep(2)


def rights(stack: Stack, service: str) -> Iterator[str]:
    found = stack.inspect(service)
    if found["Config"]["User"] != "10001:10001":
        yield f"{service}: its user is '{found['Config']['User']}'"
    told = stack.python(service, WRITABLE)
    if told.stdout.split() != ["False", "False", "False", "True", "True"]:
        yield f"{service}: only /tmp and /var/lib/understudy should be writable; {told.stdout.split()} {told.stderr}"
    for port, bound in (found["NetworkSettings"]["Ports"] or {}).items():
        yield from (f"{service}: {port} is on {one['HostIp']}" for one in bound or () if one["HostIp"] != "127.0.0.1")


def checks_that_say_yes(stack: Stack, service: str) -> Iterator[str]:
    """A health check must fail in a container in which nothing runs."""
    found = stack.inspect(service)
    kind, *command = found["Config"]["Healthcheck"]["Test"]
    if kind != "CMD":
        yield f"{service}: its health check is no list of words"
    elif not stack.run("run", "--rm", found["Image"], *command, check=False).returncode:
        yield f"{service}: its health check passes where nothing runs"


def job(stack: Stack) -> Iterator[str]:
    """A teacher and its students from nothing, and the winner served."""
    words = {"positive": ("lovely", "warm", "clever"), "negative": ("dull", "cold", "clumsy")}
    rows = [
        {"input": f"number {i}: a {word} film", "output": label}
        for i in range(30)
        for label, found in words.items()
        for word in found
    ]
    environment = {**stack.environment, "UNDERSTUDY_API_KEY": stack.environment["ORCHESTRATOR_API_KEY"]}
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = [str(Path(sys.executable).with_name("understudy")), "distill", str(file), *JOB.split(), "--json"]
        command += ["--url", "http://127.0.0.1:8000", "--home", place]
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, env=environment, check=False)
    if done.returncode:
        yield f"the job ended with {done.returncode}, and said above why"
        return
    headers = {"Authorization": f"Bearer {stack.environment['STUDENT_API_KEY']}", "Content-Type": "application/json"}
    body = json.dumps({"inputs": ["number 7: a lovely film", "number 7: a dull film"]}).encode()
    url, end = "http://127.0.0.1:8002/v1/predictions", time.monotonic() + 60
    while True:
        try:
            with urlopen(Request(url, body, headers), timeout=30) as answer:
                labels = [one["label"] for one in json.load(answer)["predictions"]]
            break
        except HTTPError as error:  # until it has found the new model
            if time.monotonic() > end:
                yield f"the student says {error.code}: {error.read()[:500]!r}"
                return
            time.sleep(1)
    if len(labels) != 2 or not set(labels) <= set(words):  # what it has learnt in 60 steps is not asked
        yield f"the student answers {labels}"


def endings(stack: Stack) -> Iterator[str]:
    """Who is not ended in its time is killed, and that is 137."""
    for service in OURS:
        stack.compose("stop", service)
        if code := stack.inspect(service)["State"]["ExitCode"]:
            yield f"{service} ended with {code} after SIGTERM"


def _usable(engine: str) -> bool:
    asked = (["info"], ["compose", "version"])
    return bool(shutil.which(engine)) and not any(
        subprocess.run([engine, *words], capture_output=True, check=False).returncode for words in asked
    )


if __name__ == "__main__":
    sys.exit(main())
