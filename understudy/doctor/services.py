"""What runs: the services and their clocks, the database at its revision, and an artifact store that can be written."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx

from understudy.artifacts import ArtifactStore
from understudy.doctor.finding import Finding, Place
from understudy.stack import addresses

__all__ = ["answering", "artifacts", "database"]

PATIENCE = 3.0
CLOCK_SECONDS = 5.0
"""How far two clocks may be apart; a header tells whole seconds, and leases count in tens of them."""


def answering(place: Place) -> Iterator[Finding]:
    """Every service that is named or that the folder's stack has: ready, and with our time."""
    asked = _addresses(place)
    if not asked:
        yield Finding("services", "ok", f"no stack runs in {place.home}; `understudy up` starts one")
    for name, url in asked.items():
        yield from _service(name, url)


def _addresses(place: Place) -> dict[str, str]:
    if place.url:
        return {"orchestrator": place.url}
    found = addresses(place.home) or {}
    return {name: found[name] for name in ("orchestrator", "teacher", "student") if name in found}


def _service(name: str, url: str) -> Iterator[Finding]:
    try:
        answer = httpx.get(f"{url.rstrip('/')}/readyz", timeout=PATIENCE, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        says = f"{url} does not answer ({error or type(error).__name__})"
        yield Finding(name, "problem", says, "understudy up, or --url with another address")
        return
    if answer.is_success:
        yield Finding(name, "ok", f"{url} is ready")
    elif name == "student":
        says = f"{url} has nothing to serve yet: {_reason(answer)}"
        yield Finding(name, "warning", says, "understudy distill, or understudy models promote production MODEL")
    else:
        says = f"{url} is not ready: {_reason(answer)}"
        yield Finding(name, "problem", says, "its log says why; the local stack's is understudy.log in its folder")
    if told := answer.headers.get("date"):
        apart = time.time() - parsedate_to_datetime(told).timestamp()
        if abs(apart) > CLOCK_SECONDS:
            says = f"the clock of {url} is {abs(apart):.0f} s {'behind' if apart > 0 else 'ahead of'} this one"
            yield Finding("clock", "warning", says, "sudo timedatectl set-ntp true, on both machines")


def _reason(answer: httpx.Response) -> str:
    try:
        body: Any = answer.json()
        return str(body["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return f"status {answer.status_code}"


def database(place: Place) -> Iterator[Finding]:
    """Asked by the service's own command, because a library knows no service. A SQLite file is made by the stack."""
    url = os.environ.get("UNDERSTUDY_DATABASE_URL", "")
    file = place.home / "understudy.db"
    if not url and not file.is_file():
        yield Finding("database", "ok", f"{file} is made when the stack starts")
        return
    command = [sys.executable, "-m", "services.orchestrator.migrate", "--check"]
    environment = os.environ | {"UNDERSTUDY_HOME": str(place.home.resolve())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    said = ((done.stderr if done.returncode else done.stdout).strip().splitlines() or ["it said nothing"])[-1]
    where = url or str(file)
    if done.returncode == 0:
        yield Finding("database", "ok", f"{where}: {said}")
    else:
        yield Finding("database", "problem", f"{where}: {said}", "python -m services.orchestrator.migrate")


def artifacts(place: Place) -> Iterator[Finding]:
    """A file is written into the store and taken out again; a folder that is not there yet is not made."""
    root = os.environ.get("UNDERSTUDY_ARTIFACTS") or str(place.home / "artifacts")
    if "://" not in root and not Path(root).exists():
        yield Finding("artifacts", "ok", f"{root} is made when the stack starts")
        return
    try:
        store = ArtifactStore(root)
        probe = f"{store.root}/.doctor-{uuid.uuid4().hex}"
        store.fs.pipe_file(probe, b"can this be written?")
        store.fs.rm_file(probe)
    except Exception as error:  # each kind of store has errors of its own
        says = f"{root} cannot be written: {type(error).__name__}: {error}"
        yield Finding("artifacts", "problem", says[:300], "UNDERSTUDY_ARTIFACTS=FOLDER_OR_URL, and its credentials")
        return
    count = len(store.list("model"))
    yield Finding("artifacts", "ok", f"{root} can be written; it holds {count:,} models")
