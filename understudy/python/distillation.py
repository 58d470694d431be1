"""`understudy.distill`: a job from its rows to its report, in this process, through the same services as any other.

The services are `services.inline`'s, which this module knows by name only (decision 0012). What is here turns rows and
parameters into files and a job's fields, and the result into something to look at.
"""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from os import PathLike, fspath
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from types import MappingProxyType
from typing import Any, Literal

from rich.console import Console, RenderableType

from understudy import explain
from understudy.artifacts import ArtifactStore
from understudy.client import OrchestratorClient
from understudy.data.read import FORMATS
from understudy.display import PhaseBars, report_view
from understudy.errors import InvalidRequest, Unavailable, UnderstudyError, UnknownName
from understudy.evaluation.report import Report
from understudy.jobs import cancelled_by_interrupt, distillation_job, local_file, submit, watch
from understudy.python.loaded import Loaded, Model, Predictions, load
from understudy.python.notebook import NotebookBars, as_text, framed, in_notebook, no_widgets
from understudy.python.tables import Rows, write_rows

__all__ = ["Distilled", "distill"]

PARAMETERS: Mapping[str, str] = MappingProxyType(
    {
        "model": "student",
        "training_file": "train",
        "validation_file": "validation",
        "method.distillation.test_file": "test",
        "method.distillation.unlabelled_file": "unlabelled",
        "method.distillation.teacher.model": "teacher",
        "method.distillation.teacher.finetune": "finetune_teacher",
        "method.distillation.teacher.hyperparameters.max_steps": "teacher_max_steps",
        "method": "attribution",
        "settings": "attribution",
        "method.distillation.attribution.method": "attribution",
        "method.distillation.attribution.settings": "attribution",
        "method.distillation.attribution.top_k": "top_k",
        "method.distillation.hyperparameters.n_epochs": "epochs",
        "method.distillation.lora": "lora",
        "method.distillation.lora.rank": "lora",
        "method.distillation.budget": "budget_seconds",
        "method.distillation.budget.seconds": "budget_seconds",
        "method.distillation.budget.teacher_tokens": "budget_teacher_tokens",
    }
)
"""A job's fields by the parameters that set them, where the last part of a field's name is not the parameter's."""

REPORT_PIXELS = 900


class Distilled:
    """What a job found out, and the student that it published.

    `report` has every figure, `model` is the student's folder, `home` holds all that the job wrote, and `job` is what
    the orchestrator's API says of it (its phases, rejected rows and cost). In a notebook the result shows itself
    as the report's page, elsewhere as its table. A `home` that nobody named is removed with the result: `save` keeps
    the student.
    """

    def __init__(self, report: Report, page: str, model: Path, home: Path, job: Mapping[str, Any]) -> None:
        self.report = report
        self.model = model
        self.home = home
        self.job = job
        self._page = page
        self._loaded: Loaded | None = None

    @property
    def verdicts(self) -> list[str]:
        """Each comparison in one sentence, such as `rationale_gate BEATS finetune by +2.1 points [+0.4, +3.9]`."""
        return [one.sentence for one in self.report.comparisons]

    def load(self) -> Loaded:
        """The student in this process, loaded once."""
        if self._loaded is None:
            self._loaded = load(self.model)
        return self._loaded

    def predict(
        self, texts: str | Sequence[str] | Sequence[Mapping[str, Any]], *, explain: bool = False, top_k: int = 5
    ) -> Predictions:
        """The student's answers, with `explain` also the words behind them: see `Loaded.predict`."""
        return self.load().predict(texts, explain=explain, top_k=top_k)

    def save(self, folder: str | PathLike[str]) -> Path:
        """Copy the student with its card, report and provenance into a new folder, which `load` takes.

        Raises InvalidRequest where something is there already, or it cannot be written.
        """
        place = Path(folder)
        if place.exists():
            raise InvalidRequest(f"'{place}' is there already: name a folder that is not", param="folder")
        aside = place.with_name(f"{place.name}.part")
        try:
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(self.model, aside)
            aside.rename(place)
        except OSError as error:
            raise InvalidRequest(f"'{place}' cannot be written: {error.strerror}", param="folder") from error
        return place

    def to_html(self) -> str:
        """The report as a page."""
        return self._page

    def __rich__(self) -> RenderableType:
        return report_view(self.report)

    def __repr__(self) -> str:
        return as_text(report_view(self.report))

    def _repr_html_(self) -> str:
        return framed(self._page, REPORT_PIXELS)


