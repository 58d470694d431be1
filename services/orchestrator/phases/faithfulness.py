"""How faithful the teacher's maps are, on a sample of the training rows, beside random words of the same rows.

Asked once for all jobs, like its other answers. It is a fact about the maps and no part of any training: a teacher that
cannot say leaves the report without it. Knows nothing of reports.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from heapq import nsmallest
from itertools import islice
from pathlib import Path

import structlog

from services.orchestrator.context import Context, Grip
from services.orchestrator.jobs import Event, Job
from services.orchestrator.phases.annotate import attribution_request, one_teacher
from services.orchestrator.rationales import keys_of
from understudy.data.parquet import each_example
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
    rows = _drawn(_learned(context, job))
    request = attribution_request(job, job.teacher, rows)
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


def _learned(context: Context, job: Job) -> Iterator[Example]:
    """The rows that the students learn from, one by one: a large split is not held for the few that are drawn."""
    assert job.facts.dataset is not None
    lost = {row_id for one in job.facts.set_aside for row_id in one.rows}
    rows = each_example(context.artifacts.folder(job.facts.dataset) / "train.parquet")
    return islice((row for row in rows if row.id not in lost), job.train_rows)


def _drawn(rows: Iterable[Example]) -> list[Example]:
    """By the hash of their text and not by eye: the same rows for every job."""
    return nsmallest(SAMPLE, rows, lambda row: hashlib.sha256(row.input.encode("utf-8", "backslashreplace")).digest())


def _asked(
    context: Context, job: Job, teacher: ModelInfo, request: AttributionRequest, folder: Path, grip: Grip
) -> list[Faithfulness | None]:
    key = hashlib.sha256("\n".join(keys_of(request, teacher)).encode()).hexdigest()[:32]
    place = context.rationales.folder(key)
    if place is None:
        answers = context.teachers.attribute(request, grip.check)
        one_teacher([teacher.fingerprint, *(answer.fingerprint for answer in answers)])
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
