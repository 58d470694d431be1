"""`understudy jobs`: what an orchestrator works on: list, show, watch, cancel, pause, resume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from understudy.commands import complete
from understudy.commands.exits import EPILOG
from understudy.commands.fields import option_of, pairs, wrong_use
from understudy.commands.output import Json, console, meanwhile, print_json
from understudy.commands.service import DEFAULT_HOME, Home, Key, Url, orchestrator
from understudy.commands.stack import failed_job
from understudy.errors import NotFound, UnderstudyError, UnknownName

if TYPE_CHECKING:
    from understudy.client import OrchestratorClient

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, epilog=EPILOG, help="Jobs of an orchestrator: list, show, watch, cancel, pause, resume."
)


STATES = ("validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled")
"""OpenAI's states, and ours."""

JobId = Annotated[
    str, typer.Argument(metavar="JOB", help="Its id, as `jobs list` shows it.", autocompletion=complete.jobs)
]
EVENTS = 8
"""Events of a job that are shown where nobody says how many."""


@app.command("list")
def list_jobs(
    state: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STATE",
            help="Only jobs in this state; repeatable.",
            autocompletion=lambda incomplete: [one for one in STATES if one.startswith(incomplete)],
        ),
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only jobs that have it; repeatable.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="So many, the newest first.")] = 20,
    url: Url = None,
    api_key: Key = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """The jobs, the newest first: their states, students and results."""
    with wrong_use("--state", "--metadata"):
        _check(state or ())
        wanted = pairs("--metadata", metadata or ())
    with orchestrator(url, home, api_key) as client:
        jobs = client.each_job(metadata=wanted)
        found = list(islice((job for job in jobs if not state or job["status"] in state), limit))
    if as_json:
        return print_json(found)
    if not found:
        console.print(
            "There is no such job." if state or wanted else "There is no job yet: `understudy distill` makes one."
        )
        return
    from understudy.display_jobs import jobs_view

    console.print(jobs_view(found))


@app.command()
def show(
    job_id: JobId,
    report: Annotated[bool, typer.Option("--report", help="Its report too, once there is one.")] = False,
    events: Annotated[int, typer.Option(min=0, max=100, help="So many of the last events.")] = EVENTS,
    url: Url = None,
    api_key: Key = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """One job: its timeline, what it has cost, what went wrong and what to do about that."""
    with orchestrator(url, home, api_key) as client, _near(client, job_id):
        job = client.job(job_id)
        told = list(reversed(client.events(job_id)[:events])) if events else []
        found = client.report(job_id) if report else None
    if as_json:
        return print_json({"job": job, "events": told, "report": found})
    from understudy.display import report_view
    from understudy.display_jobs import job_view
    from understudy.evaluation.report import Report

    console.print(job_view(job, told, option_of((job.get("error") or {}).get("param"))))
    if found:
        console.print(report_view(Report.model_validate(found)))


@app.command()
def watch(
    job_id: JobId,
    url: Url = None,
    api_key: Key = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Follow a job until it has ended, then print its report. Ctrl-C ends the watching, not the job."""
    from understudy.display import PhaseBars, report_view
    from understudy.jobs import watch as follow

    told = meanwhile(as_json)
    with orchestrator(url, home, api_key) as client, _near(client, job_id):
        with failed_job(), PhaseBars(told) as bars:
            report = follow(client, job_id, bars.update)
        job = client.job(job_id)
    if as_json:
        return print_json({"job": job, "report": report.model_dump(mode="json")})
    console.print(report_view(report))


@app.command()
def cancel(
    job_id: JobId, url: Url = None, api_key: Key = None, home: Home = DEFAULT_HOME, as_json: Json = False
) -> None:
    """End a job and all that runs for it; what it has made stays."""
    with orchestrator(url, home, api_key) as client, _near(client, job_id):
        _tell(client.cancel(job_id), as_json)


@app.command()
def pause(
    job_id: JobId, url: Url = None, api_key: Key = None, home: Home = DEFAULT_HOME, as_json: Json = False
) -> None:
    """Stop a job where it is; trainings go on from their last checkpoint when it is resumed."""
    with orchestrator(url, home, api_key) as client, _near(client, job_id):
        _tell(client.pause(job_id), as_json)


@app.command()
def resume(
    job_id: JobId, url: Url = None, api_key: Key = None, home: Home = DEFAULT_HOME, as_json: Json = False
) -> None:
    """Go on with a paused job."""
    with orchestrator(url, home, api_key) as client, _near(client, job_id):
        _tell(client.resume(job_id), as_json)


def _tell(job: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return print_json(job)
    console.print(f"{escape(job['id'])}  {job['status']} in phase {job['phase']}", highlight=False)


@contextmanager
def _near(client: OrchestratorClient, job_id: str) -> Iterator[None]:
    """Say which job was probably meant where there is none of that id."""
    try:
        yield
    except UnderstudyError as error:
        error.param = "JOB" if error.param == "fine_tuning_job_id" else error.param
        if not isinstance(error, NotFound):
            raise
        known = [job["id"] for job in client.jobs()]
        near = [one for one in known if one.startswith(job_id)] or get_close_matches(job_id, known, n=1)
        if job_id not in known and near:
            error.message += f". Did you mean '{near[0]}'?"
        raise


def _check(states: Sequence[str]) -> None:
    for one in states:
        if one not in STATES:
            raise UnknownName.among("state", one, STATES, param="--state")
