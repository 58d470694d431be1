"""Without OpenTelemetry's variables there is nothing; with them one trace from a submit to the student that serves."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from stand.bench import rows as make_rows
from stand.processes import wait

from understudy import tracing
from understudy.client import OrchestratorClient
from understudy.jobs import submit, watch
from understudy.stack import Stack, StackConfig

GIVEN = "4bf92f3577b34da6a3ce929d0e0e4736"


class Collector:
    """Takes spans by OTLP over HTTP, each with the name of the service that sent it."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                for one in ExportTraceServiceRequest.FromString(body).resource_spans:
                    service = next(a.value.string_value for a in one.resource.attributes if a.key == "service.name")
                    collector.spans += [(service, span) for scope in one.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def of(self, trace: str) -> list[tuple[str, str, Span]]:
        return [(service, span.name, span) for service, span in list(self.spans) if span.trace_id.hex() == trace]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.close()


def test_nothing_is_traced_where_nobody_asked() -> None:
    assert not tracing.is_on()
    with tracing.span("work", parent=None, job_id="ftjob-1") as current:
        assert current is None
        assert tracing.traceparent() is None
    request = httpx.Request("GET", "http://127.0.0.1")
    tracing.continue_in(request)
    assert tracing.HEADER not in request.headers


def test_a_process_without_opentelemetry_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = None\n"
        "from understudy import tracing; tracing.configure('student'); print(tracing.is_on())"
    )
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert ran.stdout.splitlines()[-1] == "False"
    assert "pip install 'understudy[traces]'" in ran.stdout + ran.stderr


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_trace_leads_from_the_submit_to_the_student(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    file = tmp_path / "rows.jsonl"
    file.write_text(make_rows(120), encoding="utf-8")
    few = {"max_steps": 20}
    distillation = {
        "teacher": {"model": "scratch:bert-1x32", "finetune": True, "hyperparameters": few},
        "recipe": "finetune",
        "seeds": [0],
        "hyperparameters": few,
    }
    body = {"model": "scratch:bert-1x16", "method": {"type": "distillation", "distillation": distillation}}
    with (
        Stack(StackConfig(tmp_path / "home", port=0, teacher_port=0, student_port=0)) as stack,
        OrchestratorClient(stack.orchestrator_url) as client,
    ):
        client._http.headers["traceparent"] = f"00-{GIVEN}-00f067aa0ba902b7-01"
        job_id = submit(client, {"training_file": file}, body)
        watch(client, job_id, lambda _: None, stack.check, seconds=0.2)
        wait(lambda: any(service == "understudy-student" for service, _, _ in collector.of(GIVEN)))
        found = collector.of(GIVEN)
    submits = [span for service, name, span in found if name == "POST /v1/fine_tuning/jobs"]
    assert len(submits) == 1
    work = {name: span for service, name, span in found if service == "understudy-worker"}
    assert {"validate", "preflight", "teacher", "annotate", "train", "evaluate", "publish"} <= work.keys()
    assert all(span.parent_span_id == submits[0].span_id for span in work.values())
    asked = [
        span for service, name, span in found if (service, name) == ("understudy-teacher", "POST /v1/attributions")
    ]
    parents = {span.parent_span_id for span in asked}
    assert work["annotate"].span_id in parents
    assert parents <= {span.span_id for service, _, span in found if service == "understudy-worker"}
    (served,) = (span for service, name, span in found if service == "understudy-student" and name == "serve")
    (moved,) = (span for _, name, span in found if name == "alias")
    assert served.parent_span_id == moved.span_id
    assert moved.parent_span_id == submits[0].span_id
    told = {one.key: one.value.string_value for one in work["train"].attributes}
    assert told["understudy.job_id"] == job_id
    texts = b"".join(span.SerializeToString() for _, _, span in found)
    assert b"film" not in texts  # no text of a user leaves the services by this way
