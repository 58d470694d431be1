"""Which engine serves a model folder: the one asked for, or the fastest that was published and can run here."""

from __future__ import annotations

from pathlib import Path

import structlog
import torch

from understudy.errors import ModelError, UnknownName
from understudy.models.load import load_card
from understudy.models.sizes import parameters
from understudy.serving.export import open_exported
from understudy.serving.hf import HFEngine
from understudy.serving.processor import slow_here
from understudy.serving.published import NAMES, EngineResult, missing, read, size_of

__all__ = ["CHOICES", "least_bytes", "load_engine"]

CHOICES = ("auto", "hf", "ct2", "ort", *NAMES)

_FLOAT32 = 4  # bytes: what the reference is read in

log = structlog.get_logger()


def load_engine(folder: Path, device: str = "auto", name: str | None = None, *, engine: str = "auto") -> HFEngine:
    """Load a model folder as `HFEngine.load` does, on another engine where `engine` says so.

    `auto` is the reference on an accelerator, and on a CPU the published engine that was fastest beside it, if one was
    faster, its package is installed and this processor has the instructions that int8 is fast by; one that turns out to
    be unreadable, or that its library refuses on this machine, is left for the next one, with a warning.
    `ct2` and `ort` take the faster of their precisions. Raises UnknownName, ModelNotFound, or ModelError where the
    engine asked for was not published, cannot run here, or cannot be read.
    """
    if engine not in CHOICES:
        raise UnknownName.among("engine", engine, CHOICES, param="engine")
    if engine == "auto":
        return _fastest(folder, device, name)
    if engine == "hf":
        return HFEngine.load(folder, device, name)
    return open_exported(folder, _asked(folder, engine), label=name)


def least_bytes(folder: Path, engine: str = "auto") -> int:
    """What `load_engine` will keep in memory at the least, as the files say; which engine runs is known later.

    Raises ModelError where the files are none of a model's.
    """
    reference = _FLOAT32 * parameters(folder)
    card = load_card(folder)
    beside = reference if card is None or card.reasons == "saliency" else 0
    asked = [one.name for one in _published(folder) if engine == "auto" or _means(engine, one)]
    sizes = [size_of(folder, name) + beside for name in asked]
    if engine in ("auto", "hf"):
        sizes.append(reference)
    return min(sizes, default=0)


def _fastest(folder: Path, device: str, name: str | None) -> HFEngine:
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        for one in _published(folder):
            if missing(one.name) or slow_here(one.name) or (one.speedup or 0) <= 1:
                continue
            try:
                return open_exported(folder, one.name, label=name)
            except ModelError as error:
                log.warning("engine_not_readable", model=name or folder.name, engine=one.name, problem=error.message)
    return HFEngine.load(folder, device, name)


def _asked(folder: Path, engine: str) -> str:
    """The published engine that is meant."""
    published = _published(folder)
    meant = [one.name for one in published if _means(engine, one)]
    if not meant:
        known = ", ".join(["hf", *(one.name for one in published)])
        raise ModelError(f"'{folder.name}' was published without the engine {engine}: it has {known}", param="engine")
    if absent := missing(meant[0]):
        raise ModelError(
            f"the engine {meant[0]} needs {' and '.join(absent)}, which is not installed here: "
            "pip install 'understudy[engines]'",
            param="engine",
        )
    return meant[0]


def _means(engine: str, one: EngineResult) -> bool:
    return engine in (one.name, one.name.partition(":")[0])


def _published(folder: Path) -> tuple[EngineResult, ...]:
    """The published engines, the fastest first, of those that this version knows."""
    report = read(folder)
    return tuple(one for one in report.published if one.name in NAMES) if report else ()