def distill(
    train: Rows,
    *,
    teacher: Model,
    student: Model,
    recipe: str | Sequence[str] = "auto",
    seeds: int | Sequence[int] = 3,
    validation: Rows | None = None,
    test: Rows | None = None,
    unlabelled: Rows | None = None,
    min_probability: float | None = None,
    finetune_teacher: bool = False,
    teacher_max_steps: int | None = None,
    attribution: str = "saliency",
    top_k: int = 5,
    search: bool = True,
    sizes: Sequence[int] | None = None,
    max_train_rows: int | None = None,
    max_steps: int | None = None,
    epochs: float | None = None,
    seconds: float | None = None,
    patience: int | None = None,
    batch_size: int | None = None,
    learning_rate_multiplier: float | None = None,
    rationale_weight: float | None = None,
    lora: int | None = None,
    budget_seconds: float | None = None,
    budget_teacher_tokens: int | None = None,
    template: str = "{input}",
    alias: str = "production",
    home: str | PathLike[str] | None = None,
    workers: int | None = None,
    teacher_device: str = "auto",
    teacher_precision: Literal["float32", "bfloat16"] = "float32",
    progress: bool = True,
) -> Distilled:
    """Distil `teacher` into `student` on the rows of `train`, beside honest controls, and return what came of it.

    The same pipeline as the services': rows are checked and split, the teacher explains them, students are trained by
    each recipe and its controls, the test rows are touched once, and the best by validation is published. Ctrl-C
    cancels the job and leaves no process behind.

    Rows are a file (JSONL, CSV, Parquet), `hf:NAME`, dictionaries with `input` and `output`, or a table of pandas,
    pyarrow, polars or datasets. `validation` and `test` are held-out rows (default: a tenth and a fifth of `train`),
    `unlabelled` rows without an output, which the teacher labels where it is at least `min_probability` sure.

    A model is a hub name, a folder, an artifact of `home`, or `scratch:bert-1x64` for a fresh one; a student may also
    be `cut:2`, two layers of the teacher. `finetune_teacher` trains the teacher on the task first, for at most
    `teacher_max_steps`; a fresh teacher always needs it.

    `recipe` is `auto`, one of docs/recipes.md or several; with `search` many are tried on short trainings first.
    `seeds` is how many trainings each has, or which seeds. `attribution` is the method by which the teacher explains
    (`integrated_gradients:n_steps=50`), `top_k` the words of a rationale, `rationale_weight` their part of the loss.
    `sizes` are smaller training sets for a learning curve, `max_train_rows` bounds the whole one. A training lasts
    `max_steps`, `epochs` or `seconds`, or ends after `patience` validations without a better one. `lora` trains
    low-rank adapters of that rank only. The budgets end the job's spending early and keep what it has.

    `home` keeps everything, as a stack's folder does, under whose `alias` the student is found again
    (`understudy.load("production", home=...)`); without it a temporary folder lives as long as the result. `workers`
    is how many trainings run at once (default: one a core, at most four), each in a child process with one thread.
    `progress` shows bars. Raises the errors of `understudy.errors`; `param` is the name of the parameter at fault.
    """
    chosen: dict[str, Any] = {
        "recipe": recipe if isinstance(recipe, str) else list(recipe),
        "min_probability": min_probability,
        "rationale_weight": rationale_weight,
        "max_train_rows": max_train_rows,
        "template": template,
        "alias": alias,
    }
    with _named_as_parameters():
        job = distillation_job(
            fspath(student),
            fspath(teacher),
            finetune_teacher=finetune_teacher,
            attribution=explain.parse_method(attribution),
            top_k=top_k,
            search=search,
            max_steps=max_steps,
            seconds=seconds,
            patience=patience,
            lora=lora,
            budget_seconds=budget_seconds,
            budget_teacher_tokens=budget_teacher_tokens,
            **chosen,
        )
        spec = job["method"]["distillation"]
        spec["seeds"] = list(range(_at_least_one("seeds", seeds))) if isinstance(seeds, int) else list(seeds)
        spec["sizes"] = list(sizes or ())
        spec["hyperparameters"] = (spec.get("hyperparameters") or {}) | _given(
            n_epochs=epochs, batch_size=batch_size, learning_rate_multiplier=learning_rate_multiplier
        )
        spec["teacher"]["hyperparameters"] = _given(max_steps=teacher_max_steps)
        if workers is not None:
            _at_least_one("workers", workers)
        inline = _inline()
        job["metadata"] = dict(inline.MADE_BY)
        sources = {"training_file": train, "validation_file": validation, "test_file": test}
        terms = {"workers": workers, "device": teacher_device, "precision": teacher_precision}
        with _home(home) as place, _files({**sources, "unlabelled_file": unlabelled}) as files:
            with inline.running(place, **terms) as running:
                found = _run(running, files, job, progress)
            model = ArtifactStore(str(place / "artifacts")).folder(found.job["fine_tuned_model"])
    result = Distilled(found.report, found.page, model, place, found.job)
    if home is None:
        weakref.finalize(result, shutil.rmtree, place, ignore_errors=True)
    return result


