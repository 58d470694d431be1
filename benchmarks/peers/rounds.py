"""Time taken in turns: every variant once a round, so that a busy machine slows all of them alike.

Knows nothing of what is measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

__all__ = ["Cost", "Variant", "in_turns", "ratios", "spread", "timed"]


class Cost(NamedTuple):
    """Seconds of processor time, of all threads of the process that worked, and seconds that a caller waited."""

    cpu: float
    wall: float


Variant = Callable[[], Cost]


def timed(work: Callable[[], object]) -> Variant:
    """Work of this process as a variant."""

    def run() -> Cost:
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        return Cost(time.process_time() - cpu, time.perf_counter() - wall)

    return run


def in_turns(variants: Mapping[str, Variant], rounds: int) -> dict[str, list[Cost]]:
    """The costs of each variant in each round, after one round that is not counted."""
    found: dict[str, list[Cost]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, run in variants.items():
            cost = run()
            if number:
                found[name].append(cost)
                print(
                    f"round {number} of {rounds}  {name:<24} cpu {cost.cpu:8.2f} s  wall {cost.wall:8.2f} s", flush=True
                )
    return found


def ratios(costs: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """The spread over rounds of one variant's costs over another's of the same round."""
    return spread([mine / other for mine, other in zip(costs, base, strict=True)])


def spread(values: Sequence[float]) -> dict[str, float]:
    return {
        name: round(figure(values), 3) for name, figure in (("median", statistics.median), ("min", min), ("max", max))
    }
