"""`understudy doctor`: is everything here that a job needs, and what to do where it is not.

Every probe runs in a thread of its own and has a few seconds: a service that hangs costs its own line and no other.
Nothing is changed, and no secret is shown: whatever a probe says passes through `secrets.hidden`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, Queue
from time import monotonic

from understudy.doctor import installed, machine, services
from understudy.doctor.finding import Finding, Place
from understudy.doctor.secrets import hidden

__all__ = ["Finding", "Place", "examine"]

SECONDS = 20.0
"""How long any probe may take; importing torch is the slowest."""

Probe = Callable[[Place], Iterable[Finding]]
Probes = tuple[tuple[str, Probe], ...]

PROBES: Probes = (
    ("python", installed.python),
    ("packages", installed.packages),
    ("tested versions", installed.tested_versions),
    ("torch", installed.torch),
    ("engines", installed.engines),
    ("hub", installed.hub),
    ("processor", machine.processor),
    ("memory", machine.memory),
    ("disk", machine.disk),
    ("broker", machine.broker),
    ("ports", machine.ports),
    ("artifacts", services.artifacts),
    ("database", services.database),
    ("services", services.answering),
)


def examine(
    place: Place, seconds: float = SECONDS, probes: tuple[tuple[str, Probe], ...] = PROBES
) -> Iterator[Finding]:
    """What each probe finds, in their order, as soon as that is known. Never takes much longer than `seconds`."""
    deadline = monotonic() + seconds
    for name, queue in [(name, _started(probe, place)) for name, probe in probes]:
        try:
            found = queue.get(timeout=max(0.0, deadline - monotonic()))
        except Empty:
            found = [Finding(name, "warning", f"is not known: it took longer than {seconds:g} s", "run it again")]
        known = found if isinstance(found, list) else [Finding(name, "warning", f"is not known: {found}")]
        yield from (Finding(one.name, one.state, hidden(one.says), hidden(one.fix)) for one in known)


def _started(probe: Probe, place: Place) -> Queue[list[Finding] | str]:
    """Run a probe aside; the thread ends with this process, whatever it waits for."""
    answer: Queue[list[Finding] | str] = Queue()

    def run() -> None:
        try:
            answer.put(list(probe(place)))
        except Exception as error:  # a doctor who falls ill himself must still tell of the rest
            answer.put(f"{type(error).__name__}: {error}"[:300])

    threading.Thread(target=run, daemon=True).start()
    return answer
