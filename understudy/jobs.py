"""From a file to a finished job, over HTTP as any client would do it: upload, submit, watch, fetch the report."""

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

__all__ = [
    "ENDED",
    "cancelled_by_interrupt",
    "distillation_job",
    "local_file",
    "model_reference",
    "submit",
    "watch",
]

ENDED = frozenset({"succeeded", "failed", "cancelled"})
PATIENCE = 60.0
"""Seconds for which `watch` waits for an orchestrator that has stopped answering: it may be starting again."""


def distillation_job(student: str, hyperparameters: Mapping[str, Any], **distillation: Any) -> dict[str, Any]:
    """The body of a job; hyperparameters that are None are left to the trainer."""
    chosen = {name: value for name, value in hyperparameters.items() if value is not None}
    method = {"type": "distillation", "distillation": {**distillation, "hyperparameters": chosen}}
    return {"model": student, "method": method}


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
    folder = Path(ref)
    return str(folder.resolve()) if (folder / "config.json").is_file() else ref


def submit(client: OrchestratorClient, files: Mapping[str, Path], job: Mapping[str, Any]) -> str:
    """Upload `files` (`training_file`, `validation_file`, `test_file`) and create the job with their ids.

    Returns the job's id. Raises what the service says is wrong with it.
    """
    ids = {field: client.upload(path) for field, path in files.items()}
    body = dict(job)
    if test := ids.pop("test_file", None):
        method = dict(body["method"])
        body["method"] = method | {"distillation": method["distillation"] | {"test_file": test}}
    return str(client.create_job(body | ids)["id"])


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

    `check` runs between looks and may raise. Raises StageFailed, with the job's own error, when it did not succeed, and
    Unavailable when the orchestrator stays away.
    """
    heard = time.monotonic()
    while True:
        try:
            job = client.job(job_id)
        except Unavailable:
            if time.monotonic() - heard > PATIENCE:
                raise
        else:
            heard = time.monotonic()
            show(job)
            if job["status"] in ENDED:
                break
        check()
        time.sleep(seconds)
    if job["status"] != "succeeded":
        error = job.get("error") or {}
        reason = error.get("message") or "no reason was given"
        raise StageFailed(
            f"job {job_id} {job['status']} in phase {job.get('phase')}: {reason}", param=error.get("param")
        )
    return Report.model_validate(client.report(job_id))