@dataclass(frozen=True)
class _Found:
    report: Report
    page: str
    job: Mapping[str, Any]


def _run(running: Any, files: Mapping[str, Path], job: Mapping[str, Any], progress: bool) -> _Found:
    with OrchestratorClient(running.url, api_key=running.key) as client:
        job_id = submit(client, files, job)
        with _bars(progress) as bars, cancelled_by_interrupt(client, job_id):
            report = watch(client, job_id, bars.update if bars else lambda _: None)
        return _Found(report, client.report_html(job_id), client.job(job_id))


def _bars(shown: bool) -> AbstractContextManager[PhaseBars | None]:
    if not shown:
        return nullcontext()
    return NotebookBars() if in_notebook() else PhaseBars(Console())


@contextmanager
def _home(named: str | PathLike[str] | None) -> Iterator[Path]:
    """The folder that was named, or a new one, which goes again where nothing comes of it."""
    if named is not None:
        yield Path(named)
        return
    place = Path(mkdtemp(prefix="understudy-"))
    try:
        yield place
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


@contextmanager
def _files(sources: Mapping[str, Rows | None]) -> Iterator[dict[str, Path]]:
    """The file to upload for each field that has rows."""
    with TemporaryDirectory(prefix="understudy-") as folder:
        yield {
            field: _file(rows, Path(folder) / field, PARAMETERS.get(field) or field.removesuffix("_file"))
            for field, rows in sources.items()
            if rows is not None
        }


def _file(rows: Rows, folder: Path, param: str) -> Path:
    folder.mkdir()
    if not isinstance(rows, str | PathLike):
        return write_rows(rows, folder / "rows.jsonl", param)
    try:
        path = local_file(fspath(rows), folder)
        if path.suffix.lower() not in FORMATS:
            raise UnknownName.among("file type", path.suffix or path.name, FORMATS)
        if path.stat().st_size == 0:
            raise InvalidRequest(f"'{path}' is empty")
    except UnderstudyError as error:
        error.param = param
        raise
    return path


def _inline() -> Any:
    """The services, which the library does not import: found by name when somebody wants them in his own process."""
    no_widgets()
    try:
        return import_module("services.inline")
    except ModuleNotFoundError as error:
        raise Unavailable(
            f"distilling needs the package '{error.name}', which is not installed: pip install 'understudy[local]'"
        ) from error


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise InvalidRequest(f"{name} is at least 1, not {value}", param=name)
    return value


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@contextmanager
def _named_as_parameters() -> Iterator[None]:
    """An error about a job's field is one about the parameter that sets it."""
    try:
        yield
    except UnderstudyError as error:
        if error.param is not None:
            field = error.param.partition("[")[0]
            last = field.rpartition(".")[2]
            error.param = PARAMETERS.get(field) or (last if last in _NAMES else field)
        error.message = error.message.replace("--home", "home")
        error.args = (error.message,)
        raise


_NAMES = frozenset(signature(distill).parameters)
