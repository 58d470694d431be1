"""A real headless Chromium, and a page in it that must not complain."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

__all__ = ["check_accessible", "chromium", "find_chromium", "watched"]

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SECONDS = 60.0  # a bound for a machine that does much else


def find_chromium() -> str | None:
    """`UNDERSTUDY_TEST_CHROMIUM`, or one on the PATH."""
    return os.environ.get("UNDERSTUDY_TEST_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Not for a whole session: while it runs, no test of this process can have an event loop of its own."""
    expect.set_options(timeout=1000 * SECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(_QUIET))
        yield browser
        browser.close()


@contextmanager
def watched(browser: Browser, url: str, *, expected: tuple[str, ...] = (), **context: Any) -> Iterator[Page]:
    """A page of a fresh profile; fails at its end where it has said an error, but for `expected` parts of one.

    A breach of the page's policy is such an error.
    """
    said: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            said.append(message.text)

    profile = browser.new_context(base_url=url, **{"viewport": {"width": 1440, "height": 900}, **context})
    page = profile.new_page()
    page.set_default_timeout(1000 * SECONDS)
    page.on("console", hear)
    page.on("pageerror", lambda error: said.append(f"{error.name}: {error.message}"))
    try:
        yield page
    finally:
        profile.close()
    unexpected = [one for one in said if not any(part in one for part in expected)]
    assert not unexpected, unexpected


def check_accessible(page: Page, what: str) -> None:
    """Fail with what axe finds, and where."""
    found = Axe().run(page).response["violations"]
    told = [f"{one['id']}: {node['html'][:160]} {node['any'][:1]}" for one in found for node in one["nodes"]]
    assert not told, f"{what}:\n" + "\n".join(told)
