"""Tables and code in Markdown, with what a table's cell cannot hold made harmless."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["cell", "code", "table"]


def cell(text: str) -> str:
    """Plain text on one line. What would be Markdown or HTML outside of backquotes stays what it is."""
    parts = " ".join(text.split()).split("`")
    for number in range(0, len(parts), 2):  # outside of backquotes; inside, a table's bar is no bar
        parts[number] = re.sub(r"([*\[_|])", r"\\\1", parts[number]).replace("<", "&lt;")
    return "`".join(parts)


def code(text: str) -> str:
    """TEXT as code; nothing where it is empty."""
    return f"`{' '.join(text.split())}`" if text else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; nothing where there are no rows. Cells are Markdown already."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads), *lines]) + "\n"
