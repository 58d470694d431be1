"""What the machine has: processor, memory, disk, a broker to start, and ports for the local stack."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil

from understudy.client import OrchestratorClient
from understudy.doctor.finding import Finding, Place
from understudy.environment import cores, cpu_name
from understudy.errors import Unavailable, UnderstudyError
from understudy.jobs import ENDED
from understudy.ports import holder
from understudy.stack import StackConfig, addresses, broker_command

__all__ = ["broker", "disk", "memory", "ports", "processor"]

LITTLE_MEMORY = 2 * 2**30
"""Bytes: each of the stack's three processes that compute takes about half a gigabyte before it loads a model."""

LITTLE_DISK, NO_DISK = 5 * 2**30, 2**29
"""Bytes: a model of a gigabyte is stored three times over while it is trained and published; below half of one of
them not even the small models of the quickstart are safe."""

CONNECT_SECONDS = 3.0


def processor(_: Place) -> Iterator[Finding]:
    yield Finding("processor", "ok", f"{cpu_name()}, {cores()} cores")


def memory(_: Place) -> Iterator[Finding]:
    free = psutil.virtual_memory()
    says = f"{free.available / 2**30:.1f} of {free.total / 2**30:.1f} GiB free"
    if free.available < LITTLE_MEMORY:
        yield Finding("memory", "warning", f"{says}: little for a stack that trains", "end other programs")
    else:
        yield Finding("memory", "ok", says)


def disk(place: Place) -> Iterator[Finding]:
    home = place.home.absolute()
    folder = next(one for one in (home, *home.parents) if one.exists())
    free = shutil.disk_usage(folder).free
    needed = _needed(place)
    says = f"{free / 2**30:.1f} GiB free for {place.home}"
    says += f"; its jobs at work need about {needed / 2**30:.1f}" if needed else ""
    fix = "understudy gc --now, or --home FOLDER on a larger disk"
    if not os.access(folder, os.W_OK):
        yield Finding("disk", "problem", f"{folder} cannot be written", "--home FOLDER, one that you may write to")
    elif free < max(NO_DISK, needed):
        yield Finding("disk", "problem", f"{says}: a job would fail", fix)
    elif free < LITTLE_DISK:
        yield Finding("disk", "warning", f"{says}: enough for small models; --dry-run tells what a job needs", fix)
    else:
        yield Finding("disk", "ok", says)


def _needed(place: Place) -> float:
    """Bytes that the jobs of the folder's stack are estimated to write; 0 where none is at work or nobody says."""
    found = addresses(place.home)
    if not found:
        return 0
    try:
        with OrchestratorClient(found["orchestrator"], api_key=place.api_key, timeout=CONNECT_SECONDS) as client:
            active = [job for job in client.jobs() if job["status"] not in ENDED]
    except UnderstudyError:
        return 0
    return float(sum((job.get("estimate") or {}).get("disk_bytes") or 0 for job in active))


def broker(_: Place) -> Iterator[Finding]:
    """The one that is named has to answer; else one has to be there that a stack can start."""
    url = os.environ.get("UNDERSTUDY_BROKER_URL") or os.environ.get("REDIS_URL")
    if url:
        problem = _ping(url)
        fix = "start it, or unset REDIS_URL: then `understudy up` starts one of its own"
        yield (
            Finding("broker", "problem", f"{url} {problem}", fix)
            if problem
            else Finding("broker", "ok", f"{url} answers")
        )
        return
    try:
        yield Finding("broker", "ok", f"{broker_command()[0]}; `understudy up` starts it")
    except Unavailable as error:
        yield Finding("broker", "problem", error.message, "apt-get install redis-server, or set REDIS_URL")


def ports(place: Place) -> Iterator[Finding]:
    """The local stack's usual ports; those that it has itself are no trouble."""
    mine = set((addresses(place.home) or {}).values())
    usual = StackConfig(place.home)
    wanted = {"--port": usual.port, "--teacher-port": usual.teacher_port, "--student-port": usual.student_port}
    taken = [(option, port) for option, port in wanted.items() if not _is_free(port)]
    others = [(option, port) for option, port in taken if f"http://127.0.0.1:{port}" not in mine]
    for option, port in others:
        says = f"{port} is taken{holder(port)}"
        yield Finding("ports", "warning", says, f"understudy up {option} 0 takes any free one")
    if not others:
        state = "are this folder's stack's" if taken else "are free"
        yield Finding("ports", "ok", f"{', '.join(map(str, wanted.values()))} {state}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _ping(url: str) -> str | None:
    """What is wrong with a broker; None where it answers PING, after AUTH where there is a password."""
    parts = urlsplit(url)
    try:
        with _connected(parts.scheme, parts.hostname, parts.port, parts.path) as connection:
            if parts.password:
                login = [unquote(one) for one in (parts.username, parts.password) if one]
                _send(connection, "AUTH", *login)
            said = _send(connection, "PING")
    except (OSError, ValueError) as error:
        return f"cannot be reached: {error}"
    return None if said.startswith("+PONG") else f"answers, but not as Redis does for us: {said[:80].strip()}"


def _connected(scheme: str, host: str | None, port: int | None, path: str) -> socket.socket:
    if scheme in ("redis+socket", "unix"):
        local = socket.socket(socket.AF_UNIX)
        local.settimeout(CONNECT_SECONDS)
        local.connect(str(Path(path)))
        return local
    plain = socket.create_connection((host or "127.0.0.1", port or 6379), CONNECT_SECONDS)
    return ssl.create_default_context().wrap_socket(plain, server_hostname=host) if scheme == "rediss" else plain


def _send(connection: socket.socket, *words: str) -> str:
    parts = [f"*{len(words)}", *(part for word in words for part in (f"${len(word.encode())}", word))]
    connection.sendall(("\r\n".join(parts) + "\r\n").encode())
    return connection.recv(512).decode("utf-8", "replace")
