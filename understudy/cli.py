"""The command line. A command reads its options, calls the library and prints; an error is one clear line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from understudy import explain
from understudy import maps_cli as maps
from understudy import quickstart as loop
from understudy import reproduce as reproduction
from understudy.client import OrchestratorClient
from understudy.display import PhaseBars, report_view
from understudy.errors import InvalidRequest, Unauthorized, UnderstudyError
from understudy.jobs import (
    cancelled_by_interrupt,
    distillation_job,
    dry_run_lines,
    local_files,
    submit,
    try_out,
    watch,
)
from understudy.keys_cli import app as keys
from understudy.stack import Stack, StackConfig
from understudy.versions_cli import app as models

__all__ = ["app", "main"]

OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "model": "--student",
        "training_file": "FILE",
        "validation_file": "--validation",
        "method.distillation.test_file": "--test",
        "method.distillation.teacher.model": "--teacher, --finetune-teacher",
        "method.distillation.unlabelled_file": "--unlabelled",
        "method.distillation.min_probability": "--min-probability",
        "method.distillation.recipe": "--recipe",
        "method.distillation.attribution.method": "--attribution",
        "method.distillation.attribution.settings": "--attribution",
        "method.distillation.attribution.top_k": "--top-k",
        "method.distillation.hyperparameters.max_steps": "--max-steps",
        "method.distillation.hyperparameters.seconds": "--seconds",
        "method.distillation.hyperparameters.patience": "--patience",
        "method.distillation.sizes": "--sizes",
        "method.distillation.lora.rank": "--lora",
        "method.distillation.budget": "--budget-seconds, --budget-teacher-tokens",
        "method.distillation.budget.seconds": "--budget-seconds",
        "method.distillation.budget.teacher_tokens": "--budget-teacher-tokens",
        "method.distillation.template": "--template",
        "method.distillation.alias": "--alias",
    }
)
"""A job's fields by the options that set them: what a user of the command line can change."""

KEY_HINT = (
    "Put a key into UNDERSTUDY_API_KEY. For an orchestrator, `understudy keys create NAME --scope submit` makes one on "
    "the machine where it runs."
)

COMPARED_ROWS = 200
"""Rows that methods are compared on where nobody says how many: enough for intervals, soon done."""

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Distil a large model into a small one.")
app.add_typer(models, name="models")
app.add_typer(keys, name="keys")
console = Console(width=None if sys.stdout.isatty() else 100)

Home = Annotated[Path, typer.Option(help="The folder that holds everything the stack writes.")]
Host = Annotated[str, typer.Option(help="The address to bind.")]
OrchestratorPort = Annotated[int, typer.Option(min=0, max=65535, help="The orchestrator's port; 0 takes any free one.")]
TeacherPort = Annotated[int, typer.Option(min=0, max=65535, help="The teacher's port; 0 takes any free one.")]
StudentPort = Annotated[int, typer.Option(min=0, max=65535, help="The student's port; 0 takes any free one.")]
Target = Literal["predicted", "gold", "label"]
Select = Literal["top_k", "top_share", "threshold", "span"]
Aggregation = Literal["sum", "mean", "max", "l1", "l2"]
Precision = Literal["float32", "bfloat16", "float16", "float64"]
Keep = Annotated[bool, typer.Option("--keep", help="Leave the stack running afterwards, until Ctrl-C.")]


OPTIONS_OF_FIELDS: Mapping[str, str] = MappingProxyType({"input": "TEXT", "settings": "--method"})
"""The fields of an attribution's request that have other names as options."""

ASKED, ANSWER, SHOWN, RUN = "Who explains, and how", "Which answer is explained", "What is shown", "How it runs"
"""The panels of `understudy attribute --help`."""


def _option(panel: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, metavar="" if names else None, **more)


@app.command()
def quickstart(home: Home = Path(".understudy/quickstart"), keep: Keep = False) -> None:
    """The whole loop on real text: data, teacher, students, report, predictions."""
    started = time.monotonic()
    with _running(loop.config(home)) as stack:
        loop.run(stack, console)
        console.print(f"\n  {time.monotonic() - started:.0f} seconds in all.", highlight=False)
        _hold(stack, keep)


@app.command()
def up(
    home: Home = Path(".understudy"),
    host: Host = "127.0.0.1",
    port: OrchestratorPort = 8000,
    teacher_port: TeacherPort = 8001,
    student_port: StudentPort = 8002,
    teacher: Annotated[str | None, typer.Option(help="A model that the teacher loads before it is ready.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Write the log to its file only.")] = False,
) -> None:
    """The local stack until Ctrl-C: broker, teacher, orchestrator, workers, student."""
    config = StackConfig(home, host, port, teacher_port, student_port, teacher)
    with _running(config, echo=not quiet) as stack:
        _hold(stack, keep=True)


