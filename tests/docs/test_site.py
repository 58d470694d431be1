"""The site as `make docs` builds it: strictly, of local things alone, with every command of the program in it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer.main
from stand.pages import ROOT

from understudy.cli import app

pytestmark = pytest.mark.timeout(300)


class _Fetched(HTMLParser):
    """The addresses that a browser fetches by itself to show a page."""

    FETCHING = (("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href"))

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if (tag, name) in self.FETCHING]
        self.classes |= {one for name, value in attrs if name == "class" for one in (value or "").split()}


@pytest.fixture(scope="module")
def found(site: Path) -> dict[Path, _Fetched]:
    """What each page of the site fetches."""
    read: dict[Path, _Fetched] = {}
    for path in site.rglob("*.html"):
        page = read[path] = _Fetched()
        page.feed(path.read_text(encoding="utf-8"))
    return read


def test_no_page_fetches_anything_from_elsewhere(found: dict[Path, _Fetched]) -> None:
    assert len(found) > 40
    for path, page in found.items():
        assert [one for one in page.addresses if re.match(r"(?:\w+:)?//", one)] == [], path


def test_what_a_page_fetches_is_there(found: dict[Path, _Fetched]) -> None:
    for path, page in found.items():
        if path.name == "404.html":  # it is shown at any address, so its links begin at the root
            continue
        assert [one for one in page.addresses if not (path.parent / one.partition("?")[0]).exists()] == [], path


def test_no_style_fetches_anything_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"(?:url\(\s*['\"]?|@import\s+['\"])(?:\w+:)?//", text) == [], path


def test_nothing_wakes_the_parts_of_the_theme_that_ask_other_hosts(found: dict[Path, _Fetched]) -> None:
    """Its script fetches a drawing library where a page has diagrams, and a repository's facts where one is named."""
    for path, page in found.items():
        assert not page.classes & {"mermaid", "md-source"}, path


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    page = (site / "reference" / "generated" / "cli.html").read_text(encoding="utf-8")
    root = typer.main.get_command(app)
    assert root.commands
    for name, command in root.commands.items():
        assert f"understudy {name}" in page
        for option in (one for one in command.params if not getattr(one, "hidden", False)):
            assert option.opts[0] in page or option.human_readable_name in page


def test_the_decisions_are_listed(site: Path) -> None:
    page = (site / "reference" / "generated" / "decisions.html").read_text(encoding="utf-8")
    for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md"):
        assert f"{path.stem}.html" in page


def test_pictures_are_readable_without_eyes_and_in_the_dark() -> None:
    for path in (ROOT / "docs" / "images").glob("*.svg"):
        if path.stem != "favicon":
            text = path.read_text(encoding="utf-8")
            assert "<title" in text
            assert "<desc" in text
            assert "prefers-color-scheme: dark" in text
            assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("(HTTP)", "")
