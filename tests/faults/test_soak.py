"""Random kills over many jobs, by dice whose seed is told; `UNDERSTUDY_SOAK_SEED` throws the same ones again."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest
from stand.soak import Soak

pytestmark = pytest.mark.e2e


def soak(folder: Path, seed: str, count: int, seconds: float) -> None:
    one = Soak(folder, seed, count, seconds)
    one.run()
    assert sum(one.killed.values()), "nobody was killed: that shows nothing"
    print(f"seed {seed}: {count} jobs, killed {dict(one.killed)}")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_few_jobs_survive_random_kills(tmp_path: Path) -> None:
    soak(tmp_path, "few", 5, 250)


@pytest.mark.slow
@pytest.mark.timeout(2700)
def test_a_hundred_jobs_survive_random_kills(tmp_path: Path) -> None:
    soak(tmp_path, os.environ.get("UNDERSTUDY_SOAK_SEED") or secrets.token_hex(4), 100, 2400)
