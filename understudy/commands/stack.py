"""`understudy up` and `quickstart`: the local stack, and what a command needs that starts one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from understudy.commands.exits import Exit
from understudy.commands.output import Json, aside, meanwhile, print_json, print_line
from understudy.commands.service import DEFAULT_HOME
from understudy.errors import StageFailed

if TYPE_CHECKING:
    from understudy.stack import Stack, StackConfig

__all__ = ["Keep", "StackHome", "failed_job", "hold", "quickstart", "running", "up"]

StackHome = Annotated[Path, typer.Option(help="The folder that holds everything the stack writes.")]
Host = Annotated[str, typer.Option(help="The address to bind.")]
OrchestratorPort = Annotated[int, typer.Option(min=0, max=65535, help="The orchestrator's port; 0 takes any free one.")]
TeacherPort = Annotated[int, typer.Option(min=0, max=65535, help="The teacher's port; 0 takes any free one.")]
StudentPort = Annotated[int, typer.Option(min=0, max=65535, help="The student's port; 0 takes any free one.")]
Keep = Annotated[bool, typer.Option("--keep", help="Leave the stack running afterwards, until Ctrl-C.")]


def quickstart(
    home: StackHome = DEFAULT_HOME / "quickstart",
    keep: Keep = False,
    as_json: Json = False,
) -> None:
    """The whole loop on real text: data, teacher, students, report, predictions."""
    from understudy import quickstart as loop

    started = time.monotonic()
    told = meanwhile(as_json)
    with running(loop.config(home), as_json=as_json) as stack:
        with failed_job():
            found = loop.run(stack, told)
        if as_json:
            print_json({**stack.addresses, **found})
        told.print(f"\n  {time.monotonic() - started:.0f} seconds in all.", highlight=False)
        hold(stack, keep, as_json)


def up(
    home: StackHome = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    port: OrchestratorPort = 8000,
    teacher_port: TeacherPort = 8001,
    student_port: StudentPort = 8002,
    teacher: Annotated[str | None, typer.Option(help="A model that the teacher loads before it is ready.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Write the log to its file only.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the addresses as one line of JSON, once ready.")
    ] = False,
) -> None:
    """The local stack until Ctrl-C: broker, teacher, orchestrator, workers, student."""
    from understudy.stack import StackConfig

    config = StackConfig(home, host, port, teacher_port, student_port, teacher)
    with running(config, echo=not quiet, as_json=as_json) as stack:
        if as_json:
            print_line(stack.addresses)
        hold(stack, True, as_json)


@contextmanager
def running(config: StackConfig, *, echo: bool = False, as_json: bool = False) -> Iterator[Stack]:
    from understudy.stack import Stack

    told = meanwhile(as_json)

    def write(name: str, line: str) -> None:
        told.print(f"[dim]{name:<12}[/] {escape(line)}", highlight=False, soft_wrap=True)

    with told.status("Starting the local stack ...") as status, Stack(config, write if echo else None) as stack:
        status.stop()
        told.print(
            f"[bold]The stack runs[/]\n  orchestrator  {stack.orchestrator_url}\n  teacher       {stack.teacher_url}\n"
            f"  student       {stack.student_url}\n  log           {escape(str(stack.log_path))}",
            highlight=False,
            soft_wrap=True,
        )
        yield stack


def hold(stack: Stack, keep: bool, as_json: bool = False) -> None:
    """Watch over the stack until Ctrl-C."""
    if not keep:
        return
    meanwhile(as_json).print("\nThe stack runs until Ctrl-C.")
    while True:
        stack.check()
        time.sleep(1)


@contextmanager
def failed_job() -> Iterator[None]:
    """A job that did not succeed has an exit status of its own."""
    from understudy.commands.fields import option_of

    try:
        yield
    except StageFailed as error:
        option = option_of(error.param)
        where = f" ({option})" if option else ""
        aside.print(f"[bold red]Error[/]{where}: {escape(error.message)}", highlight=False, soft_wrap=True)
        raise typer.Exit(Exit.JOB) from error
