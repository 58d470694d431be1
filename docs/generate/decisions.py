"""The list of decision records: number, title and decision of each, in their own words."""

from __future__ import annotations

from pathlib import Path

from tables import table

__all__ = ["page"]

FOLDER = Path(__file__).parents[1] / "decisions"

INTRO = """\
# Decisions

Why things are as they are. A record is one page: context, decision, consequences, alternatives. None is changed later;
a new one takes its place.

"""


def page() -> str:
    rows = []
    for path in sorted(FOLDER.glob("[0-9]*.md")):
        number, _, title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ").partition(". ")
        rows.append((number, f"[{title}](../../decisions/{path.name})"))
    return INTRO + table(("Number", "What was decided"), rows)
