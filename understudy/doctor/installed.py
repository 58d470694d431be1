"""What is installed: Python, the packages of each extra, torch with its device, engines, and the hub's cache."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from understudy.doctor.finding import Finding, Place
from understudy.serving.processor import slow_here

__all__ = ["engines", "hub", "packages", "python", "tested_versions", "torch"]

OLDEST = (3, 11)
WHOLE = ("models", "web", "teacher", "student", "train", "orchestrator")
"""The extras that the local stack needs."""
OTHERS = ("engines", "s3", "postgres", "hub")
"""Those for who wants them: looked at where they are installed."""

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
"""The versions that are tested; there in a checkout."""

SHOWN = ("torch", "transformers", "captum", "accelerate", "peft", "fastapi", "celery", "sqlalchemy")

_TORCH = """
import json, torch
found = {"version": torch.__version__, "built": torch.version.cuda, "gpus": []}
if torch.cuda.is_available():
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        found["gpus"].append([torch.cuda.get_device_name(i), free, total])
print(json.dumps(found))
"""


def python(_: Place) -> Iterator[Finding]:
    here = f"Python {platform.python_version()} in {sys.prefix}"
    if sys.version_info[:2] < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        yield Finding("python", "problem", f"{here}; {wanted} or newer is needed", f"python{wanted} -m venv .venv")
    else:
        yield Finding("python", "ok", here)


def packages(_: Place) -> Iterator[Finding]:
    """One line for what is there, and one for each package that is missing or too old."""
    there = [f"{name} {found}" for name in ("understudy", *SHOWN) if (found := _version(name))]
    yield Finding("packages", "ok", ", ".join(there))
    wanted = {one.name: one for one in _wanted()}
    missing = [name for name in wanted if _version(name) is None]
    if missing:
        yield Finding(
            "packages",
            "warning",
            f"not installed: {', '.join(sorted(missing))}; the local stack needs them, a client does not",
            "pip install 'understudy[local]'",
        )
    for name, one in wanted.items():
        found = _version(name)
        if found and not one.specifier.contains(found, prereleases=True):
            need = f"{name}{one.specifier}"
            yield Finding(
                "packages", "problem", f"{name} {found} is installed; needed is {need}", f"pip install '{need}'"
            )


def tested_versions(_: Place) -> Iterator[Finding]:
    """What differs from constraints.txt, where this is a checkout."""
    if not CONSTRAINTS.is_file():
        return
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))
    other = [
        f"{name} {found} (tested: {wanted.strip()})"
        for name, wanted in pinned.items()
        if (found := _version(name)) and found.partition("+")[0] != wanted.partition(";")[0].strip().partition("+")[0]
    ]
    if other:
        more = f" and {len(other) - 5} more" if len(other) > 5 else ""
        fix = f"pip install -c {CONSTRAINTS} -e '.[dev]'"
        yield Finding("tested versions", "warning", f"others are installed: {', '.join(other[:5])}{more}", fix)
    else:
        yield Finding("tested versions", "ok", f"all that is installed is as in {CONSTRAINTS.name}")


def torch(_: Place) -> Iterator[Finding]:
    """Asked in a process of its own: a broken build ends that one, and importing it takes seconds."""
    if _version("torch") is None:
        return
    done = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True, timeout=60)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        yield Finding("torch", "problem", f"cannot be imported: {last}", "pip install --force-reinstall torch")
        return
    found = json.loads(done.stdout.splitlines()[-1])
    if found["gpus"]:
        for name, free, total in found["gpus"]:
            memory = f"{free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
            yield Finding("torch", "ok", f"{found['version']} on {name}, {memory}")
    elif Path("/dev/nvidia0").exists():
        why = f"was built for CUDA {found['built']}" if found["built"] else "was built for CPUs"
        yield Finding(
            "torch",
            "warning",
            f"{found['version']} finds no GPU, and there is one: this torch {why}",
            "pip install torch from the index that https://pytorch.org/get-started names for your driver",
        )
    else:
        yield Finding("torch", "ok", f"{found['version']} on the CPU; no GPU is here")


def engines(_: Place) -> Iterator[Finding]:
    there = [f"{name} {found}" for name in ("ctranslate2", "onnxruntime") if (found := _version(name))]
    missing = [name for name in ("ctranslate2", "onnxruntime") if not _version(name)]
    if there:
        yield Finding("engines", "ok", ", ".join(there))
    if missing:
        says = f"without {' and '.join(missing)} students are served by torch, which is slower on a CPU"
        yield Finding("engines", "warning", says, "pip install 'understudy[engines]'")
    if there and slow_here("ct2:int8"):
        yield Finding("engines", "warning", "this processor has no AVX2: int8 would be slow, and float32 is taken")


def hub(_: Place) -> Iterator[Finding]:
    """Where models of the hub are kept, and whether they are fetched."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    offline = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name, "") not in ("", "0")]
    place = next(folder for folder in (home, *home.absolute().parents) if folder.exists())
    if not os.access(place, os.W_OK):
        says = f"{home} cannot be written: models cannot be kept"
        yield Finding("hub", "warning", says, "export HF_HOME=FOLDER, one that you may write to")
    elif offline:
        says = f"{offline[0]} is set: only models that are in {home} already can be named"
        yield Finding("hub", "warning", says, f"unset {offline[0]}, unless that is meant")
    else:
        yield Finding("hub", "ok", f"models are fetched when they are named, and kept in {home}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _wanted() -> Iterator[Requirement]:
    """What the local stack requires, and of the other extras what is installed."""
    for text in requires("understudy") or ():
        one = Requirement(text)
        if one.name == "understudy" or (one.marker and not _applies(one)):
            continue
        yield one


def _applies(one: Requirement) -> bool:
    assert one.marker is not None
    return any(one.marker.evaluate({"extra": extra}) for extra in ("", *WHOLE)) or (
        _version(one.name) is not None
        and any(one.marker.evaluate({"extra": extra}) for extra in ("engines", "s3", "hub"))
    )
