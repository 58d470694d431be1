"""`understudy plan`: what a distillation of a given size would take; see `understudy.capacity`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from understudy.commands.fields import wrong_use
from understudy.commands.output import Json, console, print_json
from understudy.errors import InvalidRequest

if TYPE_CHECKING:
    from understudy.capacity import Capacity

__all__ = ["plan"]

UNITS = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def plan(
    examples: Annotated[str, typer.Option(help="Rows that the teacher explains: 250000, 1e9, 20m.")],
    teacher: Annotated[str, typer.Option(help="Its parameters: 780m, 3b.")],
    student: Annotated[str, typer.Option(help="Its parameters.")] = "60m",
    tokens: Annotated[int, typer.Option(min=1, help="Of an example, with its answer.")] = 128,
    gpu: Annotated[str, typer.Option(help="As h100, a100 or l4; any other word lists all that are known.")] = "h100",
    gpus: Annotated[int, typer.Option(min=1, help="How many, for teachers and then for trainings.")] = 1,
    utilisation: Annotated[float, typer.Option(min=0.001, max=1, help="The part of its peak that a GPU gives.")] = 0.3,
    tokens_per_second: Annotated[
        float | None, typer.Option(min=1e-9, help="That one teacher explains, measured: in place of --utilisation.")
    ] = None,
    passes: Annotated[int, typer.Option(min=1, help="Of the method: 1 for saliency, the steps of others.")] = 1,
    annotators: Annotated[int, typer.Option(min=1, help="Processes that ask the teachers.")] = 16,
    trainings: Annotated[int, typer.Option(min=1, help="Recipes and controls, times seeds.")] = 15,
    epochs: Annotated[float, typer.Option(min=0.001, help="How often a training reads each row.")] = 1.0,
    test_rows: Annotated[int | None, typer.Option(min=1, help="Of a test file; else a fifth is held out.")] = None,
    gpu_hour: Annotated[float | None, typer.Option(min=0, help="The price of a GPU's hour.")] = None,
    cpu_hour: Annotated[float | None, typer.Option(min=0, help="The price of a core's hour.")] = None,
    as_json: Json = False,
) -> None:
    """Hours, disk, database and cost of a distillation before there is a cluster for it, and what gives way first."""
    from understudy import capacity
    from understudy.capacity import Asked

    with wrong_use("--examples", "--teacher", "--student", "--gpu"):
        asked = Asked(
            examples=_count("--examples", examples),
            teacher=_count("--teacher", teacher),
            student=_count("--student", student),
            tokens=tokens,
            gpu=gpu,
            gpus=gpus,
            utilisation=utilisation,
            tokens_per_second=tokens_per_second,
            passes=passes,
            annotators=annotators,
            trainings=trainings,
            epochs=epochs,
            test_rows=test_rows,
            gpu_hour=gpu_hour,
            cpu_hour=cpu_hour,
        )
        found = capacity.plan(asked)
    print_json({"asked": asked.model_dump(), **found.model_dump()}) if as_json else _show(found)


def _count(option: str, text: str) -> int:
    from understudy.capacity import count

    try:
        return count(text)
    except InvalidRequest as error:
        error.param = option
        raise


def _show(found: Capacity) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for title, side in (
        ("stage", "left"),
        ("hours", "right"),
        ("on", "left"),
        ("GPU hours", "right"),
        ("CPU hours", "right"),
    ):
        table.add_column(title, justify=side, header_style="dim")  # type: ignore[arg-type]
    for stage in found.stages:
        style = "bold" if stage.name == found.first else ""
        table.add_row(
            stage.name, _hours(stage.hours), stage.on, _some(stage.gpu_hours), _some(stage.cpu_hours), style=style
        )
    table.add_row("a job", _hours(found.hours), "", _some(found.gpu_hours), _some(found.cpu_hours))
    console.print(table, highlight=False)
    console.print("Teacher, orchestrate and database happen at the same time.", style="dim", highlight=False)
    kinds = " · ".join(f"{kind} {_bytes(size)}" for kind, size in found.bytes.items())
    lines = [f"disk       {_bytes(sum(found.bytes.values()))}: {kinds}", f"database   {found.database_rows:,} rows"]
    lines += [f"cost       {found.cost:,.2f}"] if found.cost is not None else []
    console.print("", *lines, sep="\n", highlight=False, soft_wrap=True)
    console.print(f"\n[bold]{found.first}[/] takes longest. {escape(found.change)}", highlight=False, soft_wrap=True)
    for wall in found.walls:
        console.print(f"[yellow]![/] {escape(wall)}", highlight=False, soft_wrap=True)
    console.print("\nTaken for granted:", style="dim")
    for line in found.assumed:
        console.print(f"  · {escape(line)}", style="dim", highlight=False, soft_wrap=True)


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2f}"


def _some(hours: float) -> str:
    return _hours(hours) if hours else ""


def _bytes(size: float) -> str:
    factor, unit = next(((factor, unit) for factor, unit in UNITS if size >= factor), UNITS[-1])
    return f"{size / factor:,.1f} {unit}" if size < 10 * factor else f"{size / factor:,.0f} {unit}"
