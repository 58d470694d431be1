"""The site in a real browser: it asks nobody else, its search finds things, and it fits a telephone."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from stand.browser import chromium, find_chromium, watched

pytestmark = [
    pytest.mark.slow,
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]

PAGES = ("index", "tutorial", "howto/troubleshooting", "concepts/comparison", "reference/generated/settings", "report")


THEME = frozenset({"landmark-unique", "scrollable-region-focusable"})
"""What the theme's own markup breaks: buttons to copy code without a name, boxes around wide tables without a focus."""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


def test_reading_and_searching_asks_nobody_else(browser: Browser, address: str) -> None:
    asked: list[str] = []
    with watched(browser, address) as page:
        page.on("request", lambda request: asked.append(request.url))
        for name in PAGES:
            page.goto(f"/{name}.html")
        page.get_by_role("textbox", name="Search").click()
        page.get_by_role("textbox", name="Search").press_sequentially("paired bootstrap")
        expect(page.locator(".md-search-result__item").first).to_contain_text("comparison")
    assert asked
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_pages_fit_and_can_be_read_by_all(browser: Browser, address: str, width: int, colours: str) -> None:
    with watched(browser, address, viewport={"width": width, "height": 900}, color_scheme=colours) as page:
        for name in PAGES:
            page.goto(f"/{name}.html")
            _reads(page, name)


def _reads(page: Page, name: str) -> None:
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{name} is {wide} pixels too wide"
    found = [one for one in Axe().run(page, context="article").response["violations"] if one["id"] not in THEME]
    assert [(one["id"], one["nodes"][0]["html"][:160]) for one in found] == [], name
