"""The page in a real browser, on a database with one finished job: it shows what is there, and lets nothing else in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from playwright.sync_api import Error as PlaywrightError
from stand.browser import check_accessible, chromium, find_chromium, watched
from stand.server import Server

from services.orchestrator import watch
from services.orchestrator.jobs import Event

pytestmark = [
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium here: apt-get install chromium"),
    pytest.mark.timeout(300),  # the first test waits for a real job
]

TITLES = {
    "#/jobs": "Jobs",
    "#/new": "New job",
    "#/models": "Models",
    "#/jobs/{job}": "production",
    "#/jobs/{job}/report": "production",
    "#/jobs/{job}/examples": "production",
    "#/jobs/{job}/rows": "production",
    "#/jobs/{job}/events": "production",
}
READY = {
    "#/jobs": "text=Succeeded",
    "#/new": "text=Submit the job",
    "#/models": "text=Versions",
    "#/jobs/{job}": "canvas",
    "#/jobs/{job}/report": "text=How it was decided",
    "#/jobs/{job}/examples": ".examples mark",
    "#/jobs/{job}/rows": "td >> text=output is missing",
    "#/jobs/{job}/events": "text=The job has succeeded",
}
NARROW = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def server(seeded: Any) -> Iterator[Server]:
    one = Server(seeded.settings)
    yield one
    one.stop()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    with watched(browser, server.url) as one:
        yield one


def view(page: Page, seeded: Any, address: str) -> None:
    page.goto("/" + address.format(job=seeded.job.id))
    page.locator(READY[address]).first.wait_for()


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_every_view_loads_without_a_complaint_and_is_accessible(
    browser: Browser, server: Server, seeded: Any, screenshots: Path, width: str
) -> None:
    size = {"viewport": NARROW} if width == "narrow" else {}
    schemes: tuple[Any, ...] = ("dark",) if width == "narrow" else ("light", "dark")  # a width changes no colour
    with watched(browser, server.url, **size) as page:
        for address, title in TITLES.items():
            view(page, seeded, address)
            expect(page.locator("h1")).to_have_text(title)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{address} is too wide"
            for scheme in schemes:
                page.emulate_media(color_scheme=scheme)
                name = address.split("/")[-1].strip("{}")
                page.screenshot(path=screenshots / f"{name}-{width}-{scheme}.png", full_page=True)
                check_accessible(page, f"{address}, {width}, {scheme}")


def test_hostile_rows_are_texts_and_nothing_else(page: Page, seeded: Any) -> None:
    view(page, seeded, "#/jobs/{job}/examples")
    while page.get_by_text("More examples").count():
        shown = page.locator(".examples > li").count()
        page.get_by_text("More examples").click()
        expect(page.locator(".examples > li")).not_to_have_count(shown)
    texts = page.locator(".heat").all_inner_texts()
    seen = [one["input"] for one in every_row(page, seeded)]
    assert any("<img src=x onerror=window.hacked=1> was great" in text for text in seen)
    assert any("<img src=x onerror=window.hacked=1> was great" in text for text in texts)
    turned = next(text for text in texts if "film 😀 was awful" in text)
    assert turned.startswith("the ⟨U+202E⟩evil txet⟨U+202C⟩ film 😀 was awful")
    assert not any("\u202e" in text for text in texts)
    assert page.locator("main img").count() == 0
    assert page.evaluate("window.hacked") is None
    marks = page.locator("li", has_text="film 😀").first.locator("mark").all_inner_texts()
    assert "awful" in marks, "offsets count characters: a word behind an emoji is marked whole"


def every_row(page: Page, seeded: Any) -> list[dict[str, Any]]:
    path = f"/v1/fine_tuning/jobs/{seeded.job.id}/examples?limit=100"
    return list(page.evaluate("path => fetch(path).then(answer => answer.json())", path)["data"])


def test_a_text_that_would_be_html_meets_a_policy_that_lets_none_in(browser: Browser, server: Server) -> None:
    with watched(browser, server.url, expected=("TrustedHTML", "TrustedScript")) as page:
        page.goto("/")
        page.locator("h1").wait_for()
        with pytest.raises(PlaywrightError, match="TrustedHTML"):
            page.evaluate("document.body.innerHTML = '<b>x</b>'")
        with pytest.raises(PlaywrightError, match="TrustedScript"):
            page.evaluate("document.createElement('script').textContent = 'window.hacked = 1'")
        with pytest.raises(PlaywrightError, match="TrustedScript"):
            page.evaluate("document.body.setAttribute('onclick', 'window.hacked = 1')")
        assert page.evaluate("window.hacked") is None


def test_examples_are_chosen_by_label_and_by_what_the_student_says(page: Page, seeded: Any) -> None:
    view(page, seeded, "#/jobs/{job}/examples")
    page.get_by_label("Label").select_option("fine")
    expect(page.locator(".examples > li").first).to_contain_text("expected fine")
    expected = [one for one in every_row(page, seeded) if one["expected"] == "fine"]
    for who, right in (("right", True), ("wrong", False)):
        page.get_by_label("Student").select_option(who)
        wanted = [one for one in expected if one["student"] and one["student"]["right"] is right]
        if wanted:
            expect(page.locator(".examples > li")).to_have_count(min(len(wanted), 20))
        else:
            expect(page.get_by_text("No example is like that")).to_be_visible()


def test_the_report_says_the_verdict_and_shows_every_arm(page: Page, seeded: Any) -> None:
    view(page, seeded, "#/jobs/{job}/report")
    report = page.evaluate(
        "path => fetch(path).then(answer => answer.json())", f"/v1/fine_tuning/jobs/{seeded.job.id}/report"
    )
    for arm in report["arms"]:
        expect(page.get_by_role("rowheader", name=arm["recipe"]).first).to_be_visible()
    verdicts = [one["verdict"] for one in report["comparisons"]]
    assert page.locator("table .badge").all_inner_texts() == verdicts
    with page.expect_download() as saved:
        page.get_by_text("Save as a page").click()
    assert saved.value.suggested_filename == f"{seeded.job.id}.html"
    assert Path(saved.value.path()).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_key_is_asked_for_and_stays_in_the_tab(
    browser: Browser, serve: Callable[..., Server], seeded: Any, screenshots: Path
) -> None:
    server = serve(api_keys=("sk-secret-of-a-test",))
    with watched(browser, server.url, expected=("401",)) as page:
        asked: list[Any] = []
        page.on("request", lambda request: asked.append(request))
        page.goto(f"/#/jobs/{seeded.job.id}/report")
        field = page.get_by_label("API key")
        field.wait_for()
        check_accessible(page, "the question for a key")
        page.screenshot(path=screenshots / "key-wide-light.png")
        field.fill("sk-wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_text("does not know that key")).to_be_visible()
        field.fill("sk-secret-of-a-test")
        page.keyboard.press("Enter")
        page.get_by_text("How it was decided").wait_for()
        page.reload()
        page.get_by_text("How it was decided").wait_for()
        assert page.evaluate("Object.values(sessionStorage)") == ["sk-secret-of-a-test"]
        assert page.evaluate("JSON.stringify(localStorage) + document.cookie + location.href").count("sk-") == 0
        assert not any("sk-" in request.url for request in asked)
        page.get_by_text("Forget key").click()
        field.wait_for()
        assert page.evaluate("sessionStorage.length") == 0


def test_a_change_elsewhere_is_seen_at_once(
    page: Page, seeded: Any, monkeypatch: pytest.MonkeyPatch, screenshots: Path
) -> None:
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.05)
    page.goto("/")
    page.get_by_text("Live").wait_for()
    job = seeded.bench.submit()
    row = page.get_by_role("row", name=job.id[-8:])
    expect(row).to_contain_text("Checking files")
    seeded.bench.context.flow.pause(job.id)
    expect(row).to_contain_text("Paused")
    expect(page.locator("[role=status]").last).to_contain_text("Paused")
    row.get_by_role("link").click()
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Pause").wait_for()
    page.get_by_role("button", name="Cancel").click()
    box = page.get_by_role("dialog")
    check_accessible(page, "the question before a job is cancelled")
    box.get_by_role("button", name="Back").click()
    expect(box).to_have_count(0)
    assert seeded.bench.context.jobs.get(job.id).active
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.locator(".status").first).to_have_text("Cancelled")
    page.screenshot(path=screenshots / "cancelled-wide-light.png")


def test_without_a_stream_the_page_asks_again(
    browser: Browser, server: Server, seeded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "MOST_STREAMS", 0)
    with watched(browser, server.url, expected=("429",)) as page:
        page.goto("/")
        page.get_by_text("Polling").wait_for()
        job = seeded.bench.submit()
        row = page.get_by_role("row", name=job.id[-8:])
        expect(row).to_be_visible()
        seeded.bench.context.flow.end(job.id, "cancelled", Event(message="Job cancelled"))
        expect(row).to_contain_text("Cancelled")


def test_a_refused_job_names_its_field(
    browser: Browser, server: Server, seeded: Any, screenshots: Path, tmp_path: Path
) -> None:
    with watched(browser, server.url, expected=("400",)) as page:
        refuse(page, seeded, screenshots, tmp_path)


def refuse(page: Page, seeded: Any, screenshots: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"input": "a", "output": "b"}) + "\n")
    view(page, seeded, "#/new")
    page.set_input_files("#f-training", rows)
    page.get_by_label("Teacher", exact=True).fill("scratch:bert-1x16")
    page.get_by_label("Student", exact=True).fill("scratch:bert-1x16")
    page.get_by_text("Submit the job").click()
    field = page.get_by_label("Teacher", exact=True)
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#e-teacher")).to_contain_text("random weights and nothing to teach")
    expect(field).to_be_focused()
    check_accessible(page, "a refused job")
    page.screenshot(path=screenshots / "refused-wide-light.png", full_page=True)


def test_all_can_be_reached_by_keyboard(page: Page, seeded: Any) -> None:
    view(page, seeded, "#/jobs")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    press_until(page, page.locator(f"a[href='#/jobs/{seeded.job.id}']"))
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_be_focused()
    press_until(page, page.get_by_role("link", name="Report", exact=True))
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Report", exact=True)).to_have_attribute("aria-current", "page")
    expect(page.get_by_text("Keep in mind").or_(page.get_by_text("How it was decided")).first).to_be_visible()


def press_until(page: Page, wanted: Any, most: int = 40) -> None:
    for _ in range(most):
        page.keyboard.press("Tab")
        if wanted.evaluate("one => one === document.activeElement"):
            return
    raise AssertionError(f"{most} presses of Tab did not reach {wanted}")


def test_an_empty_service_and_a_job_that_is_not_there_say_so(
    browser: Browser, seeded: Any, tmp_path: Path, screenshots: Path
) -> None:
    server = Server(seeded.settings.model_copy(update={"home": tmp_path / "empty"}))
    try:
        with watched(browser, server.url, expected=("404",)) as page:
            for address, text in {"#/jobs": "No jobs yet", "#/models": "No model is published yet"}.items():
                page.goto("/" + address)
                page.get_by_text(text).wait_for()
                check_accessible(page, text)
                page.screenshot(path=screenshots / f"empty-{address[2:]}-wide-light.png")
            page.goto("/#/jobs/ftjob-nothing")
            expect(page.get_by_role("alert").first).to_contain_text("there is no job 'ftjob-nothing'")
            expect(page.get_by_text("Not reachable")).to_have_count(0)
            page.screenshot(path=screenshots / "error-wide-light.png")
    finally:
        server.stop()
