"""The routes that people look through: examples, comparisons, and all jobs as they change."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from stand.student import FakeStudent, listening_teacher

from services.orchestrator import examples, watch
from services.orchestrator.jobs import Event
from understudy.errors import Unavailable

pytestmark = pytest.mark.timeout(300)  # the first test waits for a real job

JOBS = "/v1/fine_tuning/jobs"
UPDATES = "/v1/fine_tuning/updates"
STREAM = {"accept": "text/event-stream"}


def page(server: Any, job_id: str, **wanted: Any) -> dict[str, Any]:
    answer = server.http.get(f"{JOBS}/{job_id}/examples", params=wanted)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def every(server: Any, job_id: str, limit: int = 7, **wanted: Any) -> list[dict[str, Any]]:
    """All rows, a page after the other."""
    found: list[dict[str, Any]] = []
    after = {}
    while True:
        one = page(server, job_id, limit=limit, **wanted, **after)
        found += one["data"]
        assert len(one["data"]) <= limit
        if not one["has_more"]:
            assert one["next_after"] is None
            return found
        after = {"after": one["next_after"]}


def error(answer: httpx.Response, status: int, param: str | None = None) -> str:
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param
    return str(answer.json()["error"]["message"])


# --- examples ------------------------------------------------------------------------------------------------------


def test_every_annotated_row_comes_once_and_in_order(seeded: Any, serve: Callable[..., Any]) -> None:
    found = every(serve(), seeded.job.id)
    assert [one["index"] for one in found] == list(range(seeded.job.facts.rows.train))
    assert len({one["id"] for one in found}) == len(found)
    for one in found:
        teacher = one["teacher"]
        assert all(one["input"][word["start"] : word["end"]] == word["text"] for word in teacher["words"])
        assert teacher["right"] == (teacher["label"] == one["expected"])
        named = {word["start"] for word in teacher["rationale"]}
        assert named <= {word["start"] for word in teacher["words"]}


def test_rows_are_chosen_by_label(seeded: Any, serve: Callable[..., Any]) -> None:
    server = serve()
    whole = every(server, seeded.job.id)
    for label in ("awful", "fine", "great"):
        chosen = every(server, seeded.job.id, limit=3, label=label)
        assert chosen == [one for one in whole if one["expected"] == label]
        assert chosen
    assert page(server, seeded.job.id, label="no such label")["data"] == []


def test_rows_are_chosen_by_what_the_student_says_of_them(seeded: Any, serve: Callable[..., Any]) -> None:
    server = serve()
    asked = [one for one in every(server, seeded.job.id) if one["student"]]
    assert asked, "the evaluation keeps the student's answers to a sample of the rows"
    right, wrong = (every(server, seeded.job.id, student=name) for name in ("right", "wrong"))
    assert [one["index"] for one in asked] == sorted(one["index"] for one in right + wrong)
    assert all(one["student"]["label"] == one["expected"] for one in right)
    assert all(one["student"]["label"] != one["expected"] for one in wrong)
    low, high = (every(server, seeded.job.id, agreement=name) for name in ("low", "high"))
    assert [one["index"] for one in asked] == sorted(one["index"] for one in low + high)
    assert all(one["agreement"] < examples.AGREES for one in low)
    assert all(one["agreement"] >= examples.AGREES for one in high)
    both = every(server, seeded.job.id, agreement="high", label="fine")
    assert both == [one for one in high if one["expected"] == "fine"]


def test_agreement_is_the_f1_of_the_words(seeded: Any, serve: Callable[..., Any]) -> None:
    for one in every(serve(), seeded.job.id):
        if one["student"]:
            teacher, student = ({word["start"] for word in one[side]["rationale"]} for side in ("teacher", "student"))
            expected = 2 * len(teacher & student) / (len(teacher) + len(student))
            assert one["agreement"] == pytest.approx(expected)


def test_a_page_reads_a_bounded_number_of_rows(
    seeded: Any, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "MOST_READ", 10)
    server = serve()
    first = page(server, seeded.job.id, label="no such label")
    assert (first["data"], first["has_more"], first["next_after"]) == ([], True, 9)
    assert every(server, seeded.job.id, label="no such label") == []
    assert len(every(server, seeded.job.id)) == seeded.job.facts.rows.train


def test_a_job_without_annotations_says_so(seeded: Any, serve: Callable[..., Any]) -> None:
    job = seeded.bench.submit()
    said = error(serve().http.get(f"{JOBS}/{job.id}/examples"), 404)
    assert "no annotated examples" in said
    error(serve().http.get(f"{JOBS}/ftjob-nothing/examples"), 404, "fine_tuning_job_id")
    error(serve().http.get(f"{JOBS}/{job.id}/examples", params={"student": "perhaps"}), 400, "student")
    seeded.bench.context.flow.end(job.id, "cancelled", Event(message="Job cancelled"))


# --- comparisons ---------------------------------------------------------------------------------------------------


@pytest.fixture
def student() -> Iterator[FakeStudent]:
    with FakeStudent() as one:
        yield one


def test_teacher_and_student_answer_side_by_side(seeded: Any, serve: Callable[..., Any], student: FakeStudent) -> None:
    text = "The soup was great 😀 and warm"
    with listening_teacher(seeded.teacher) as teacher_url:
        server = serve(student_url=student.url, student_api_key="sk-student", teacher_urls=(teacher_url,))
        answer = server.http.post("/v1/comparisons", json={"model": "production", "input": text})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["artifact"], body["agree"]) == (seeded.job.fine_tuned_model, True)
    for side in ("teacher", "student"):
        said = body[side]
        assert (said["label"], said["error"]) == ("great", None)
        assert set(said["probabilities"]) == {"awful", "fine", "great"}
        assert all(text[word["start"] : word["end"]] == word["text"] for word in said["words"])
        assert said["rationale"]
    assert student.keys == ["Bearer sk-student"]


def test_where_one_side_is_away_the_other_answers_and_the_reason_is_there(
    seeded: Any, serve: Callable[..., Any], student: FakeStudent
) -> None:
    asked = {"model": "production", "input": "The soup was great"}
    alone = serve(student_url=student.url, teacher_urls=("http://127.0.0.1:9",)).http
    body = alone.post("/v1/comparisons", json=asked).json()
    assert (body["student"]["label"], body["teacher"]["label"], body["agree"]) == ("great", None, None)
    assert body["teacher"]["error"]["code"] == "unavailable"
    assert "no teacher service is ready" in body["teacher"]["error"]["message"]
    with listening_teacher(seeded.teacher) as teacher_url:
        body = serve(teacher_urls=(teacher_url,)).http.post("/v1/comparisons", json=asked).json()
    assert (body["student"]["label"], body["teacher"]["label"]) == (None, "great")
    assert "UNDERSTUDY_STUDENT_URL" in body["student"]["error"]["message"]
    nobody = serve(teacher_urls=("http://127.0.0.1:9",)).http.post("/v1/comparisons", json=asked)
    assert "UNDERSTUDY_STUDENT_URL" in error(nobody, Unavailable.status)


def test_a_comparison_of_no_model_or_no_text_is_refused(serve: Callable[..., Any], student: FakeStudent) -> None:
    http = serve(student_url=student.url).http
    error(http.post("/v1/comparisons", json={"model": "nobody", "input": "x"}), 404, "model")
    error(http.post("/v1/comparisons", json={"model": "production", "input": ""}), 400, "input")
    error(http.post("/v1/comparisons", json={"model": "production", "input": "x", "choices": ["a"]}), 400, "choices")


# --- updates -------------------------------------------------------------------------------------------------------


def test_all_jobs_are_told_and_each_again_when_it_changes(
    seeded: Any, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.02)
    job = seeded.bench.submit()
    with serve().http.stream("GET", UPDATES, headers=STREAM) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = (json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line.startswith("data: "))
        seen: dict[str, str] = {}
        while not {job.id, seeded.job.id} <= set(seen):
            one = next(told)
            assert one["id"] not in seen
            seen[one["id"]] = one["status"]
        assert (seen[seeded.job.id], seen[job.id]) == ("succeeded", "validating_files")
        seeded.bench.context.flow.pause(job.id)
        changed = next(told)
        assert (changed["id"], changed["status"]) == (job.id, "paused")
    seeded.bench.context.flow.end(job.id, "cancelled", Event(message="Job cancelled"))


def test_without_a_stream_they_are_a_list(seeded: Any, serve: Callable[..., Any]) -> None:
    found = serve().http.get(UPDATES).json()["data"]
    assert found[0]["id"] == seeded.job.id  # the oldest of them
    assert [one["created_at"] for one in found] == sorted(one["created_at"] for one in found)


def test_too_many_streams_are_refused(serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MOST_STREAMS", 0)
    answer = serve().http.get(UPDATES, headers=STREAM)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "30")
