"""What a model folder says of its engines: `engines.json`, written where they were made and compared. No torch.

Every engine that was tried is listed, with what was measured and, where it was left out, why. The published ones lie in
`engines/<engine>-<precision>` beside the weights; the reference engine, `hf`, needs no entry.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from understudy.errors import ModelError, UnknownName

__all__ = [
    "INSTEAD_OF",
    "MAX_DROP",
    "MIN_AGREEMENT",
    "NAMES",
    "REPORT",
    "EngineName",
    "EngineReport",
    "EngineResult",
    "folder_of",
    "missing",
    "parse",
    "read",
    "size_of",
]

EngineName = Literal["ct2", "ort"]

NAMES = ("ct2:int8", "ct2:float32", "ort:int8", "ort:int8-blocks", "ort:float32")
"""What can be exported. `ct2` is CTranslate2, for T5 students; `ort` is ONNX Runtime, for classifiers."""

INSTEAD_OF = {"ort:int8-blocks": "ort:int8"}
"""An engine that is only made where another one did not pass: more exact, and slower."""

REPORT = "engines.json"

MIN_AGREEMENT = 0.99
MAX_DROP = 0.005
"""The gate: the least share of answers that equal the reference's, and by how much the share of right ones may drop."""

_TO_RUN = {"ct2": ("ctranslate2",), "ort": ("onnxruntime",)}
_TO_EXPORT = {"ct2": ("ctranslate2",), "ort": ("onnxruntime", "onnx", "onnxscript")}


class EngineResult(BaseModel):
    """One engine beside the reference. Times are medians of single requests, in milliseconds; sizes are in bytes.

    `speedup` is the median of the requests' own ratios, reference over engine. Figures are None where it did not come
    that far, and `problem` says why it is not published.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    published: bool = False
    problem: str | None = None
    rows: int = 0
    agreement: float | None = None
    accuracy: float | None = None
    reference_accuracy: float | None = None
    bytes: int | None = None
    reference_bytes: int | None = None
    latency_ms: float | None = None
    reference_latency_ms: float | None = None
    speedup: float | None = None

    @property
    def sentence(self) -> str:
        """One line for a person."""
        if self.agreement is None or self.accuracy is None or self.reference_accuracy is None:
            return f"Engine {self.name} is not published: {self.problem}"
        drop = 100 * (self.reference_accuracy - self.accuracy)
        megabytes, reference = (self.bytes or 0) / 1e6, (self.reference_bytes or 0) / 1e6
        facts = (
            f"agrees with the reference on {100 * self.agreement:.1f} % of {self.rows} validation rows, accuracy "
            f"{0.0 - drop:+.1f} points, {megabytes:.1f} MB (reference {reference:.1f}), "
            f"{self.speedup or 0:.1f} x as fast on single requests"
        )
        return (
            f"Engine {self.name}: {facts}"
            if self.published
            else f"Engine {self.name} is not published: {self.problem} ({facts})"
        )


class EngineReport(BaseModel):
    """`engines.json`: the gate, and every engine that was tried."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    min_agreement: float
    max_drop: float
    threads: int
    results: tuple[EngineResult, ...] = ()

    @property
    def published(self) -> tuple[EngineResult, ...]:
        """The engines that passed, the fastest first."""
        return tuple(
            sorted((one for one in self.results if one.published), key=lambda one: (-(one.speedup or 0), one.name))
        )


def parse(name: str) -> tuple[EngineName, str]:
    """`ort:int8` -> `("ort", "int8")`. Raises UnknownName, which lists the choices."""
    if name not in NAMES:
        raise UnknownName.among("engine", name, NAMES, param="engine")
    engine, _, precision = name.partition(":")
    return ("ct2" if engine == "ct2" else "ort"), precision


def folder_of(folder: Path, name: str) -> Path:
    """Where a model's engine lies. Names come from a file that came with the model: only those above are paths."""
    engine, precision = parse(name)
    return folder / "engines" / f"{engine}-{precision}"


def size_of(folder: Path, name: str) -> int:
    """Bytes of a model's engine: of all its files."""
    return sum(path.stat().st_size for path in folder_of(folder, name).rglob("*") if path.is_file())


def missing(name: str, *, export: bool = False) -> tuple[str, ...]:
    """The packages that this machine lacks to run an engine, or to export one."""
    engine, _ = parse(name)
    return tuple(package for package in (_TO_EXPORT if export else _TO_RUN)[engine] if find_spec(package) is None)


def read(folder: Path) -> EngineReport | None:
    """What a model folder says of its engines; None where it says nothing. Raises ModelError for nonsense."""
    path = folder / REPORT
    if not path.is_file():
        return None
    try:
        return EngineReport.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ModelError(f"{REPORT} cannot be read: {error.errors()[0]['msg']}", param="model") from error
