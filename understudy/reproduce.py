"""Train an arm of a report again and say whether the same figures come out. Imports torch only to do so.

What it reads is checked by content before any work begins. On the same processor with the same versions and threads a
training gives the same bits; elsewhere its last digits may differ, and by how much is said and not smoothed over.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, computed_field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from understudy.artifacts import ArtifactStore
from understudy.environment import Environment
from understudy.errors import ArtifactNotFound, InvalidRequest
from understudy.evaluation.manifest import ArmRecord, Manifest, answers_hash, weights_of
from understudy.evaluation.metrics import correctness, wilson
from understudy.evaluation.report import Report, points
from understudy.training.spec import TrainEvent, TrainResult

__all__ = ["Figure", "Reproduction", "find_report", "reproduce", "show"]

HOME = Path(".understudy/artifacts")
"""The store where none is named and the report lies in none."""

_ARTIFACT = re.compile(r"(report|model)-[0-9a-f]{24}")
Verdict = Literal["bit-equal", "equal figures", "within the interval", "different"]
Emit = Callable[[str, int, int], None]
"""Told what is done, how far it is, and out of how much."""


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True)


class Figure(_Said):
    """A figure of the report beside the same one now; None where the report does not have it.

    `low` and `high` bound an accuracy with 95 % confidence: Wilson's interval of that one run on so many rows.
    """

    name: str
    recorded: float | str | None
    found: float | str
    low: float | None = None
    high: float | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def equal(self) -> bool:
        return self.recorded == self.found

    @property
    def within(self) -> bool:
        """Equal, or an accuracy inside the interval of the recorded one."""
        inside = isinstance(self.found, float) and self.low is not None and self.high is not None
        return self.equal or (inside and self.low <= self.found <= self.high)  # type: ignore[operator]


class Reproduction(_Said):
    """What became of one arm. `differences` are those of the environment; where there are any, bits may differ.

    `by_clock`: it had a time in place of steps, so that figures are never the same but by chance.
    """

    recipe: str
    seed: int
    size: int | None
    figures: tuple[Figure, ...]
    differences: tuple[str, ...]
    by_clock: bool = False
    seconds: float

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdict(self) -> Verdict:
        if all(one.equal for one in self.figures):
            return "bit-equal"
        accuracies = [one for one in self.figures if isinstance(one.found, float)]
        answers = [one for one in self.figures if one.name == "test answers"]
        if self.differences and all(one.equal for one in [*accuracies, *answers]):
            return "equal figures"
        return "within the interval" if self.differences and all(one.within for one in accuracies) else "different"

    @computed_field  # type: ignore[prop-decorator]
    @property
    def confirmed(self) -> bool:
        return self.verdict in ("bit-equal", "equal figures")

    @property
    def sentence(self) -> str:
        arm = f"{self.recipe}, seed {self.seed}" + (f", {self.size} rows" if self.size else "")
        return {
            "bit-equal": f"Confirmed: {arm} gives the same weights, bit by bit, and the same figures.",
            "equal figures": f"Confirmed: {arm} gives the same figures. Its weights differ in bits, as they may here.",
            "within the interval": f"Not confirmed: {arm} gives other figures, within the interval of the report's. "
            + (
                "By the clock they always may."
                if self.by_clock
                else "They may differ here; the same environment would tell."
            ),
            "different": f"Not confirmed: {arm} gives other figures.",
        }[self.verdict]


def reproduce(
    reference: str,
    *,
    arm: str | None = None,
    seed: int | None = None,
    size: int | None = None,
    artifacts: Path | None = None,
    emit: Emit = lambda *_: None,
) -> Reproduction:
    """Train one arm of a report again and compare. The default is the published one, with its seed.

    `reference` is a report.json, the folder of a published model or of a report, or an artifact's id or alias in the
    store `artifacts`. Raises InvalidRequest for what the report does not have (param `report`, `arm`, `seed`),
    ArtifactNotFound or ArtifactCorrupt for data that is not there any more or is not what it was.
    """
    report, store = find_report(reference, artifacts)
    if report.manifest is None:
        raise InvalidRequest(
            f"the report of {report.job_id} has no manifest: it is from before there were any", param="report"
        )
    record = _chosen(report, report.manifest, arm, seed, size)
    spec, test = report.manifest.spec(record, store), report.manifest.data.test.find(store)
    with _threads(record.environment), tempfile.TemporaryDirectory(prefix="understudy-reproduce-") as folder:
        from understudy.training.run import train

        def follow(event: TrainEvent) -> None:
            emit("train", event.step, record.settings.get("stop_after") or event.total_steps)

        result = train(spec, Path(folder), follow)
        given, right = _answers(report.manifest, result.model, test, emit)
        figures = _figures(record, result, weights_of(result.model), given, right)
    return Reproduction(
        recipe=record.recipe,
        seed=record.seed,
        size=record.size,
        figures=figures,
        differences=_differences(record.environment, result.environment, by_clock=record.by_clock),
        by_clock=record.by_clock,
        seconds=result.seconds,
    )


def find_report(reference: str, artifacts: Path | None = None) -> tuple[Report, ArtifactStore | None]:
    """The report, and the store that holds its data: the one that is named, that the report lies in, or the usual one.

    Raises InvalidRequest (param `report`) where there is no report.
    """
    path = Path(reference).expanduser()
    path = path / "report.json" if path.is_dir() else path
    if path.is_file():
        folder = path.resolve().parent
        inside = folder.parent if _ARTIFACT.fullmatch(folder.name) else HOME
        root = artifacts or inside
        store = ArtifactStore(root) if root.is_dir() else None
    else:
        root = artifacts or HOME
        store = ArtifactStore(root)
        try:
            path = store.folder(store.resolve(reference)) / "report.json"
        except ArtifactNotFound as error:
            raise InvalidRequest(
                f"'{reference}' is no file or folder, nor an artifact in {root}: name a report.json, a published "
                f"model's folder, or an artifact with its store ({error.message})",
                param="report",
            ) from error
    try:
        return Report.model_validate_json(path.read_bytes()), store
    except FileNotFoundError as error:
        raise InvalidRequest(f"there is no report.json in {path.parent}", param="report") from error
    except ValidationError as error:
        raise InvalidRequest(f"{path} is no report: {error.errors()[0]['msg']}", param="report") from error


def _chosen(report: Report, manifest: Manifest, arm: str | None, seed: int | None, size: int | None) -> ArmRecord:
    published = report.published
    recipe = arm or published.recipe
    if seed is None and recipe == published.recipe and size is None:
        seed = published.seed
    return manifest.arm(recipe, seed, size)


@contextmanager
def _threads(recorded: Environment | None) -> Iterator[None]:
    """Compute with as many threads as the training did: they decide in which order sums are taken."""
    if recorded is None:
        yield
        return
    if "torch" not in sys.modules:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(recorded.threads)
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(recorded.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _answers(manifest: Manifest, model: Path, test: Path, emit: Emit) -> tuple[list[str], list[bool]]:
    from understudy.data.parquet import read_examples
    from understudy.evaluation.run import answers
    from understudy.serving.hf import HFEngine

    rows = read_examples(test)
    said = answers(HFEngine.load(model), rows, lambda done: emit("answer", done, len(rows)))
    given = [one.label for one in said]
    return given, correctness(manifest.task, given, rows)


def _figures(
    record: ArmRecord, result: TrainResult, weights: dict[str, str], given: list[str], right: list[bool]
) -> tuple[Figure, ...]:
    recorded, found = _one(record.weights), _one(weights)
    start = [Figure(name="untrained model", recorded=record.start, found=result.start)] if result.start else []
    return (
        *start,
        Figure(name="weights", recorded=recorded, found=found),
        _accuracy(
            "validation accuracy", record.validation_accuracy, result.validation_accuracy, result.validation_rows
        ),
        _accuracy("test accuracy", record.test_accuracy, sum(right) / len(right), len(right)),
        Figure(name="test answers", recorded=record.answers_sha256, found=answers_hash(given)),
    )


def _accuracy(name: str, recorded: float | None, found: float, rows: int) -> Figure:
    low, high = wilson(recorded * rows, rows) if recorded is not None else (None, None)
    return Figure(name=name, recorded=recorded, found=found, low=low, high=high)


def _one(weights: Any) -> str:
    """Of a model in one file its hash, else a hash of the files' hashes."""
    return next(iter(weights.values())) if len(weights) == 1 else answers_hash(f"{k} {v}" for k, v in weights.items())


