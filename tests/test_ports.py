"""Ports that are taken, twice wanted, or on an address that is not ours."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from understudy.errors import Conflict
from understudy.ports import free_ports

LOCAL = "127.0.0.1"


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind((LOCAL, 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_a_wanted_0_is_any_free_port_and_no_two_are_the_same() -> None:
    chosen = free_ports(LOCAL, {"orchestrator": 0, "teacher": 0, "student": 0})
    assert len(set(chosen.values())) == 3
    assert 0 not in chosen.values()


def test_a_taken_port_is_refused_by_the_option_that_set_it(taken: int) -> None:
    with pytest.raises(Conflict, match=f"port {taken} for the orchestrator .*choose another with --port,"):
        free_ports(LOCAL, {"orchestrator": taken})
    with pytest.raises(Conflict, match="choose another with --student-port"):
        free_ports(LOCAL, {"orchestrator": 0, "student": taken})


def test_one_port_cannot_serve_two() -> None:
    port = free_ports(LOCAL, {"teacher": 0})["teacher"]
    with pytest.raises(Conflict, match=f"port {port} cannot be both the orchestrator's and the teacher's.*--teacher-"):
        free_ports(LOCAL, {"orchestrator": port, "teacher": port})


def test_an_address_that_is_not_this_machines_is_the_hosts_fault() -> None:
    with pytest.raises(Conflict, match=r"192\.0\.2\.1 cannot be bound .*--host"):
        free_ports("192.0.2.1", {"orchestrator": 0})
