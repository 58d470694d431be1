"""`understudy predict`: a student's answers to a text, a file's rows or standard input's lines."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.text import Text

from understudy.commands import complete
from understudy.commands.exits import Exit
from understudy.commands.fields import as_options
from understudy.commands.output import Json, aside, colours, console, print_line, progress
from understudy.commands.service import DEFAULT_HOME, Key
from understudy.errors import NotFound

if TYPE_CHECKING:
    from understudy.ask import Asked, Student
    from understudy.errors import InvalidRequest
    from understudy.schemas import PredictionInput

__all__ = ["ARTIFACTS", "DEVICE", "ENGINE", "MODEL", "answering", "predict"]

Rows = Iterable[tuple[int, "PredictionInput | InvalidRequest"]]

DEFAULT_ALIAS = "production"
LABELS = 10
"""Answers that a summary counts by name."""
OTHERS = 3
"""Answers beside the one that was given, of a text of its own."""

FIELDS = MappingProxyType({"input": "TEXT", "inputs": "TEXT"})
"""The fields of a request that are no options."""

ASKED, SHOWN, RUN = "Who is asked", "What is shown", "How it runs"
PROBLEMS = 3
"""Rows without an answer that are named; --json and --out have them all."""

MODEL = Annotated[
    str | None,
    typer.Option(
        help="A folder, an artifact id or an alias: production, unless named.",
        autocompletion=complete.versions,
        rich_help_panel=ASKED,
    ),
]
STUDENT = Annotated[
    str | None, typer.Option(help="A student service that answers, in place of this process.", rich_help_panel=ASKED)
]
ARTIFACTS = Annotated[
    str | None,
    typer.Option(
        "--artifacts", help="The root of an artifact store, a folder or URL; else HOME's.", rich_help_panel=ASKED
    ),
]
DEVICE = Annotated[
    str, typer.Option(help="cpu, cuda or cuda:1; auto takes cuda where there is one.", rich_help_panel=RUN)
]
ENGINE = Annotated[
    str, typer.Option(help="auto takes the fastest that was published; or hf, ct2, ort.", rich_help_panel=RUN)
]


def predict(
    text: Annotated[
        str, typer.Argument(metavar="TEXT|FILE|-", help="A text; a JSONL, CSV or Parquet file; or - for lines.")
    ],
    model: MODEL = None,
    url: STUDENT = None,
    api_key: Key = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Name the words that decided.", rich_help_panel=SHOWN)
    ] = False,
    top_k: Annotated[int, typer.Option(min=1, max=100, help="How many words.", rich_help_panel=SHOWN)] = 5,
    out: Annotated[
        Path | None, typer.Option(help="Write one answer a line, as JSON, and print a summary.", rich_help_panel=SHOWN)
    ] = None,
    as_json: Json = False,
    device: DEVICE = "auto",
    engine: ENGINE = "auto",
    artifacts: ARTIFACTS = None,
    home: Annotated[
        Path, typer.Option(help="The folder of the stack whose models can be named.", rich_help_panel=RUN)
    ] = DEFAULT_HOME,
) -> None:
    """A student's answer to TEXT, to each row of FILE, or to each line of standard input; no service is needed.

    Of a file that is larger than memory only a few rows are held at a time.
    """
    from understudy.ask import ask

    with as_options(FIELDS):
        rows, total, single = _rows(text)
        store = artifacts or str(home / "artifacts")
        with (
            answering(model, url, api_key, store=store, device=device, engine=engine) as student,
            progress("answered", shown=bool(out) or not console.is_terminal) as step,
        ):
            answers = ask(student, rows, explain=explain, top_k=top_k, step=lambda done: step(done, total))
            if out:
                summary = _written(answers, out)
            elif as_json:
                summary = _each(answers, lambda one: print_line(one.json()))
            else:
                summary = _each(answers, lambda one: console.print(_view(one, single, explain), soft_wrap=single))
    if out and as_json:
        print_line({"out": str(out), **summary.json()})
    elif not single:
        summary.print(console if out else aside, out)
    if not summary.answered:
        raise typer.Exit(Exit.NO)


@contextmanager
def answering(
    model: str | None, url: str | None, api_key: str | None, *, store: str, device: str, engine: str
) -> Iterator[Student]:
    """Who answers: the service at `url`, else the model in this process."""
    from understudy.ask import Service, load
    from understudy.client import StudentClient
    from understudy.logs import configure

    if url:
        with StudentClient(url, api_key=api_key) as client:
            yield Service(client, model)
        return
    configure("understudy")  # what is logged goes to standard error
    ref = model or DEFAULT_ALIAS
    with aside.status(f"Loading {escape(ref)} ..."):
        loaded = load(ref, store=store, device=device, engine=engine)
    yield loaded


def _rows(text: str) -> tuple[Rows, int | None, bool]:
    """What is asked, how many rows that is where it can be known, and whether it is a text of its own."""
    from understudy.ask import count_rows, read_inputs, read_lines
    from understudy.data.read import FORMATS
    from understudy.data.rows import parse_input

    if text == "-":
        return read_lines(sys.stdin), None, False
    if os.path.isfile(text):  # noqa: PTH113 - a long text is no path, and Path raises where this says no
        path = Path(text)
        return read_inputs(path), count_rows(path), False
    if Path(text).suffix in FORMATS and not re.search(r"\s", text):
        raise NotFound(f"there is no file '{text}'", param="input")
    return [(0, parse_input({"input": text}))], 1, True


@dataclass
class _Summary:
    """How many rows got which answer, and which got none."""

    labels: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    problems: list[str] = field(default_factory=list)
    truncated: int = 0

    @property
    def answered(self) -> int:
        return self.labels.total()

    def add(self, one: Asked) -> None:
        if one.prediction is None:
            self.failed += 1
            if len(self.problems) < PROBLEMS:
                self.problems.append(f"line {one.line}: {one.problem}")
            return
        self.labels[one.prediction.label] += 1
        self.truncated += one.prediction.truncated > 0

    def json(self) -> dict[str, Any]:
        kept = {"answered": self.answered, "without_answer": self.failed, "problems": self.problems}
        return kept | {"truncated": self.truncated, "labels": dict(self.labels.most_common(LABELS))}

    def print(self, to: Console, out: Path | None) -> None:
        common = " · ".join(f"{label} {count:,}" for label, count in self.labels.most_common(LABELS))
        more = " · ..." if len(self.labels) > LABELS else ""
        to.print(Text(f"{self.answered:,} rows answered: {common}{more}", "bold"), highlight=False)
        if self.truncated:
            to.print(f"  {self.truncated:,} were longer than the model's window and were cut", style="yellow")
        if self.failed:
            rows = "1 row has" if self.failed == 1 else f"{self.failed:,} rows have"
            to.print(Text(f"  {rows} no answer: {'; '.join(self.problems)}", "yellow"))
        if out:
            to.print(Text(f"  written: {out}", "dim"), soft_wrap=True)


def _each(answers: Iterable[Asked], do: Callable[[Asked], None]) -> _Summary:
    summary = _Summary()
    for one in answers:
        summary.add(one)
        do(one)
    return summary


def _written(answers: Iterable[Asked], out: Path) -> _Summary:
    from understudy.explain import write_aside

    with write_aside(out) as add:
        return _each(answers, lambda one: add(json.dumps(one.json(), ensure_ascii=False)))


def _view(one: Asked, single: bool, explain: bool) -> RenderableType:
    """A text with its answer below; of a file a line a row, unless words are shown."""
    from understudy.display import prediction_view

    if one.input is None or one.prediction is None:
        return Text(f"  line {one.line}: {one.problem}", "yellow")
    if single or explain:
        return prediction_view(one.input.input, one.prediction, colours=colours(), others=OTHERS if single else 0)
    line = Text(f"{one.prediction.probability:5.0%}  ", "dim", no_wrap=True, overflow="ellipsis")
    return line.append(one.prediction.label, "bold green not dim").append(
        "  " + " ".join(one.input.input.split()), "not dim"
    )