@app.command()
def distill(
    file: Annotated[str, typer.Argument(help="JSONL, CSV or Parquet with input and output; or hf:NAME from the hub.")],
    teacher: Annotated[str, typer.Option(help="A hub name, a folder, an artifact id, or a fresh scratch:bert-2x128.")],
    student: Annotated[str, typer.Option(help="The same, or scratch:bert-1x64, or cut:2, two layers of the teacher.")],
    validation: Annotated[str | None, typer.Option(help="Held-out rows that choose; else a tenth of FILE.")] = None,
    test: Annotated[str | None, typer.Option(help="Held-out rows that the report uses; else a fifth of FILE.")] = None,
    unlabelled: Annotated[str | None, typer.Option(help="Rows without an output, which the teacher labels.")] = None,
    min_probability: Annotated[
        float | None, typer.Option(min=0, max=1, help="How sure of a label the teacher must be: 0.5, unless named.")
    ] = None,
    recipe: Annotated[list[str] | None, typer.Option(help="May be given several times; auto is all that fit.")] = None,
    search: Annotated[
        bool, typer.Option("--search/--no-search", help="Try many recipes shortly first, or train all in full.")
    ] = True,
    finetune_teacher: Annotated[
        bool, typer.Option("--finetune-teacher", help="Train the teacher on the task first.")
    ] = False,
    attribution: Annotated[
        str, typer.Option("--attribution", "--method", help="As saliency, or integrated_gradients:n_steps=50.")
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
    alias: Annotated[str, typer.Option(help="The name under which the winner is served.")] = "production",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all and estimate the cost; train nothing.")] = False,
    url: Annotated[str | None, typer.Option(help="An orchestrator that runs already; else a stack is started.")] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Where the orchestrator wants a key.", envvar="UNDERSTUDY_API_KEY")
    ] = None,
    home: Home = Path(".understudy"),
    keep: Keep = False,
) -> None:
    """Distil TEACHER into STUDENT on the rows of FILE, beside honest controls, and print the report."""
    sources = {"training_file": file, "validation_file": validation, "test_file": test, "unlabelled_file": unlabelled}
    files = local_files(sources, home)
    options: dict[str, Any] = {"recipe": recipe or ["auto"], "search": search, "min_probability": min_probability}
    options |= {"finetune_teacher": finetune_teacher, "attribution": _explained_by(attribution), "top_k": top_k}
    options |= {"seeds": seeds, "sizes": sizes, "max_steps": max_steps, "patience": patience, "lora": lora}
    options |= {"seconds": seconds}
    options |= {"budget_seconds": budget_seconds, "budget_teacher_tokens": budget_teacher_tokens}
    job = distillation_job(student, teacher, template=template, alias=alias, **options)
    with _address(url, home) as (address, stack):
        with OrchestratorClient(address, api_key=api_key) as client:
            if dry_run:
                return _try_out(client, files, job)
            _distill(client, stack, files, job, home)
        if stack:
            _hold(stack, keep)


