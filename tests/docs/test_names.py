"""What the documentation names is there: settings, files, error codes, messages, commands, metrics."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from stand.pages import ROOT, pages

from services.orchestrator.worker_metrics import WorkerMetrics
from services.student.metrics import StudentMetrics
from services.teacher.metrics import TeacherMetrics
from understudy import errors

sys.path.insert(0, str(ROOT / "docs" / "generate"))  # the scripts that make the reference import each other by name

import failures
import http_pages
import measures
import variables

TEXTS = {path: path.read_text(encoding="utf-8") for path in pages()}
WRITTEN = pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
OTHERS = frozenset(re.findall(r"UNDERSTUDY_\w+", variables.OTHERS)) | {"UNDERSTUDY_URL", "UNDERSTUDY_SOAK_SEED"}
SETTINGS = OTHERS | {
    name
    for service in variables.SERVICES
    for settings, field, _, _ in variables.fields(service)
    for name in variables.names(settings, field)
}


@WRITTEN
def test_every_variable_that_a_page_names_is_read_by_something(path: Path) -> None:
    named = set(re.findall(r"\bUNDERSTUDY_[A-Z_]*[A-Z]\b(?!_)", TEXTS[path]))
    assert named <= SETTINGS


@WRITTEN
def test_every_file_of_ours_that_a_page_names_is_there(path: Path) -> None:
    folders = "benchmarks|docs|docker|examples|k8s|services|tests|understudy"
    named = set(re.findall(rf"`((?:{folders})/[\w./-]+\.(?:py|md|json|ya?ml|ipynb))`", TEXTS[path]))
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


@WRITTEN
def test_every_test_that_a_page_names_is_there(path: Path) -> None:
    named = set(re.findall(r"`(test_\w+_\w+_\w+)`", TEXTS[path]))
    if named:
        source = "".join(one.read_text(encoding="utf-8") for one in (ROOT / "tests").rglob("test_*.py"))
        assert {name for name in named if f"def {name}(" not in source} == set()


TROUBLE = (ROOT / "docs" / "howto" / "troubleshooting.md").read_text(encoding="utf-8")


def test_the_codes_of_the_trouble_page_are_errors_with_that_status() -> None:
    by_code = {one.code: one.status for _, one in failures._tree(errors.UnderstudyError)}
    rows = re.findall(r"^\| (\d{3}) ((?:`\w+`(?:, )?)+) \|", TROUBLE, re.MULTILINE)
    told = {code: int(status) for status, codes in rows for code in re.findall(r"\w+", codes)}
    assert told
    assert {code: by_code.get(code) for code in told} == told
    elsewhere = set(re.findall(r"`failed`, `(\w+)`", TROUBLE))  # codes of jobs that ended
    assert {"stage_failed", "budget_exhausted"} <= elsewhere
    plain = {"artifact_corrupt", "artifact_not_found", "forbidden", "internal_error", "lease_lost", "not_found"}
    plain |= {"unsupported_content_type"}  # their messages say it all
    assert set(by_code) - set(told) - elsewhere == plain


def test_what_the_trouble_page_quotes_is_said_somewhere() -> None:
    """A quotation's words, numbers and ellipses left out, stand in a string of the source."""
    quoted = re.findall(r"^\| `([^`]* [^`]*)` \|", TROUBLE, re.MULTILINE)
    source = "".join(
        path.read_text(encoding="utf-8") for name in ("understudy", "services") for path in (ROOT / name).rglob("*.py")
    )
    parts = [part.strip(" `") for text in quoted for part in re.split(r"\.\.\.|\b\d+\b|the orchestrator", text)]
    assert quoted
    assert [part for part in parts if part and part not in source] == []


def test_every_setting_says_what_it_is_or_has_a_plain_name() -> None:
    """A name that says it all needs no sentence; there are few of them."""
    plain = {"host", "port", "broker_url", "teacher_urls", "canary", "shadow"}
    for service in variables.SERVICES:
        silent = {name for _, name, _, text in variables.fields(service) if not text}
        assert silent <= plain


def test_the_page_of_metrics_has_all_that_a_registry_has() -> None:
    for file, metrics in (
        ("teacher/metrics.py", TeacherMetrics),
        ("student/metrics.py", StudentMetrics),
        ("orchestrator/worker_metrics.py", WorkerMetrics),
    ):
        registry = CollectorRegistry()
        metrics(registry)
        declared = {
            name.removesuffix("_total")
            for source in (f"services/{file}", "understudy/metrics.py")
            for name, _, _, _ in measures.declared(source)
        }
        assert {metric.name for metric in registry.collect()} <= declared


def test_every_declared_metric_has_a_text() -> None:
    found = [row for files in measures.SOURCES.values() for file in files for row in measures.declared(file)]
    assert len(found) > 30
    assert [name for name, _, _, text in found if not text] == []


@pytest.mark.parametrize("service", sorted(http_pages.SOURCE))
def test_a_page_of_http_tells_every_address_and_links_to_bodies_it_has(service: str) -> None:
    page = http_pages.page(service)
    anchors = {head.lower() for head in re.findall(r"^### (\w+)$", page, re.MULTILINE)}
    assert set(re.findall(r"\]\(#(\w+)\)", page)) <= anchors
    for path, methods in http_pages.document(service)["paths"].items():
        for method in methods:
            assert f"### {method.upper()} {path}\n".replace("_", "\\_") in page
