"""Write the reference's pages from the code: `python docs/generate`. What stands in them cannot drift.

The pages lie in docs/reference/generated, which git ignores. A page that has not changed is not touched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import commands
import decisions
import failures
import http_pages
import measures
import variables

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"

PAGES: Mapping[str, Callable[[], str]] = MappingProxyType(
    {
        "cli.md": commands.page,
        "decisions.md": decisions.page,
        "errors.md": failures.page,
        "http-orchestrator.md": lambda: http_pages.page("orchestrator"),
        "http-student.md": lambda: http_pages.page("student"),
        "http-teacher.md": lambda: http_pages.page("teacher"),
        "metrics.md": measures.page,
        "settings.md": variables.page,
    }
)


def write(folder: Path) -> None:
    """Write every page into FOLDER, each in one step, and remove what is none of them."""
    folder.mkdir(parents=True, exist_ok=True)
    BUILD.mkdir(exist_ok=True)
    for name, make in PAGES.items():
        path, text = folder / name, make()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            part = BUILD / f"{name}.{os.getpid()}"  # not beside it: another process may build from there now
            part.write_text(text, encoding="utf-8")
            part.replace(path)
    for path in folder.iterdir():
        if path.name not in PAGES:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    write(ROOT / "docs" / "reference" / "generated")
