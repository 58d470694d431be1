"""How things show in a notebook: pages of ours in a frame of their own, and bars that rich draws, without widgets."""

from __future__ import annotations

import html
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from understudy.display import PhaseBars

__all__ = ["NotebookBars", "as_html", "as_text", "counting", "framed", "in_notebook", "no_widgets"]

WIDTH = 100
"""Characters of a line where no terminal says how many."""

_PRE = (
    '<pre style="white-space:pre;overflow-x:auto;line-height:normal;'
    "font-family:Menlo,'DejaVu Sans Mono',consolas,'Courier New',monospace\">{code}</pre>"
)


def in_notebook() -> bool:
    return Console().is_jupyter


def no_widgets() -> None:
    """Keep other libraries' bars from complaining that a notebook has no widgets: none of them is shown here."""
    if in_notebook():
        with warnings.catch_warnings(), suppress(ImportError):
            warnings.simplefilter("ignore")
            import_module("tqdm.auto")  # it complains once, when it is imported first


def framed(page: str, height: int) -> str:
    """One of our pages inside another: its styles stay its own, and nothing in it may run. `height` in pixels."""
    style = f"width:100%;height:{height}px;border:0;border-radius:6px;resize:vertical;overflow:auto"
    return f'<iframe sandbox="" style="{style}" srcdoc="{html.escape(page)}"></iframe>'


def as_text(view: RenderableType) -> str:
    """What a terminal without colours would show."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, force_jupyter=False, record=True)
    console.print(view)
    return "\n".join(line.rstrip() for line in console.export_text().rstrip().split("\n"))


def as_html(view: RenderableType) -> str:
    """What a terminal would show, as HTML; texts in it are escaped."""
    console = Console(
        file=io.StringIO(), width=WIDTH, color_system="standard", force_terminal=True, force_jupyter=False, record=True
    )
    console.print(view)
    return console.export_html(inline_styles=True, code_format=_PRE)


@contextmanager
def counting(name: str, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar: call it with how many are done, and of how many.

    It is shown in a notebook or on standard error's terminal, and is gone at the end.
    """
    notebook, console = in_notebook(), Console(stderr=True)
    columns = (TextColumn(f"  {name}"), BarColumn(bar_width=22), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not shown or notebook or not console.is_terminal)
    task = bar.add_task("", total=None)
    if not (shown and notebook):
        with bar:
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    cell = _Cell()

    def step(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)
        cell.show(as_html(bar.get_renderable()))

    try:
        yield step
    finally:
        cell.show("")


class _Cell:
    """A place in the output of the cell that runs, whose content changes."""

    def __init__(self) -> None:
        self._display = import_module("IPython.display")
        self._handle = self._display.display(self._display.HTML(""), display_id=True)

    def show(self, content: str) -> None:
        self._handle.update(self._display.HTML(content))


class NotebookBars(PhaseBars):
    """The same bars, drawn anew in the cell that runs whenever there is news."""

    def __init__(self) -> None:
        console = Console(
            file=io.StringIO(), width=WIDTH, color_system="standard", force_terminal=True, force_jupyter=False
        )
        super().__init__(console)

    def __enter__(self) -> Self:
        self._cell = _Cell()
        return self  # the bars' own thread would draw into nothing

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What is shown stays."""

    def update(self, job: Mapping[str, Any]) -> None:
        super().update(job)
        self._cell.show(as_html(self._progress.get_renderable()))