def _differences(recorded: Environment | None, found: Environment | None, *, by_clock: bool = False) -> tuple[str, ...]:
    if by_clock:
        clock = "it trained by the clock, which no second training can follow: this one took as many steps"
        return (clock, *_differences(recorded, found))
    if recorded is None or found is None:
        return ("the report does not say where it was trained",)
    sums = () if recorded.device == "cpu" else (f"{recorded.device} takes its sums in any order",)
    return (*recorded.differences(found), *sums)


# --- what a terminal shows -------------------------------------------------------------------------------------------


def show(console: Console, *, as_json: bool, **asked: Any) -> Reproduction:
    """Reproduce with a bar for each part of the work, and print what came of it; with `as_json` that alone."""
    with Progress(
        TextColumn("  {task.description:<10}"),
        BarColumn(bar_width=22),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=as_json or not console.is_terminal,
    ) as progress:
        bars: dict[str, Any] = {}

        def emit(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total)
            progress.update(bars[what], completed=done)

        found = reproduce(**asked, emit=emit)
    if as_json:
        print(found.model_dump_json(indent=1))
    else:
        _print(console, found)
    return found


def _print(console: Console, found: Reproduction) -> None:
    table = Table("figure", "report", "now", "", box=None, padding=(0, 2, 0, 2))
    for one in found.figures:
        table.add_row(one.name, _shown(one.recorded), _shown(one.found), _beside(one))
    console.print(table, highlight=False)
    for difference in found.differences:
        console.print(f"  Other than then: {difference}", highlight=False, soft_wrap=True, markup=False)
    style = "bold green" if found.confirmed else "bold red"
    console.print(f"\n{found.sentence}", style=style, highlight=False, soft_wrap=True, markup=False)


def _shown(value: float | str | None) -> str:
    if value is None:
        return "not recorded"
    return f"{100 * value:.2f} %" if isinstance(value, float) else value[:16]


def _beside(one: Figure) -> str:
    if one.equal:
        return "equal"
    if isinstance(one.found, float) and isinstance(one.recorded, float):
        inside = "inside" if one.within else "outside"
        return f"differs by {points(one.found - one.recorded)} points, {inside} the interval"
    return "differs"
