"""Publish: the arm that the report chose becomes a model artifact with its papers, behind the job's alias.

Beside its weights lie the engines that answer as they do: exported and compared in a child process, and left out,
with a line in the job's story, where that fails in whatever way.
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from services.orchestrator import stages
from services.orchestrator.child import run_child
from services.orchestrator.context import Context, Grip
from services.orchestrator.jobs import Event, Item, Job
from services.orchestrator.store import FileRow
from understudy import tracing
from understudy.errors import LeaseLost, Unavailable, UnderstudyError
from understudy.evaluation.page import render_html
from understudy.evaluation.report import Report, points
from understudy.serving.published import REPORT, EngineReport, missing, read

__all__ = ["Published", "absorb", "move_alias", "run"]


class Published(BaseModel):
    model_config = ConfigDict(frozen=True)

    model: str
    result_file: str
    report: str | None = None


def run(context: Context, job: Job, item: Item, grip: Grip) -> Published:
    """All that is written depends on the job alone, so that doing it twice publishes one artifact."""
    assert job.facts.report is not None
    papers = context.artifacts.folder(job.facts.report)
    report = Report.model_validate_json((papers / "report.json").read_bytes())
    chosen = report.published
    folder = context.scratch(item) / "model"
    shutil.copytree(context.artifacts.folder(chosen.artifact), folder, ignore=_manifest_only, dirs_exist_ok=True)
    _set_temperature(folder, report)
    engines = _add_engines(context, job, item, grip, folder)
    papers, reported = _with_engines(context, job, papers, report, engines, context.scratch(item) / "papers")
    for name in ("report.json", "report.html"):
        shutil.copyfile(papers / name, folder / name)
    _write_json(folder / "provenance.json", _provenance(job, report, engines))
    (folder / "README.md").write_text(_model_card(job, report, engines), encoding="utf-8")
    meta = {"role": "published", "job_id": job.id, "recipe": chosen.recipe, "seed": chosen.seed}
    model = context.artifacts.publish("model", folder, meta).id
    grip.check()
    result_file = _keep_report(context, job, item, papers / "report.json", context.scratch(item) / "report")
    return Published(model=model, result_file=result_file, report=reported)


def absorb(job: Job, result: Published) -> Job:
    told = job if result.report is None else job.with_facts(report=result.report)
    return told.model_copy(update={"fine_tuned_model": result.model, "result_files": (result.result_file,)})


def move_alias(context: Context, job: Job) -> None:
    """Let the alias of a job that ends well name its model: once, however often that end is written.

    Raises Unavailable where the store cannot do it now.
    """
    assert job.fine_tuned_model is not None
    try:
        with tracing.span("alias", parent=job.traceparent, job_id=job.id):
            context.artifacts.set_alias(job.alias, job.fine_tuned_model, by=job.id, once=True)
    except UnderstudyError:
        raise
    except Exception as error:  # stores have errors of their own, and the model is whole whatever they say
        told = f"alias '{job.alias}' cannot be moved now: {type(error).__name__}: {error}; it is tried again"
        raise Unavailable(told) from error


def _with_engines(
    context: Context, job: Job, papers: Path, report: Report, engines: EngineReport | None, folder: Path
) -> tuple[Path, str | None]:
    """The report's folder and artifact: a new one that lists the engines that were tried, if any were."""
    if engines is None:
        return papers, None
    shutil.copytree(papers, folder, ignore=_manifest_only, dirs_exist_ok=True)
    whole = report.model_copy(update={"engines": engines})
    (folder / "report.html").write_text(render_html(whole), encoding="utf-8")
    (folder / "report.json").write_text(whole.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return folder, context.artifacts.publish("report", folder, {"job_id": job.id}).id


def _add_engines(context: Context, job: Job, item: Item, grip: Grip, folder: Path) -> EngineReport | None:
    """Put the engines that passed the gate into `folder`. Done twice, it finds the first time's figures."""
    assert job.facts.dataset is not None
    made = context.settings.work / item.id / "engines"
    names = [name for name in context.settings.engines if not missing(name, export=True)]
    if names and not (made / REPORT).is_file():
        made.mkdir(parents=True, exist_ok=True)
        spec = {
            "folder": str(folder),
            "rows": str(context.artifacts.folder(job.facts.dataset) / "validation.parquet"),
            "names": names,
            "min_agreement": _asked(job.spec.engines.min_agreement, context.settings.engine_min_agreement),
            "max_drop": _asked(job.spec.engines.max_drop, context.settings.engine_max_drop),
        }
        try:
            run_child(
                stages.engines,
                spec,
                made,
                emit=lambda event: grip.event(Event(**event)),
                check=grip.check,
                threads=context.settings.threads_per_child,
                grace=context.settings.child_grace,
                lock=made.parent / "owner.lock",
            )
        except LeaseLost:
            raise
        except UnderstudyError as error:
            grip.event(Event(level="warn", message=f"No engine is published but the reference: {error}"[:1000]))
    if not (made / REPORT).is_file():
        return None
    if (made / "engines").is_dir():
        shutil.copytree(made / "engines", folder / "engines", dirs_exist_ok=True)
    shutil.copyfile(made / REPORT, folder / REPORT)
    return read(folder)


def _asked(mine: float | None, installation: float) -> float:
    return installation if mine is None else mine


def _set_temperature(folder: Path, report: Report) -> None:
    """Every engine of the model reads its temperature off its card."""
    if report.temperature is None:
        return
    card = json.loads((folder / "card.json").read_bytes())
    _write_json(folder / "card.json", card | {"temperature": report.temperature.value})


def _manifest_only(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "manifest.json"]


def _keep_report(context: Context, job: Job, item: Item, report: Path, folder: Path) -> str:
    """The report as a file that OpenAI's client can fetch, under an id that the job's own implies.

    Raises LeaseLost, and keeps none, where the job was cancelled or another worker has the item.
    """
    folder.mkdir(exist_ok=True)
    shutil.copyfile(report, folder / "report.json")
    artifact = context.artifacts.publish("file", folder)
    row = FileRow(
        id=f"file-{job.id.removeprefix('ftjob-')}",
        created_at=job.created_at,
        filename=f"{job.id}-report.json",
        purpose="fine-tune-results",
        bytes=artifact.bytes,
        artifact=artifact.id,
    )
    return context.files.add(row, also=lambda sql: context.leases.keep(sql, item)).id


def _provenance(job: Job, report: Report, engines: EngineReport | None) -> dict[str, Any]:
    """Enough to find, or to make again, each thing that the model came from."""
    return {
        "job_id": job.id,
        "dataset": job.facts.dataset,
        "training_file": job.training_file,
        "base_model": job.student,
        "recipe": report.published.recipe,
        "seed": report.published.seed,
        "arm": report.published.artifact,
        "report": job.facts.report,
        "stood_for": dict(job.facts.stood_for),
        "method": job.method,
        "teacher": _teacher(job) if job.distils else None,
        "spec": job.spec.model_dump(mode="json"),
        "engines": [one.name for one in engines.published] if engines else [],
        "versions": {name: version(name) for name in ("understudy", "torch", "transformers", "tokenizers")},
    }


def _teacher(job: Job) -> dict[str, Any]:
    teacher = job.distillation.teacher
    return {
        "model": teacher.model,
        "finetuned": teacher.finetune,
        "artifact_or_name": job.facts.teacher,
        "fingerprint": job.facts.fingerprint,
    }


def _model_card(job: Job, report: Report, engines: EngineReport | None) -> str:
    chosen, arm = report.published, report.student
    comparisons = "\n".join(f"- {comparison.sentence}" for comparison in report.comparisons) or "- nothing to compare"
    caveats = "\n".join(f"- {caveat}" for caveat in report.caveats) or "- none"
    others = "\n".join(f"- {one.sentence}" for one in engines.results) if engines else ""
    task = report.task
    teacher = report.teacher
    made = (
        f"distilled from {_named(teacher.model, job.meant(teacher.model))}"
        if teacher
        else "fine-tuned on the data's own answers, without a teacher,"
    )
    level = f"| teacher's test accuracy | {_beside(teacher.accuracy, arm.accuracy)} |\n" if teacher else ""
    labels = f" one of {len(task.labels)} labels" if task.labels else ""
    return f"""# {job.alias}

A student of {arm.parameters:,} parameters, {made} by Understudy.

| | |
| --- | --- |
| task | {task.kind}{labels} |
| base model | {_named(job.model, job.student)} |
| recipe | `{chosen.recipe}`, seed {chosen.seed} |
| test accuracy | {100 * arm.accuracy:.1f} % [{100 * arm.low:.1f}, {100 * arm.high:.1f}] (mean over seeds) |
{level}| trained on | {report.rows.train} rows; tested on {report.rows.test} |

{_calibrated(report)}

## Did the method work?

{comparisons}

{report.rule}

## What to keep in mind

{caveats}

## Engines

- `hf`, the reference: the weights as they were trained
{others}

## Files

`report.html` is the whole report, `report.json` the same as data, `provenance.json` what the model came from,
`task.json` the task, `card.json` how the model is asked for its reasons.
"""


def _named(asked: str, meant: str) -> str:
    """A model as the job was given it, and what that stood for."""
    return f"`{asked}`" if asked == meant else f"`{meant}`, asked for as `{asked}`"


def _calibrated(report: Report) -> str:
    found = report.temperature
    if found is None:
        return "Its probabilities are as they were trained: no temperature made them more honest beyond chance."
    return (
        f"Its probabilities are calibrated: at the temperature {found.value:.2f}, fitted on {found.rows} validation "
        f"rows, their expected calibration error on the test split is {100 * found.ece_after:.1f} points "
        f"(before: {100 * found.ece:.1f})."
    )


def _beside(teacher: float, student: float) -> str:
    return f"{100 * teacher:.1f} % (student: {points(student - teacher)} points)"


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
