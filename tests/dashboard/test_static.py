"""The dashboard's files: what is served with which headers, to whom, and that vendored files are what they say."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

import pytest

from services.orchestrator.routes.dashboard import CONTENT_SECURITY_POLICY, FOLDER, dashboard_paths
from understudy.attribution.methods import METHODS
from understudy.training.recipes import COMPONENTS

pytestmark = pytest.mark.timeout(300)  # the first test waits for a real job

HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
OWN = sorted(
    path for path in FOLDER.rglob("*") if path.suffix in (".js", ".css", ".html") and "vendor" not in path.parts
)


@pytest.fixture
def http(serve: Callable[..., Any]) -> Any:
    return serve().http


def test_people_get_the_page_and_programs_the_answer_that_they_had(http: Any) -> None:
    page = http.get("/", headers=HTML)
    assert (page.status_code, page.headers["vary"]) == (200, "Accept")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text == (FOLDER / "index.html").read_text()
    program = http.get("/")
    assert program.status_code == 404
    assert program.json()["error"]["message"].startswith("no such address")
    assert http.post("/").status_code == 405


def test_every_file_is_served_with_the_policy_and_asked_about_each_time(http: Any) -> None:
    for address in dashboard_paths()[1:]:
        answer = http.get(address)
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-cache")
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = http.get(address, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert http.get(address, headers={"if-none-match": '"another"'}).status_code == 200


def test_nothing_but_its_files_is_below_the_dashboard(http: Any) -> None:
    for address in ("/dashboard/", "/dashboard/__init__.py", "/dashboard/../app.py", "/dashboard/vendor/README.md"):
        assert http.get(address).status_code == 404


def test_the_page_needs_no_key_and_the_api_does(serve: Callable[..., Any]) -> None:
    http = serve(api_keys=("sk-test",)).http
    assert http.get("/", headers=HTML).status_code == 200
    assert http.get("/dashboard/app.js").status_code == 200
    assert http.get("/v1/fine_tuning/jobs").status_code == 401


def test_the_policy_has_no_way_around_it() -> None:
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "http" not in CONTENT_SECURITY_POLICY
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'"} <= set(CONTENT_SECURITY_POLICY.split("; "))


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_our_files_fetch_nothing_from_elsewhere_and_make_no_html_of_texts(path: Any) -> None:
    text = path.read_text(encoding="utf-8")
    urls = set(re.findall(r"https?://[^\s\"'`<>)]+", text))
    assert urls <= {"http://www.w3.org/2000/svg"}
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|unsafeHTML|\beval\(|new Function", text
    )
    if path.suffix == ".html":
        assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*\ssrc=)", text)


def test_vendored_files_are_what_their_readme_says() -> None:
    vendor = FOLDER / "vendor"
    rows = re.findall(r"^\| `([^`]+)` \| `[^`]+` \| `([0-9a-f]{64})` \|$", (vendor / "README.md").read_text(), re.M)
    files = {path.relative_to(vendor).as_posix() for path in vendor.rglob("*") if path.is_file()} - {"README.md"}
    assert {name for name, _ in rows} == files
    for name, digest in rows:
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == digest, name


def test_the_form_offers_the_recipes_and_methods_that_there_are() -> None:
    form = (FOLDER / "new.js").read_text(encoding="utf-8")
    offered = re.findall(r'^  \["([a-z_]+)", "[^"]*"\],$', form.partition("RECIPES = [")[2].partition("];")[0], re.M)
    assert set(offered) == {one.name for one in COMPONENTS}
    methods = re.findall(r'"(\w+)"', form.partition("METHODS = [")[2].partition("]")[0])
    assert set(methods) <= set(METHODS)


def test_the_key_is_kept_for_the_tab_alone() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in OWN}
    assert [name for name, text in texts.items() if "sessionStorage" in re.sub(r"//.*", "", text)] == ["api.js"]
    stored = re.findall(r"localStorage\.\w+\(([^)]*)\)", "".join(texts.values()))
    assert {one.split(",")[0] for one in stored} == {'"theme"'}
