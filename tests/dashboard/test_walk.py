"""The whole way through the dashboard on a real stack, with a key: from a file to a model that is rolled back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from stand.bench import rows as make_rows
from stand.browser import check_accessible, chromium, find_chromium, watched

from understudy.client import OrchestratorClient
from understudy.stack import Stack, StackConfig

pytestmark = [
    pytest.mark.slow,
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("stack"),
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium here: apt-get install chromium"),
]

KEY = "sk-for-the-walk"
MINUTES = 5 * 60_000  # a bound for a job on a machine that does much else


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("stack")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERSTUDY_API_KEYS", KEY)
        with Stack(StackConfig(home, port=0, teacher_port=0, student_port=0, trainers=1)) as running:
            yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


@pytest.fixture
def page(browser: Browser, stack: Stack) -> Iterator[Page]:
    with watched(browser, stack.orchestrator_url, expected=("401",)) as one:
        one.goto("/")
        one.get_by_label("API key").fill(KEY)
        one.get_by_role("button", name="Go on").click()
        yield one


def test_from_a_file_to_a_model_and_back(page: Page, stack: Stack, tmp_path: Path, screenshots: Path) -> None:
    page.get_by_role("link", name="Start the first one").click()
    fill_in(page, tmp_path)

    page.get_by_role("button", name="Dry run").click()
    aside = page.get_by_role("complementary", name="Dry run")
    expect(aside.get_by_role("heading", name="1 rejected row")).to_be_visible(timeout=MINUTES)
    expect(aside).to_contain_text("output is missing")
    page.screenshot(path=screenshots / "dry-run-wide-light.png", full_page=True)

    page.get_by_role("button", name="Submit the job").click()
    page.get_by_role("heading", name="walked").wait_for()
    expect(page.locator(".status").first).to_have_text("Running", timeout=MINUTES)
    expect(page.locator(".phases .running")).to_have_count(1)
    page.get_by_role("img", name=re.compile("Validation accuracy")).wait_for(timeout=MINUTES)
    page.screenshot(path=screenshots / "running-wide-light.png", full_page=True)
    expect(page.locator(".status").first).to_have_text("Succeeded", timeout=MINUTES)
    expect(page.locator(".phases .done")).to_have_count(7)

    page.get_by_role("link", name="Report", exact=True).click()
    expect(page.locator(".headline .badge")).to_have_text(re.compile("BEATS|DOES NOT BEAT|INCONCLUSIVE"))
    check_accessible(page, "the report of a real job")

    page.get_by_role("link", name="Examples", exact=True).click()
    page.get_by_label("Label").select_option("great")
    page.get_by_label("Words of the two").select_option("high")
    for one in page.locator(".examples > li").all():
        expect(one).to_contain_text("expected great")

    ask_both(page, screenshots)
    promote_and_roll_back(page, stack)


def fill_in(page: Page, folder: Path) -> None:
    data = folder / "reviews.jsonl"
    data.write_text(make_rows(120) + json.dumps({"input": "a row without an answer"}) + "\n")
    page.set_input_files("#f-training", data)
    page.get_by_label("Teacher", exact=True).fill("scratch:bert-1x32")
    page.get_by_label("Fine-tune it on the training rows first").check()
    page.get_by_label("Student", exact=True).fill("scratch:bert-1x16")
    page.get_by_role("radio", name="Choose").check()
    page.get_by_role("checkbox", name="rationale_gate").check()
    page.get_by_text("More settings").click()
    page.get_by_label("Publish as").fill("walked")
    page.get_by_label("Steps of each training").fill("20")
    page.get_by_label("Steps of the teacher").fill("20")


def ask_both(page: Page, screenshots: Path) -> None:
    page.get_by_role("link", name="Try the model").click()
    page.get_by_label("Text", exact=True).fill("The soup was great <img src=x onerror=alert(1)> I think 😀")
    page.get_by_role("button", name="Ask both").click()
    for side in ("Student", "Teacher"):
        answer = page.get_by_role("article", name=side)
        expect(answer.locator(".label")).to_have_text(re.compile(r"(awful|fine|great)\s+\d+\.\d %"), timeout=MINUTES)
        expect(answer.locator(".heat")).to_have_text("The soup was great <img src=x onerror=alert(1)> I think 😀")
        assert answer.locator("mark.named").count() > 0
    check_accessible(page, "both answers")
    page.screenshot(path=screenshots / "compared-wide-light.png", full_page=True)


def promote_and_roll_back(page: Page, stack: Stack) -> None:
    """A second version is an arm that was trained beside the published one, under an alias of its own."""
    with OrchestratorClient(stack.orchestrator_url, api_key=KEY) as client:
        [job] = client.jobs()
        published = job["fine_tuned_model"]
        trained = client._call("GET", f"/v1/fine_tuning/jobs/{job['id']}/checkpoints")["data"]
        other = trained[0]["fine_tuned_model_checkpoint"]
        client._call("POST", "/v1/models/spare/promote", json={"model": other})

        page.get_by_role("link", name="Models", exact=True).click()
        page.reload()
        page.get_by_role("button", name=f"Promote {other}").click()
        page.get_by_label("Let the alias").fill("walked")
        page.get_by_role("button", name="Promote", exact=True).click()
        card = page.locator(".aliases > li", has=page.get_by_text("walked", exact=True))
        expect(card).to_contain_text(other[-8:])
        assert client._call("GET", "/v1/versions/walked")["id"] == other

        card.get_by_role("button", name="Roll back walked").click()
        page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
        expect(card).to_contain_text(published[-8:])
        assert client._call("GET", "/v1/versions/walked")["id"] == published
