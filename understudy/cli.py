"""The command line: every command by its name, and what is said of an error that one of them raises.

The commands are in `understudy.commands`, one module each.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from understudy.commands import doctor, evaluate, jobs, keys, models, predict
from understudy.commands.attribute import attribute
from understudy.commands.distill import distill
from understudy.commands.exits import EPILOG, Exit
from understudy.commands.fields import option_of
from understudy.commands.gc import gc
from understudy.commands.plan import plan
from understudy.commands.reproduce import reproduce
from understudy.commands.stack import quickstart, up
from understudy.errors import Unauthorized, UnderstudyError

__all__ = ["app", "main"]

KEY_HINT = (
    "Put a key into UNDERSTUDY_API_KEY. For an orchestrator, `understudy keys create NAME --scope submit` makes one on "
    "the machine where it runs."
)

DISTIL, ASK, KEEP = "Distil", "Ask and judge a model", "Run and look after it"

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Distil a large model into a small one, and prove whether it worked.",
    epilog=EPILOG,
)
COMMANDS: Mapping[str, tuple[Callable[..., None], ...]] = {
    DISTIL: (quickstart, distill, reproduce, plan),
    ASK: (predict.predict, evaluate.evaluate, attribute),
    KEEP: (up, doctor.doctor, gc),
}
for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel, epilog=EPILOG)(command)
app.add_typer(jobs.app, name="jobs", rich_help_panel=DISTIL)
app.add_typer(models.app, name="models", rich_help_panel=ASK)
app.add_typer(keys.app, name="keys", rich_help_panel=KEEP)


def main() -> None:
    """Run the command line and leave with an exit status of `commands.exits`."""
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
        sys.exit(Exit.NO)


def _end(number: int, _: Any) -> None:
    sys.exit(128 + number)  # unwinds the stack, which ends what it started


def _where(error: UnderstudyError) -> str:
    """The option at fault, in brackets; a field that no option sets by its own name, unless the message says it."""
    if option := option_of(error.param):
        return f" ({option})"
    return f" ({error.param})" if error.param and error.param not in error.message else ""
