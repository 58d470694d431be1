"""From a file to a finished job, over HTTP as any client would do it: upload, submit, watch, fetch the report.

Also what the command line's options mean as a job's fields, and a dry run's answer as lines of text. Prints nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from understudy.client import OrchestratorClient
from understudy.data.read import read_rows
from understudy.errors import InvalidRequest, NotFound, StageFailed, Unavailable, UnderstudyError
from understudy.evaluation.report import Report
from understudy.following import Listener, brought_up_to_date
from understudy.models.names import is_cut

__all__ = [
    "ENDED",
    "cancelled_by_interrupt",
    "distillation_job",
    "dry_run_lines",
    "local_file",
    "local_files",
    "model_reference",
    "submit",
    "try_out",
    "watch",
]

ENDED = frozenset({"succeeded", "failed", "cancelled"})
PATIENCE = 60.0
"""Seconds for which `watch` waits for an orchestrator that has stopped answering: it may be starting again."""


def distillation_job(
    student: str,
    teacher: str,
    *,
    finetune_teacher: bool = False,
    attribution: tuple[str, Mapping[str, Any]] = ("saliency", {}),
    top_k: int = 5,
    seeds: int = 1,
    search: bool = True,
    max_steps: int | None = None,
    seconds: float | None = None,
    patience: int | None = None,
    lora: int | None = None,
    sizes: str | None = None,
    budget_seconds: float | None = None,
    budget_teacher_tokens: int | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """The body of a job from what the command line takes; what is None is left to the service.

    `attribution` is a method and its settings, `sizes` numbers with commas between, `lora` a rank, and `fields` are the
    method's own. Raises InvalidRequest by the job's field.
    """
    method, settings = attribution
    chosen = {
        **fields,
        "teacher": {"model": model_reference(teacher), "finetune": finetune_teacher},
        "attribution": {"method": method, "settings": dict(settings), "top_k": top_k},
        "seeds": list(range(seeds)),
        "search": "auto" if search else "off",
        "sizes": _sizes(sizes),
        "lora": _given(rank=lora),
        "hyperparameters": _given(max_steps=max_steps, seconds=seconds, patience=patience),
        "budget": _given(seconds=budget_seconds, teacher_tokens=budget_teacher_tokens),
    }
    return {
        "model": model_reference(student),
        "method": {"type": "distillation", "distillation": _given(**chosen)},
    }


def _given(**values: Any) -> dict[str, Any] | None:
    """The values that are there; None where there is none."""
    return {name: value for name, value in values.items() if value is not None} or None


def _sizes(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidRequest(
            f"'{text}' are no numbers of rows: write them as 100,300,1000", param="method.distillation.sizes"
        ) from None


def local_files(sources: Mapping[str, str | None], folder: Path) -> dict[str, Path]:
    """The file to upload for each field that has a source; see `local_file`."""
    return {field: local_file(source, folder) for field, source in sources.items() if source}


def local_file(source: str, folder: Path) -> Path:
    """The file to upload: `source` itself, or for `hf:NAME` a copy of the hub's data set below `folder`.

    Raises NotFound for a path that is no file.
    """
    if source.startswith("hf:"):
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / f"{source.removeprefix('hf:').replace('/', '--')}.jsonl"
        with copy.open("w", encoding="utf-8") as file:
            for _, row in read_rows(Path(source)):
                if isinstance(row, InvalidRequest):
                    raise row
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        return copy
    path = Path(source)
    if not path.is_file():
        raise NotFound(
            f"there is no file '{source}': name a JSONL, CSV or Parquet file, or hf:NAME for one of the hub's"
        )
    return path


def model_reference(ref: str) -> str:
    """A model's folder by its whole path, because a service may work in another folder; any other name as it is."""
    cut, _, base = ref.partition("@") if is_cut(ref) else ("", "", ref)
    if not (Path(base) / "config.json").is_file():
        return ref
    whole = str(Path(base).resolve())
    return f"{cut}@{whole}" if cut else whole


def submit(client: OrchestratorClient, files: Mapping[str, Path], job: Mapping[str, Any]) -> str:
    """Upload `files` by their fields (`training_file`, ...) and create the job with their ids.

    Returns the job's id. Raises what the service says is wrong with it.
    """
    return str(client.create_job(_with_files(client, files, job))["id"])


def try_out(client: OrchestratorClient, files: Mapping[str, Path], job: Mapping[str, Any]) -> dict[str, Any]:
    """Upload `files` and ask what submitting the job would lead to. Raises what would be wrong with it."""
    return client.dry_run(_with_files(client, files, job))


def _with_files(client: OrchestratorClient, files: Mapping[str, Path], job: Mapping[str, Any]) -> dict[str, Any]:
    ids = {field: client.upload(path) for field, path in files.items()}
    inside = {field: ids.pop(field) for field in ("test_file", "unlabelled_file") if field in ids}
    method = dict(job["method"])
    method["distillation"] = method["distillation"] | inside
    return {**job, "method": method, **ids}


