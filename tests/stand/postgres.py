"""A private PostgreSQL for a run of the tests, from the binaries that this machine has."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from stand.network import Host

__all__ = ["Postgres", "find_binaries", "private_server"]

START_SECONDS = 60.0


def find_binaries() -> Path | None:
    """The folder of `initdb` and `postgres`: Debian keeps them off the PATH."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))
    on_path = shutil.which("initdb")
    for place in [*places, *([Path(on_path).resolve().parent] if on_path else [])]:
        if (place / "initdb").exists() and (place / "postgres").exists():
            return place
    return None


class Postgres:
    """A server without a network, in a folder of its own, which a test can stop, kill and start again.

    PostgreSQL refuses to run as root, so that for root it runs as `postgres`, or as `nobody` where there is none. On a
    `host` it listens at that host's address, port 5432, too.
    """

    def __init__(self, host: Host | None = None) -> None:
        self._host = host
        binaries = find_binaries()
        assert binaries is not None
        self._binaries = binaries
        self._folder = Path(tempfile.mkdtemp(prefix="understudy-pg-"))
        user = _unprivileged() if os.getuid() == 0 else None
        self._as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        if user:
            os.chown(self._folder, user.pw_uid, user.pw_gid)
        self._data = self._folder / "data"
        self._server: subprocess.Popen[bytes] | None = None
        init = ["-D", self._data, "-U", "understudy", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
        assert self._run("initdb", *init).wait() == 0, "initdb failed"
        if host is not None:
            with (self._data / "pg_hba.conf").open("a") as rules:
                rules.write("host all all 0.0.0.0/0 trust\n")

    def url(self, database: str) -> str:
        if self._host is not None:
            return f"postgresql+psycopg://understudy@{self._host.address}/{database}"
        return f"postgresql+psycopg://understudy@/{database}?host={self._folder}"

    def start(self) -> None:
        """Start it where it does not run, and wait until it answers."""
        if self._server is not None:
            return
        listen = self._host.address if self._host is not None else ""
        options = [
            "-c",
            f"listen_addresses={listen}",
            "-c",
            "fsync=off",
            "-c",
            f"unix_socket_directories={self._folder}",
        ]
        self._server = self._run("postgres", "-D", self._data, *options)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._server.poll() is None, "postgres ended while it started"
            assert time.monotonic() < deadline, "postgres does not answer"
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT cuts its clients off and ends in order, SIGQUIT leaves all as a crash would."""
        if self._server is not None:
            self._server.send_signal(how)
            self._server.wait(20)
            self._server = None

    def create(self, database: str) -> str:
        """Make a database, and give its URL."""
        with psycopg.connect(f"user=understudy dbname=postgres host={self._folder}", autocommit=True) as sql:
            sql.execute(f"CREATE DATABASE {database}")
        return self.url(database)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            psycopg.connect(f"user=understudy dbname=postgres host={self._folder}").close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, command: str, *arguments: object) -> subprocess.Popen[bytes]:
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "env": {"PATH": os.defpath}}
        words = [str(self._binaries / command), *map(str, arguments)]
        if self._host is None:
            return subprocess.Popen(words, cwd=self._folder, **quiet, **self._as_user)
        user = [f"--reuid={self._as_user['user']}", f"--regid={self._as_user['group']}", "--clear-groups"]
        return subprocess.Popen([*self._host.prefix, "setpriv", *user, *words], cwd=self._folder, **quiet)


@contextmanager
def private_server() -> Iterator[str]:
    """A server that is ended and removed afterwards; gives its URL with `{}` for the name of a database."""
    server = Postgres()
    try:
        server.start()
        yield server.url("{}")
    finally:
        server.close()


def _unprivileged() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")
