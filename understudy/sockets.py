"""Connections that notice when the other side is gone without a word: a cut cable, a host without power.

TCP says nothing then. Who waits for an answer waits to its own deadline, and who has sent something for a quarter of an
hour (RFC 1122, section 4.2.3.5). Probes of a silent connection, and a bound on what is not acknowledged, end that after
half a minute, however long an answer takes that somebody works on. Systems that lack one of the options go without it.
"""

from __future__ import annotations

import socket

__all__ = ["GONE_SECONDS", "IDLE_SECONDS", "INTERVAL_SECONDS", "PROBES", "options"]

IDLE_SECONDS, INTERVAL_SECONDS, PROBES = 10, 5, 4
GONE_SECONDS = IDLE_SECONDS + INTERVAL_SECONDS * PROBES
"""How long a connection whose other side is gone lasts."""


def options() -> list[tuple[int, int, int]]:
    """Level, name and value of each, for `socket.setsockopt`."""
    wanted = {
        "TCP_KEEPIDLE": IDLE_SECONDS,
        "TCP_KEEPALIVE": IDLE_SECONDS,  # its name on macOS
        "TCP_KEEPINTVL": INTERVAL_SECONDS,
        "TCP_KEEPCNT": PROBES,
        "TCP_USER_TIMEOUT": 1000 * GONE_SECONDS,
    }
    known = {name: value for name, value in wanted.items() if hasattr(socket, name)}
    of_tcp = [(socket.IPPROTO_TCP, int(getattr(socket, name)), value) for name, value in known.items()]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *of_tcp]