def dry_run_lines(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a dry run has found, as names and sentences; a line named `!` is a warning."""
    rows, estimate = found["rows"], found["estimate"]
    counts = [f"{rows[name]:,} {name}" for name in ("train", "validation", "test", "unlabelled") if rows.get(name)]
    lines = [("rows", " · ".join(counts)), ("task", _task(found["task"]))]
    lines += [(who, _tokens(found[who])) for who in ("student", "teacher") if found[who]]
    lines.append(("recipes", ", ".join(arm["name"] for arm in found["arms"] if arm["candidate"])))
    timed = found.get("hyperparameters", {}).get("seconds")
    if found["searches"]:
        longest = "" if timed else f" of {estimate['search_steps_per_run']:,} steps at most"
        lines.append(("search", f"{estimate['search_runs']} short trainings{longest}; the best are trained in full"))
    most = "at most " if found["searches"] else ""
    each = f"{timed:g} s" if timed else f"{estimate['steps_per_run']:,} steps"
    lines.append(("training", f"{most}{estimate['runs']} trainings, {each} each"))
    if estimate["teacher_examples"]:
        asked = f"{estimate['teacher_examples']:,} texts in {estimate['teacher_calls']:,} requests"
        lines.append(("explaining", asked))
    lines += _costs(estimate)
    return lines + [("!", warning) for warning in _warnings(found)]


def _task(task: Mapping[str, Any]) -> str:
    labels = f", {len(task['labels'])} labels: {', '.join(task['labels'][:10])}" if task["labels"] else ""
    return f"{task['kind']}{labels}"


def _tokens(model: Mapping[str, Any]) -> str:
    return f"{model['model']}: {model['tokens']:,} tokens of training text, the longest row {model['longest']:,}"


def _costs(estimate: Mapping[str, Any]) -> list[tuple[str, str]]:
    seconds, disk = estimate["seconds"], estimate["disk_bytes"]
    lines = [("time", f"about {max(1, round(seconds / 60)):,} min of one worker")] if seconds is not None else []
    return lines + ([("disk", f"about {disk / 1e6:,.0f} MB")] if disk is not None else [])


def _warnings(found: Mapping[str, Any]) -> list[str]:
    rejected = found["rejected_rows"]
    warnings = []
    if rejected["count"]:
        first = rejected["data"][0]
        where = f"line {first['line']} of {first['split']}: {first['reason']}"
        rows = "1 row" if rejected["count"] == 1 else f"{rejected['count']:,} rows"
        warnings.append(f"{rows} would be set aside; the first is {where}")
    for who in ("student", "teacher"):
        if found[who] and found[who]["truncated_share"]:
            cut = f"{found[who]['truncated_share']:.1%} of the rows are longer than the {who}'s window"
            warnings.append(f"{cut} of {found[who]['window']:,} tokens and would be cut")
    return warnings + [f"not known: {reason}" for reason in found["estimate"]["unknown"]]


@contextmanager
def cancelled_by_interrupt(client: OrchestratorClient, job_id: str) -> Iterator[None]:
    """Ctrl-C inside the block cancels the job.

    A stack goes on with its jobs when it starts again: one that was given up would train beside its successor, and in
    the end take the alias from it.
    """
    try:
        yield
    except KeyboardInterrupt:
        with suppress(UnderstudyError):
            client.cancel(job_id)
        raise


def watch(
    client: OrchestratorClient,
    job_id: str,
    show: Callable[[Mapping[str, Any]], None],
    check: Callable[[], None] = lambda: None,
    seconds: float = 0.5,
) -> Report:
    """Call `show` with the job until it has ended, then return its report.

    It follows the job's stream, and asks every so many `seconds` while there is none. `check` runs as often and may
    raise.
    Raises StageFailed, with the job's own error, when it did not succeed, and Unavailable when the orchestrator stays
    away.
    """
    job: Mapping[str, Any] | None = None
    heard = time.monotonic()
    with Listener(client, job_id) as listener:
        while True:
            try:
                job = job or client.job(job_id)
            except Unavailable:
                if time.monotonic() - heard > PATIENCE:
                    raise
            else:
                heard = time.monotonic()
                show(job)
                if job["status"] in ENDED:
                    break
            check()
            news = listener.heard(seconds)
            if job and news:
                job = brought_up_to_date(job, news)
            elif listener.deaf:
                job = None
    if job["status"] != "succeeded":
        error = job.get("error") or {}
        reason = error.get("message") or "no reason was given"
        raise StageFailed(
            f"job {job_id} {job['status']} in phase {job.get('phase')}: {reason}", param=error.get("param")
        )
    return Report.model_validate(client.report(job_id))
