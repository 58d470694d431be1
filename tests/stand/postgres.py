"""A private PostgreSQL for a run of the tests, from the binaries that this machine has."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["find_binaries", "private_server"]

SOCKET_SECONDS = 20.0


def find_binaries() -> Path | None:
    """The folder of `initdb` and `postgres`: Debian keeps them off the PATH."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))
    on_path = shutil.which("initdb")
    for place in [*places, *([Path(on_path).resolve().parent] if on_path else [])]:
        if (place / "initdb").exists() and (place / "postgres").exists():
            return place
    return None


@contextmanager
def private_server() -> Iterator[str]:
    """A server without a network, in a folder of its own, ended and removed afterwards; gives its URL.

    PostgreSQL refuses to run as root, so that for root it runs as `postgres`, or as `nobody` where there is none.
    """
    binaries = find_binaries()
    assert binaries is not None
    user = _unprivileged() if os.getuid() == 0 else None
    as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    folder = Path(tempfile.mkdtemp(prefix="understudy-pg-"))
    try:
        if user:
            os.chown(folder, user.pw_uid, user.pw_gid)
        data = folder / "data"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "cwd": folder, "env": {"PATH": os.defpath}}
        init = [binaries / "initdb", "-D", data, "-U", "understudy", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
        subprocess.run(init, check=True, **quiet, **as_user)  # type: ignore[call-overload]
        options = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", f"unix_socket_directories={folder}"]
        server = subprocess.Popen([binaries / "postgres", "-D", data, *options], **quiet, **as_user)  # type: ignore[call-overload]
        try:
            _wait_for(folder / ".s.PGSQL.5432", server)
            yield f"postgresql+psycopg://understudy@/{{}}?host={folder}"
        finally:
            server.terminate()
            server.wait(20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _wait_for(socket: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SOCKET_SECONDS
    while not socket.exists():
        assert server.poll() is None, "postgres ended while it started"
        assert time.monotonic() < deadline, "postgres does not listen"
        time.sleep(0.05)
