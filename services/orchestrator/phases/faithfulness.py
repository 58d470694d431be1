"""How faithful the teacher's maps are, on a sample of the training rows, beside random words of the same rows.

Asked once for all jobs, like its other answers. It is a fact about the maps and no part of any training: a teacher that
cannot say leaves the report without it. Knows nothing of reports.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import structlog

from services.orchestrator.context import Context, Grip
from services.orchestrator.jobs import Event, Job
from services.orchestrator.phases.annotate import attribution_request, training_rows
from services.orchestrator.rationales import keys_of
from understudy.errors import LeaseLost, UnderstudyError
from understudy.evaluation.spec import MapFaithfulness
from understudy.schemas import AttributionRequest, Example, Faithfulness, ModelInfo

__all__ = ["SAMPLE", "measured"]

log = structlog.get_logger()

SAMPLE = 64
"""Rows: enough to tell a map from random words, and a small part of what annotating takes."""


def measured(context: Context, job: Job, teacher: ModelInfo, scratch: Path, grip: Grip) -> MapFaithfulness | None:
    """The figures of the job's method and of random words; None where the teacher cannot give them."""
    method = job.distillation.attribution.method
    rows = _drawn(training_rows(context, job))
    request = attribution_request(job, job.facts.teacher or teacher.id, rows)
    request = request.model_copy(update={"faithfulness": True, "token_probabilities": 0})
    chance = request.model_copy(update={"method": "random", "settings": {}})
    try:
        found = [_asked(context, job, teacher, one, scratch / one.method, grip) for one in (request, chance)]
    except LeaseLost:
        raise
    except UnderstudyError as error:
        log.warning("faithfulness_not_measured", job_id=job.id, error=error.message)
        grip.event(Event(message=f"How faithful the maps are was not measured: {error.message}", level="warn"))
        return None
    pairs = [(map_, random) for map_, random in zip(*found, strict=True) if map_ and random]
    if not pairs:
        return None
    ours, random = zip(*pairs, strict=True)
    return MapFaithfulness(method=method, found=ours, random=random)


def _drawn(rows: list[Example]) -> list[Example]:
    """By the hash of their text and not by eye: the same rows for every job."""
    return sorted(rows, key=lambda row: hashlib.sha256(row.input.encode("utf-8", "backslashreplace")).digest())[:SAMPLE]


def _asked(
    context: Context, job: Job, teacher: ModelInfo, request: AttributionRequest, folder: Path, grip: Grip
) -> list[Faithfulness | None]:
    key = hashlib.sha256("\n".join(keys_of(request, teacher)).encode()).hexdigest()[:32]
    place = context.rationales.folder(key)
    if place is None:
        answers = context.teachers.attribute(request, grip.check)
        said = [one.faithfulness for answer in answers for one in answer.results]
        folder.mkdir(parents=True, exist_ok=True)
        figures = [one.model_dump(mode="json") if one else None for one in said]
        (folder / "faithfulness.json").write_text(json.dumps(figures), encoding="ascii")
        meta = {"job_id": job.id, "role": "faithfulness", "method": request.method}
        shard = context.artifacts.publish("shard", folder, meta).id
        context.rationales.keep([key], shard)
        place = context.artifacts.folder(shard)
    kept = json.loads((place / "faithfulness.json").read_bytes())
    return [Faithfulness.model_validate(one) if one else None for one in kept]
