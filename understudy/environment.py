"""Where something was made: versions, the code's commit, the processor, its cores and threads. Imports no torch.

Equal environments compute equal bits; with another one the last digits of a sum may differ. Knows nothing of models.
"""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

__all__ = ["Environment", "cores", "cpu_name"]

_PACKAGES = ("understudy", "torch", "transformers", "tokenizers", "accelerate", "peft")


class Environment(BaseModel):
    """`versions` has the packages that are installed, and Python. `commit` is None where the code is no checkout.

    A commit that ends in `+` had changes that were not committed. `device` is `cpu`, or the accelerator's name;
    `threads` are those that one training computes with, `processes` those that shared it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    versions: dict[str, str]
    commit: str | None = None
    cpu: str
    cores: int
    threads: int
    device: str = "cpu"
    processes: int = 1

    @classmethod
    def here(cls, *, threads: int, device: str = "cpu", processes: int = 1) -> Environment:
        """This process's own."""
        return cls(
            versions=_versions(),
            commit=_commit(),
            cpu=cpu_name(),
            cores=cores(),
            threads=threads,
            device=device,
            processes=processes,
        )

    def differences(self, other: Environment) -> tuple[str, ...]:
        """What may make figures differ, as `torch: 2.12 -> 2.13`; the number of idle cores does not."""
        names = sorted({*self.versions, *other.versions})
        pairs = [(name, self.versions.get(name), other.versions.get(name)) for name in names]
        pairs += [(name, getattr(self, name), getattr(other, name)) for name in ("commit", "cpu", "device")]
        pairs += [(name, str(getattr(self, name)), str(getattr(other, name))) for name in ("threads", "processes")]
        return tuple(
            f"{name}: {before or 'none'} -> {after or 'none'}" for name, before, after in pairs if before != after
        )


def cpu_name() -> str:
    """The processor's name, which `platform` does not know on Linux."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@lru_cache(maxsize=1)  # of the code that is loaded, which does not change
def _commit() -> str | None:
    """The checkout's commit; None without git, or where the folder above the package is not the checkout itself."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "understudy", "services")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head}+" if changed else head


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
