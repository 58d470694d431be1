"""`understudy distill`: a job from options, on a stack that runs or on one that is started for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from understudy.commands import complete
from understudy.commands.fields import pairs, wrong_use
from understudy.commands.output import Json, console, meanwhile, print_json
from understudy.commands.service import DEFAULT_HOME, Key
from understudy.commands.stack import Keep, StackHome, failed_job, hold, running
from understudy.errors import UnderstudyError

if TYPE_CHECKING:
    from understudy.client import OrchestratorClient
    from understudy.stack import Stack

__all__ = ["distill"]


def distill(
    file: Annotated[str, typer.Argument(help="JSONL, CSV or Parquet with input and output; or hf:NAME from the hub.")],
    teacher: Annotated[
        str,
        typer.Option(
            autocompletion=complete.with_own_models,
            help="A hub name, a folder, an artifact id, or a fresh scratch:bert-2x128.",
        ),
    ],
    student: Annotated[
        str,
        typer.Option(
            autocompletion=complete.with_own_models,
            help="The same, or scratch:bert-1x64, or cut:2, two layers of the teacher.",
        ),
    ],
    validation: Annotated[str | None, typer.Option(help="Held-out rows that choose; else a tenth of FILE.")] = None,
    test: Annotated[str | None, typer.Option(help="Held-out rows that the report uses; else a fifth of FILE.")] = None,
    unlabelled: Annotated[str | None, typer.Option(help="Rows without an output, which the teacher labels.")] = None,
    min_probability: Annotated[
        float | None, typer.Option(min=0, max=1, help="How sure of a label the teacher must be: 0.5, unless named.")
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(autocompletion=complete.recipes, help="May be given several times; auto is all that fit."),
    ] = None,
    search: Annotated[
        bool, typer.Option("--search/--no-search", help="Try many recipes shortly first, or train all in full.")
    ] = True,
    finetune_teacher: Annotated[
        bool, typer.Option("--finetune-teacher", help="Train the teacher on the task first.")
    ] = False,
    attribution: Annotated[
        str,
        typer.Option(
            "--attribution",
            "--method",
            autocompletion=complete.methods,
            help="As saliency, or integrated_gradients:n_steps=50.",
        ),
    ] = "saliency",
    top_k: Annotated[int, typer.Option(min=1, max=100, help="Words in a rationale.")] = 5,
    seeds: Annotated[int, typer.Option(min=1, max=20, help="Training runs of each recipe.")] = 3,
    sizes: Annotated[str | None, typer.Option(help="Smaller training sets for a learning curve: 100,300,1000.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Optimisation steps of every student.")] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="Wall time of every student, in place of steps.")] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="End after so many validations without a better.")] = None,
    lora: Annotated[int | None, typer.Option(min=1, help="Train low-rank adapters of that rank only.")] = None,
    budget_seconds: Annotated[float | None, typer.Option(min=1, help="What the job may take.")] = None,
    budget_teacher_tokens: Annotated[int | None, typer.Option(min=1, help="What the teacher may read.")] = None,
    template: Annotated[str, typer.Option(help="What the models read; holds {input} once.")] = "{input}",
    alias: Annotated[
        str, typer.Option(autocompletion=complete.aliases, help="The name under which the winner is served.")
    ] = "production",
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A note on the job; repeatable. `jobs list` finds it.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all and estimate the cost; train nothing.")] = False,
    url: Annotated[
        str | None,
        typer.Option(
            help="An orchestrator; else that of HOME's stack, which is started unless it runs.", envvar="UNDERSTUDY_URL"
        ),
    ] = None,
    api_key: Key = None,
    home: StackHome = DEFAULT_HOME,
    keep: Keep = False,
    as_json: Json = False,
) -> None:
    """Distil TEACHER into STUDENT on the rows of FILE, beside honest controls, and print the report."""
    from understudy.client import OrchestratorClient
    from understudy.jobs import distillation_job, local_files

    with wrong_use("--metadata"):
        notes = pairs("--metadata", metadata or ())
    sources = {"training_file": file, "validation_file": validation, "test_file": test, "unlabelled_file": unlabelled}
    files = local_files(sources, home)
    options: dict[str, Any] = {"recipe": recipe or ["auto"], "search": search, "min_probability": min_probability}
    options |= {"finetune_teacher": finetune_teacher, "attribution": _explained_by(attribution), "top_k": top_k}
    options |= {"seeds": seeds, "sizes": sizes, "max_steps": max_steps, "patience": patience, "lora": lora}
    options |= {"seconds": seconds}
    options |= {"budget_seconds": budget_seconds, "budget_teacher_tokens": budget_teacher_tokens}
    job = distillation_job(student, teacher, template=template, alias=alias, **options)
    job |= {"metadata": notes} if notes else {}
    with _address(url, home, as_json) as (address, stack):
        with OrchestratorClient(address, api_key=api_key) as client:
            if dry_run:
                return _try_out(client, files, job, as_json)
            with failed_job():
                _distill(client, stack, files, job, home, as_json)
        if stack:
            hold(stack, keep, as_json)


def _explained_by(text: str) -> tuple[str, Mapping[str, Any]]:
    """The method and its settings of `--attribution`."""
    from understudy.explain import parse_method

    try:
        return parse_method(text)
    except UnderstudyError as error:
        error.param = "method.distillation.attribution.method"
        raise


def _try_out(client: OrchestratorClient, files: dict[str, Path], job: dict[str, Any], as_json: bool) -> None:
    from understudy.jobs import dry_run_lines, try_out

    found = try_out(client, files, job)
    if as_json:
        return print_json(found)
    for name, line in dry_run_lines(found):
        style = ("[yellow]", "[/]") if name == "!" else ("", "")
        console.print(f"  {style[0]}{name:<11}{escape(line)}{style[1]}", highlight=False, soft_wrap=True)


def _distill(
    client: OrchestratorClient,
    stack: Stack | None,
    files: dict[str, Path],
    job: dict[str, Any],
    home: Path,
    as_json: bool,
) -> None:
    from understudy.display import PhaseBars, report_view
    from understudy.jobs import cancelled_by_interrupt, submit, watch

    told = meanwhile(as_json)
    job_id = submit(client, files, job)
    told.print(f"[bold]Job[/] {job_id}, submitted to {client.base_url}", highlight=False)
    # A job on somebody else's stack goes on without us.
    with PhaseBars(told) as bars, cancelled_by_interrupt(client, job_id) if stack else nullcontext():
        report = watch(client, job_id, bars.update, stack.check if stack else lambda: None)
    page = home / f"{job_id}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(client.report_html(job_id), encoding="utf-8")
    if as_json:
        return print_json({"job": client.job(job_id), "report": report.model_dump(mode="json"), "page": str(page)})
    console.print(report_view(report), f"\n  The report as a page: {escape(str(page))}", soft_wrap=True)


@contextmanager
def _address(url: str | None, home: Path, as_json: bool) -> Iterator[tuple[str, Stack | None]]:
    """The orchestrator that was named, that of the stack that runs in `home`, or of one that is started for this."""
    from understudy.quickstart import config
    from understudy.stack import addresses

    if running_here := addresses(home):
        url = url or running_here["orchestrator"]
    if url:
        yield url, None
        return
    with running(config(home), as_json=as_json) as stack:
        yield stack.orchestrator_url, stack
