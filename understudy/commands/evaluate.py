"""`understudy evaluate`: how good a model is on a file of rows with answers, and whether it beats another."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.commands import complete
from understudy.commands.fields import as_options
from understudy.commands.output import Json, console, print_json, progress
from understudy.commands.predict import ARTIFACTS, DEVICE, ENGINE, MODEL, STUDENT, answering
from understudy.commands.service import DEFAULT_HOME, Key
from understudy.errors import NotFound

if TYPE_CHECKING:
    from understudy.judge import Judged

__all__ = ["evaluate"]


def evaluate(
    file: Annotated[Path, typer.Argument(help="JSONL, CSV or Parquet with input and output.")],
    model: MODEL = None,
    against: Annotated[
        str | None,
        typer.Option(help="Another model; who is better, with a verdict.", autocompletion=complete.versions),
    ] = None,
    url: STUDENT = None,
    api_key: Key = None,
    as_json: Json = False,
    device: DEVICE = "auto",
    engine: ENGINE = "auto",
    artifacts: ARTIFACTS = None,
    home: Annotated[Path, typer.Option(help="The folder of the stack whose models can be named.")] = DEFAULT_HOME,
) -> None:
    """Accuracy of a model on the rows of FILE, with its interval, by label, its confusions and its calibration."""
    if not file.is_file():
        raise NotFound(f"there is no file '{file}': name a JSONL, CSV or Parquet file", param="FILE")
    place: dict[str, Any] = {"store": artifacts or str(home / "artifacts"), "device": device, "engine": engine}
    with as_options():
        found = _judged(file, [model, against] if against else [model], url, api_key, place)
    if as_json:
        return print_json(found.model_dump(mode="json"))
    from understudy.display_judged import judged_view

    console.print(judged_view(found))


def _judged(
    file: Path, models: list[str | None], url: str | None, api_key: str | None, place: dict[str, Any]
) -> Judged:
    from understudy.ask import count_rows
    from understudy.judge import judge

    total = count_rows(file)
    with ExitStack() as open_ones:
        students = [open_ones.enter_context(answering(one, url, api_key, **place)) for one in models]
        step = open_ones.enter_context(progress("answered"))
        return judge(file, students[0], students[1] if len(students) > 1 else None, lambda done: step(done, total))
