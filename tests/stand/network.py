"""Hosts with an address of their own on one machine: network namespaces, joined by a router, whose cables a test cuts.

A cut cable is a partition as in a machine room: nothing is refused, packets are gone, both ways. Needs the right to
make namespaces, and iproute2; `unable` says what is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["HERE", "Host", "Network", "unable"]

HERE: set[str] = set()
"""The addresses of hosts that are namespaces of this machine."""

IP = shutil.which("ip") or "ip"


def unable() -> str | None:
    """Why there can be no network of hosts here; None where there can be one."""
    if shutil.which("ip") is None:
        return "no `ip` (Debian: iproute2)"
    name = f"try{os.getpid()}"
    if _ip("netns", "add", name, check=False) != 0:
        return "no right to make network namespaces"
    made = _ip("-n", name, "link", "add", "c1", "type", "veth", "peer", "name", "c2", check=False)
    _ip("netns", "del", name)
    return None if made == 0 else "no cables between network namespaces"


class Host:
    """A namespace with one cable. Files are shared by all hosts, as on a common disk."""

    def __init__(self, network: Network, name: str, address: str, cable: str) -> None:
        self.name, self.address = name, address
        self._network, self._cable = network, cable

    @property
    def prefix(self) -> tuple[str, ...]:
        """Before a command that is to run on this host."""
        return (IP, "netns", "exec", self._network.namespace(self.name))

    def run(self, command: Sequence[str], environment: Mapping[str, str], **more: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self.prefix, *command], env={**os.environ, **environment}, **more)

    def cut(self) -> None:
        """Pull the cable out: what the host sends and what is sent to it is lost, and nobody is told."""
        self._network.pass_on(self._cable, False)
        self._network.route("blackhole", self.address)

    def heal(self) -> None:
        self._network.route(self.address, "dev", self._cable)
        self._network.pass_on(self._cable, True)


class Network:
    """A router with a cable to each host, and one to this process."""

    def __init__(self) -> None:
        number = os.getpid() % 12_500
        self._name = f"us{number}"
        self._net = f"10.{200 + number // 250}.{number % 250}"
        self._router, self._at = self.namespace("router"), f"{self._net}.253"
        self._hosts: list[str] = []
        _ip("netns", "add", self._router)
        self._set("ip_forward", "1")
        self._plug("c254", self._name, f"{self._net}.254", None)
        _ip("route", "add", f"{self._net}.0/24", "via", self._at, "dev", self._name)

    def namespace(self, host: str) -> str:
        return f"{self._name}-{host}"

    def host(self, name: str) -> Host:
        namespace = self.namespace(name)
        self._hosts.append(namespace)
        address, cable = f"{self._net}.{len(self._hosts)}", f"c{len(self._hosts)}"
        HERE.add(address)
        _ip("netns", "add", namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")
        self._plug(cable, "eth0", address, namespace)
        _ip("-n", namespace, "route", "add", "default", "via", self._at)
        return Host(self, name, address, cable)

    def route(self, *words: str) -> None:
        """Replace the router's route to an address."""
        _ip("-n", self._router, "route", "replace", *words)

    def pass_on(self, cable: str, so: bool) -> None:
        """Whether the router forwards what comes from a cable. Without it packets are dropped silently."""
        self._set(f"conf/{cable}/forwarding", str(int(so)))

    def close(self) -> None:
        """Take everything down, this process's cable with the router's end of it. What runs there must have ended."""
        for namespace in (*self._hosts, self._router):
            _ip("netns", "del", namespace, check=False)

    def _plug(self, cable: str, device: str, address: str, namespace: str | None) -> None:
        """A cable from the router to a device with that address, in a namespace or where this process is."""
        there = ("-n", namespace) if namespace else ()
        _ip("-n", self._router, "link", "add", cable, "type", "veth", "peer", "name", f"{cable}p")
        _ip("-n", self._router, "link", "set", f"{cable}p", "netns", namespace or str(os.getpid()))
        _ip(*there, "link", "set", f"{cable}p", "name", device)
        for place, end, at in ((("-n", self._router), cable, self._at), (there, device, address)):
            _ip(*place, "addr", "add", f"{at}/32", "dev", end)
            _ip(*place, "link", "set", end, "up")
        _ip(*there, "route", "add", self._at, "dev", device)
        self.route(address, "dev", cable)

    def _set(self, name: str, value: str) -> None:
        place = f"/proc/sys/net/ipv4/{name}"
        subprocess.run([IP, "netns", "exec", self._router, "sh", "-c", f"echo {value} > {place}"], check=True)


def _ip(*arguments: str, check: bool = True) -> int:
    done = subprocess.run([IP, *arguments], capture_output=True, text=True)
    assert not check or done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"
    return done.returncode