@app.command()
def attribute(
    text: Annotated[str, typer.Argument(metavar="TEXT|FILE", help="A text, or a JSONL, CSV or Parquet file of rows.")],
    model: Annotated[str | None, _option(ASKED, "A folder, an artifact id, an alias or a hub name.")] = None,
    url: Annotated[str | None, _option(ASKED, "Let the teacher service at this address explain.")] = None,
    api_key: Annotated[
        str | None, _option(ASKED, "Where the service wants a key.", envvar="UNDERSTUDY_API_KEY")
    ] = None,
    method: Annotated[list[str] | None, _option(ASKED, "As integrated_gradients:n_steps=50; repeatable.")] = None,
    compare: Annotated[bool, _option(ASKED, "The table of methods, beside random words.", "--compare")] = False,
    target: Annotated[Target | None, _option(ANSWER, "predicted, unless named.")] = None,
    label: Annotated[str | None, _option(ANSWER, "Explain this answer.")] = None,
    against: Annotated[str | None, _option(ANSWER, "Explain why it is not this answer instead.")] = None,
    labels: Annotated[str | None, _option(ANSWER, "The answers that there are, as in good,bad.")] = None,
    template: Annotated[str | None, _option(ANSWER, "What the model reads; holds {input} once.")] = None,
    select: Annotated[Select | None, _option(SHOWN, "How its words are chosen: top_k, unless named.")] = None,
    top_k: Annotated[int | None, _option(SHOWN, "Words of a rationale: 5, unless named.", min=1, max=100)] = None,
    top_share: Annotated[float | None, _option(SHOWN, "For top_share: 0.2 of all words, unless named.")] = None,
    threshold: Annotated[float | None, _option(SHOWN, "For threshold: 0.5 of the best score, unless named.")] = None,
    ignore: Annotated[str | None, _option(SHOWN, "punctuation, unless named: also stop_words, both, or ''.")] = None,
    aggregation: Annotated[Aggregation | None, _option(SHOWN, "A word's score of its tokens': their sum.")] = None,
    rows: Annotated[bool, _option(SHOWN, "Scores for each token of the answer too.", "--rows")] = False,
    faithfulness: Annotated[bool, _option(SHOWN, "Ask again without the words.", "--faithfulness")] = False,
    html: Annotated[Path | None, _option(SHOWN, "Write the maps as a page.")] = None,
    out: Annotated[Path | None, _option(SHOWN, "Write one attribution a line.")] = None,
    as_json: Annotated[bool, _option(SHOWN, "Print JSON alone.", "--json")] = False,
    limit: Annotated[int | None, _option(RUN, "That many rows of FILE, evenly spread over it.", min=1)] = None,
    batch: Annotated[int, _option(RUN, "Tokens of one pass, padding counted.", min=1)] = 2048,
    device: Annotated[str, _option(RUN, "cpu, cuda or cuda:1; auto takes cuda where there is one.")] = "auto",
    dtype: Annotated[Precision, _option(RUN, "The precision of the model.")] = "float32",
    home: Annotated[Path, _option(RUN, "The folder of the stack whose artifacts can be named.")] = Path(".understudy"),
) -> None:
    """Which words decide a model's answer: of TEXT, or of each row of FILE."""
    asked: dict[str, Any] = {"target": target or ("label" if label else None), "label": label, "against": against}
    asked |= {
        "labels": _listed(labels),
        "template": template,
        "select": select,
        "top_k": top_k,
        "top_share": top_share,
        "threshold": threshold,
        "ignore": _listed(ignore),
        "aggregation": aggregation,
    }
    with _named_as_options():
        options = explain.options({**asked, "rows": rows, "faithfulness": faithfulness})
        source = explain.read(text, limit or (COMPARED_ROWS if compare else None))
        methods = [explain.parse_method(one) for one in method or ()]
        to = maps.Outputs(html, out, as_json)
        place: dict[str, Any] = {"store": home / "artifacts", "device": device, "dtype": dtype, "batch": batch}
        with maps.answering(model, url, api_key=api_key, **place) as explainer:
            if compare:
                maps.show_comparison(console, explainer, source, methods or explain.default_methods(), options, to)
            else:
                maps.show_maps(console, explainer, source, methods or [("saliency", {})], options, to)


@app.command()
def reproduce(
    report: Annotated[str, typer.Argument(help="A report.json, a published model's folder, or an artifact.")],
    arm: Annotated[str | None, typer.Option(help="The recipe; else the published one.")] = None,
    seed: Annotated[int | None, typer.Option(help="Else the published one, or the arm's first.")] = None,
    size: Annotated[int | None, typer.Option(help="The point of the learning curve; else all rows.")] = None,
    artifacts: Annotated[Path | None, typer.Option(help="The store with its data; else where REPORT lies.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone.")] = False,
) -> None:
    """Train an arm of REPORT again and say whether its figures come out: exit status 0 if they do, 1 if not."""
    with _wrong_option("report", "arm", "seed"):
        asked: dict[str, Any] = {"reference": report, "arm": arm, "seed": seed, "size": size, "artifacts": artifacts}
        found = reproduction.show(console, as_json=as_json, **asked)
    raise typer.Exit(0 if found.confirmed else 1)


@app.command()
def gc(
    home: Annotated[Path | None, typer.Option(help="The folder of the stack; else as UNDERSTUDY_... say.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would go, and why the rest stays.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone.")] = False,
    now: Annotated[bool, typer.Option("--now", help="What is marked goes at once, not a grace period later.")] = False,
    adopt: Annotated[bool, typer.Option("--adopt", help="Take over a store that another database has filled.")] = False,
) -> None:
    """Remove what no job, alias or file needs any more from the artifact store."""
    given = {"--dry-run": dry_run, "--json": as_json, "--now": now, "--adopt": adopt}
    options = [name for name, is_given in given.items() if is_given]
    environment = os.environ | ({"UNDERSTUDY_HOME": str(home)} if home else {})
    command = [sys.executable, "-m", "services.orchestrator.garbage", *options]
    raise typer.Exit(subprocess.run(command, env=environment).returncode)


