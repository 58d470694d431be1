"""What people look at beside a job's own routes: all jobs as they change, annotated examples, and comparisons."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from services.orchestrator.comparison import ComparisonObject, ComparisonRequest
from services.orchestrator.examples import ExampleObject, Wanted, find_examples
from services.orchestrator.routes.jobs import EVENT_STREAM, STREAM_HEADERS
from services.orchestrator.routes.state import TheCaller, TheComparisons, TheContext, TheKeys, TheWatchers
from services.orchestrator.wire import JobObject, Page

__all__ = ["router"]

router = APIRouter(prefix="/v1")

MAX_LABEL = 100_000


class ExamplePage(Page[ExampleObject]):
    """`next_after` goes into `after` for the next page, while `has_more`; a page that has more may be short."""

    next_after: int | None = None


@router.get(
    "/fine_tuning/updates",
    tags=["jobs"],
    summary="The newest jobs and all unfinished ones; as server-sent events `job`, each again when it has changed",
    response_model=Page[JobObject],
    responses={200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}}},
)
def updates(
    watchers: TheWatchers,
    caller: TheCaller,
    keys: TheKeys,
    stream: Annotated[bool, Query(description="the same as `Accept: text/event-stream`")] = False,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> Page[JobObject] | Response:
    if stream or EVENT_STREAM in accept:
        told = watchers.watch(still=lambda: keys.still(caller))
        return StreamingResponse(told, media_type=EVENT_STREAM, headers=STREAM_HEADERS)
    return Page(data=watchers.jobs())


@router.get(
    "/fine_tuning/jobs/{job_id}/examples",
    tags=["jobs"],
    summary="Training rows with the teacher's words, and the published student's answers to a sample of them",
)
def examples(
    context: TheContext,
    job_id: str,
    label: Annotated[str | None, Query(max_length=MAX_LABEL, description="rows of this expected answer")] = None,
    student: Annotated[Literal["right", "wrong"] | None, Query(description="whether the student is right")] = None,
    agreement: Annotated[
        Literal["low", "high"] | None, Query(description="whether half of the two sides' words agree (token F1)")
    ] = None,
    after: Annotated[int | None, Query(ge=0, lt=2**53, description="the index behind which to go on")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> ExamplePage:
    wanted = Wanted(label=label, student=student, agreement=agreement)
    found, rest = find_examples(context, context.jobs.get(job_id), wanted, after, limit)
    return ExamplePage(data=found, has_more=rest is not None, next_after=rest)


@router.post(
    "/comparisons",
    tags=["models"],
    summary="One text, asked of a published model and of its teacher, side by side",
)
def compare(comparisons: TheComparisons, body: ComparisonRequest) -> ComparisonObject:
    return comparisons.compare(body)
