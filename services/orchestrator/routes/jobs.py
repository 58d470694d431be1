"""`/v1/fine_tuning/jobs`: OpenAI's job routes, and beside them ours for the report and the rejected rows."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, StreamingResponse
from sqlalchemy import Connection

from services.orchestrator.context import Context
from services.orchestrator.idempotency import Replay, fingerprint
from services.orchestrator.jobs import Event, Job
from services.orchestrator.pipeline import first_items
from services.orchestrator.requests import JobRequest, job_of
from services.orchestrator.routes.state import (
    ONCE,
    OnceKey,
    Scope,
    TheCaller,
    TheContext,
    TheDryRun,
    TheFollowers,
    TheKeys,
    TheSweeper,
    answered,
    replayed,
)
from services.orchestrator.wire import (
    CheckpointObject,
    DryRunObject,
    EventObject,
    IdPage,
    JobObject,
    Page,
    checkpoint_object,
    dry_run_object,
    event_object,
    job_object,
)
from understudy.errors import InvalidRequest, NotFound
from understudy.evaluation.report import Report
from understudy.schemas import RejectedRow

__all__ = ["EVENT_STREAM", "STREAM_HEADERS", "router"]

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["jobs"])

# The report is a page from the job's own texts: nothing in it may run or fetch.
_PAGE_POLICY = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"}

EVENT_STREAM = "text/event-stream"
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # the latter is nginx's

After = Annotated[str | None, Query(description="the id of the last object of the page before")]


@router.post(
    "", summary="Create a job; the answer comes at once", response_model=JobObject | DryRunObject, responses=ONCE
)
def create(
    context: TheContext,
    sweeper: TheSweeper,
    trial: TheDryRun,
    body: JobRequest,
    caller: TheCaller,
    keys: TheKeys,
    scope: Scope,
    key: OnceKey = None,
    dry_run: Annotated[bool, Query(description="check everything, estimate the cost, and make no job")] = False,
) -> Response | DryRunObject:
    if dry_run:
        job = job_of(body, context.clock())
        _check_files(context, job)
        return dry_run_object(job, trial.check(job))
    content = fingerprint(body.model_dump(mode="json", exclude_unset=True))
    with context.idempotency.request(scope, key, content) as turn:
        if isinstance(turn, Replay):
            return replayed(turn)
        job = job_of(body, context.clock())
        _check_files(context, job)
        answer = job_object(job, {}).model_dump_json()

        def also(sql: Connection) -> None:
            keys.count_job(sql, caller, job.id)
            turn.answer(sql, 200, answer)

        context.flow.submit(job, first_items(job, context.settings), also)
    sweeper.wake()
    return answered(answer)


@router.get("", summary="The jobs, newest first")
def list_jobs(
    context: TheContext, request: Request, after: After = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> Page[JobObject]:
    wanted, without = _metadata(request)
    jobs, more = context.jobs.page(after, limit, wanted, without_metadata=without)
    tallies = context.tallies.of([job.id for job in jobs])
    return Page(data=[job_object(job, tallies.get(job.id, {})) for job in jobs], has_more=more)


@router.get("/{job_id}", summary="A job, its phases and its progress")
def retrieve(context: TheContext, job_id: str) -> JobObject:
    return _show(context, context.jobs.get(job_id))


@router.post("/{job_id}/cancel", summary="End a job and all that runs for it")
def cancel(context: TheContext, job_id: str) -> JobObject:
    return _show(context, context.flow.end(job_id, "cancelled", Event(message="Job cancelled")))


@router.post("/{job_id}/pause", summary="Stop a job where it is; trainings go on from their last checkpoint")
def pause(context: TheContext, job_id: str) -> JobObject:
    return _show(context, context.flow.pause(job_id))


@router.post("/{job_id}/resume", summary="Go on with a paused job")
def resume(context: TheContext, sweeper: TheSweeper, job_id: str) -> JobObject:
    job = context.flow.resume(job_id)
    sweeper.wake()
    return _show(context, job)


@router.get(
    "/{job_id}/events",
    summary="The job's story: newest first in pages, or oldest first as server-sent events until the job has ended",
    response_model=Page[EventObject],
    responses={200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}}},
)
def events(
    context: TheContext,
    followers: TheFollowers,
    caller: TheCaller,
    keys: TheKeys,
    job_id: str,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    stream: Annotated[bool, Query(description="the same as `Accept: text/event-stream`")] = False,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    last_event_id: Annotated[str | None, Header(description="where a stream goes on; it is an event's id")] = None,
) -> Page[EventObject] | Response:
    if stream or EVENT_STREAM in accept:
        story = followers.follow(job_id, last_event_id or after, still=lambda: keys.still(caller))
        if story is None:
            return Response(status_code=204)  # a browser's EventSource reconnects for ever, unless it is told this
        return StreamingResponse(story, media_type=EVENT_STREAM, headers=STREAM_HEADERS)
    context.jobs.get(job_id)
    found, more = context.jobs.events(job_id, after, limit)
    return Page(data=[event_object(one) for one in found], has_more=more)


@router.get("/{job_id}/checkpoints", summary="The trained arms, newest first; each can be loaded by its id")
def checkpoints(
    context: TheContext, job_id: str, after: After = None, limit: Annotated[int, Query(ge=1, le=100)] = 10
) -> IdPage[CheckpointObject]:
    context.jobs.get(job_id)
    done = [item for item in context.flow.items(job_id, "train") if item.state == "done"]
    objects = [checkpoint_object(item) for item in sorted(done, key=lambda item: -(item.finished_at or 0))]
    if after is not None:
        ids = [one.id for one in objects]
        if after not in ids:
            raise InvalidRequest(f"there is no checkpoint '{after[:100]}' to continue after", param="after")
        objects = objects[ids.index(after) + 1 :]
    return IdPage.of(objects[:limit], len(objects) > limit)


@router.get("/{job_id}/rejected_rows", summary="Every row that was set aside, and why")
def rejected_rows(
    context: TheContext,
    job_id: str,
    after: Annotated[int, Query(ge=0, lt=2**53, description="how many rows to pass over")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> Page[RejectedRow]:
    dataset = context.jobs.get(job_id).facts.dataset
    if dataset is None:
        raise NotFound(f"job {job_id} has no data set: its files have not been validated")
    with (context.artifacts.folder(dataset) / "rejected.jsonl").open(encoding="utf-8") as lines:
        rows = [RejectedRow.model_validate_json(line) for line in islice(lines, after, after + limit + 1)]
    return Page(data=rows[:limit], has_more=len(rows) > limit)


@router.get("/{job_id}/report", summary="What the job found out", response_model=Report)
def report(context: TheContext, job_id: str) -> FileResponse:
    return FileResponse(_paper(context, job_id, "report.json"), media_type="application/json")


@router.get("/{job_id}/report.html", summary="The same as a page", response_class=HTMLResponse)
def report_page(context: TheContext, job_id: str) -> FileResponse:
    return FileResponse(_paper(context, job_id, "report.html"), media_type="text/html", headers=_PAGE_POLICY)


def _paper(context: Context, job_id: str, name: str) -> Path:
    job = context.jobs.get(job_id)
    if job.facts.report is None:
        raise NotFound(f"job {job_id} has no report: it is {job.status}, in phase {job.phase}")
    return context.artifacts.folder(job.facts.report) / name


def _show(context: Context, job: Job) -> JobObject:
    return job_object(job, context.tallies.of([job.id]).get(job.id, {}))


def _check_files(context: Context, job: Job) -> None:
    """Each file exists, was uploaded for this, and is not another one's twin."""
    seen: dict[str, str] = {}
    for param, file_id in job.files.items():
        file = context.files.get(file_id, param=param)
        if file.purpose != "fine-tune":
            raise InvalidRequest(f"file '{file_id}' was not uploaded to train on ({file.purpose})", param=param)
        if file.artifact in seen:
            raise InvalidRequest(f"{param} has the same content as {seen[file.artifact]}", param=param)
        seen[file.artifact] = param


def _metadata(request: Request) -> tuple[dict[str, str], bool]:
    """OpenAI's filter: `metadata[key]=value`, or `metadata=null` for jobs that have none."""
    wanted = {
        name.removeprefix("metadata[").removesuffix("]"): value
        for name, value in request.query_params.items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    without = request.query_params.get("metadata")
    if without not in (None, "null") or (without and wanted):
        raise InvalidRequest("metadata is 'null', or given as metadata[key]=value, not both", param="metadata")
    return wanted, without == "null"
