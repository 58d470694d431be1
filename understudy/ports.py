"""Which TCP ports the local stack's services get, and whose fault it is when one cannot be had."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from contextlib import ExitStack, suppress

import psutil

from understudy.errors import Conflict

__all__ = ["free_ports", "holder"]


def free_ports(host: str, wanted: Mapping[str, int]) -> dict[str, int]:
    """The port of each service; for a wanted 0 any free one, and no two of them the same.

    Raises Conflict, which names the option to change.
    """
    chosen: dict[str, int] = {}
    with ExitStack() as probes:  # held until all are chosen, or the system might give one port out twice
        for name, port in wanted.items():
            twin = next((other for other, taken in chosen.items() if taken == port), None)
            if twin:
                raise _taken(name, f"port {port} cannot be both the {twin}'s and the {name}'s")
            probe = probes.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise _refused(host, port, name, error) from error
            chosen[name] = int(probe.getsockname()[1])
    return chosen


def _refused(host: str, port: int, name: str, error: OSError) -> Conflict:
    if error.errno not in (errno.EADDRINUSE, errno.EACCES):
        return Conflict(f"the address {host} cannot be bound ({error.strerror}): choose another with --host")
    return _taken(name, f"port {port} for the {name} cannot be had on {host} ({error.strerror}{holder(port)})")


def _taken(name: str, complaint: str) -> Conflict:
    flag = "--port" if name == "orchestrator" else f"--{name}-port"
    return Conflict(f"{complaint}: choose another with {flag}, or 0 for any free one")


def holder(port: int) -> str:
    """The program that listens on a port, where the system lets us know."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                return f", by {psutil.Process(connection.pid).name()} with process id {connection.pid}"
    return ""
