"""The page of the command line, from the application itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main
from tables import cell, code, table

from understudy.cli import app

__all__ = ["page"]

INTRO = """\
# Every option

Made from the program: what `understudy COMMAND --help` shows.
"""


def page() -> str:
    root = typer.main.get_command(app)
    return INTRO + "\n" + "\n".join(_described(root, "understudy", None))


def _described(command: Any, name: str, parent: Any) -> Iterator[str]:
    context = command.context_class(command, info_name=name.split()[-1], parent=parent)
    if parent is not None:
        yield f"## `{name}`\n" if name.count(" ") == 1 else f"### `{name}`\n"
    yield (cell(command.help or "").strip() or "(no description)") + "\n"
    yield f"```text\n{name} {' '.join(command.collect_usage_pieces(context))}\n```\n"
    shown = [(parameter, parameter.get_help_record(context)) for parameter in command.get_params(context)]
    for kind, head in (("argument", "Argument"), ("option", "Option")):
        rows = [(code(found[0]), cell(found[1])) for one, found in shown if found and one.param_type_name == kind]
        yield table((head, "Meaning"), rows)
    for child in getattr(command, "commands", {}).values():
        if not child.hidden:
            yield from _described(child, f"{name} {child.name}", context)