@contextmanager
def _wrong_option(*names: str) -> Iterator[None]:
    """An error about one of these parameters is a wrong use of the command: exit status 2."""
    try:
        yield
    except InvalidRequest as error:
        if error.param not in names:
            raise
        raise typer.BadParameter(error.message, param_hint=error.param) from error


def _listed(text: str | None) -> tuple[str, ...] | None:
    """What stands between the commas."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


@contextmanager
def _named_as_options() -> Iterator[None]:
    """An error about a field of a request is one about the option that sets it."""
    try:
        yield
    except UnderstudyError as error:
        field = (error.param or "").partition(".")[0]
        error.param = OPTIONS_OF_FIELDS.get(field) or (f"--{field.replace('_', '-')}" if field else None)
        raise


def _explained_by(text: str) -> tuple[str, Mapping[str, Any]]:
    """The method and its settings of `--attribution`."""
    try:
        return explain.parse_method(text)
    except UnderstudyError as error:
        error.param = "method.distillation.attribution.method"
        raise


def _try_out(client: OrchestratorClient, files: dict[str, Path], job: dict[str, Any]) -> None:
    found = try_out(client, files, job)
    for name, line in dry_run_lines(found):
        style = ("[yellow]", "[/]") if name == "!" else ("", "")
        console.print(f"  {style[0]}{name:<11}{escape(line)}{style[1]}", highlight=False, soft_wrap=True)


def _distill(
    client: OrchestratorClient, stack: Stack | None, files: dict[str, Path], job: dict[str, Any], home: Path
) -> None:
    job_id = submit(client, files, job)
    console.print(f"[bold]Job[/] {job_id}, submitted to {client.base_url}", highlight=False)
    # A job on somebody else's stack goes on without us.
    with PhaseBars(console) as bars, cancelled_by_interrupt(client, job_id) if stack else nullcontext():
        report = watch(client, job_id, bars.update, stack.check if stack else lambda: None)
    page = home / f"{job_id}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(client.report_html(job_id), encoding="utf-8")
    console.print(report_view(report), f"\n  The report as a page: {escape(str(page))}", soft_wrap=True)


@contextmanager
def _running(config: StackConfig, *, echo: bool = False) -> Iterator[Stack]:
    with (
        console.status("Starting the local stack ...") as status,
        Stack(config, _print_line if echo else None) as stack,
    ):
        status.stop()
        console.print(
            f"[bold]The stack runs[/]\n  orchestrator  {stack.orchestrator_url}\n  teacher       {stack.teacher_url}\n"
            f"  student       {stack.student_url}\n  log           {escape(str(stack.log_path))}",
            highlight=False,
            soft_wrap=True,
        )
        yield stack


@contextmanager
def _address(url: str | None, home: Path) -> Iterator[tuple[str, Stack | None]]:
    """The orchestrator that was named, or one of a stack that is started for this."""
    if url:
        yield url, None
        return
    with _running(loop.config(home)) as stack:
        yield stack.orchestrator_url, stack


def _hold(stack: Stack, keep: bool) -> None:
    """Watch over the stack until Ctrl-C."""
    if not keep:
        return
    console.print("\nThe stack runs until Ctrl-C.")
    while True:
        stack.check()
        time.sleep(1)


def _print_line(name: str, line: str) -> None:
    console.print(f"[dim]{name:<12}[/] {escape(line)}", highlight=False, soft_wrap=True)


def _end(number: int, _: Any) -> None:
    sys.exit(128 + number)  # unwinds the stack, which ends what it started


def _where(error: UnderstudyError) -> str:
    """The option at fault, in brackets; a field that no option sets by its own name, unless the message says it."""
    param = error.param or ""
    if param in OPTIONS:
        return f" ({OPTIONS[param]})"
    return f" ({param})" if param and param not in error.message else ""


def main() -> None:
    """Exit status 0 when all went well, 1 for an error that we explain, 2 for a wrong option, 130 for Ctrl-C."""
    signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup means that a closed terminal is no end
        signal.signal(signal.SIGHUP, _end)
    try:
        app()
    except UnderstudyError as error:
        Console(stderr=True).print(
            f"[bold red]Error[/]{escape(_where(error))}: {escape(error.message)}", highlight=False, soft_wrap=True
        )
        if isinstance(error, Unauthorized):
            Console(stderr=True).print(KEY_HINT, highlight=False, soft_wrap=True)
        sys.exit(1)
