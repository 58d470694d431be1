"""Clients of the three services, on httpx. Each method is one call of the wire format; nothing here retries.

An error answer is raised as the class that the service raised (see `understudy.errors`), and a service that cannot be
reached as Unavailable, so that a caller decides on `error.retryable` alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from understudy import sockets, tracing
from understudy.errors import InternalError, InvalidRequest, NotFound, Unavailable, UnderstudyError, from_body
from understudy.schemas import (
    Attribution,
    AttributionRequest,
    AttributionResponse,
    ModelInfo,
    PredictionRequest,
    PredictionResponse,
)

__all__ = ["OrchestratorClient", "StudentClient", "TeacherClient", "Told"]

SILENCE_SECONDS = 45.0  # a stream that lives says so every 15 seconds
_EVENTS = "text/event-stream"


@dataclass(frozen=True)
class Told:
    """One message of a job's stream: an event (`message`) with its id, the `progress`, or the job when it is `done`."""

    name: str
    data: dict[str, Any]
    id: str | None = None


class _Client:
    """One service at one address. `api_key` is for services that ask for one; `transport` replaces the network.

    `base_url` is the address as people may see it: without the name and password that it may have had.

    Raises InvalidRequest for a key that no header can hold.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        transport: httpx.BaseTransport | None = None,
        timeout: float | None = 120.0,
    ) -> None:
        self.base_url = _shown(base_url)
        headers = {"Authorization": f"Bearer {_sendable(api_key)}"} if api_key else {}
        # trust_env off: these are our own addresses, and a proxy from the environment must not see the texts.
        chosen = transport or httpx.HTTPTransport(trust_env=False, socket_options=sockets.options())
        self._http = httpx.Client(
            base_url=base_url.rstrip("/"),
            headers=headers,
            transport=chosen,
            timeout=timeout,
            trust_env=False,
            event_hooks={"request": [tracing.continue_in]},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def ready(self) -> bool:
        """True when the service says that it can do its work."""
        try:
            return bool(self._call("GET", "/readyz"))
        except UnderstudyError:
            return False

    def live(self) -> bool:
        """True when the service answers at all."""
        try:
            return bool(self._call("GET", "/livez"))
        except UnderstudyError:
            return False

    def _call(self, method: str, path: str, **options: Any) -> Any:
        answer = self._send(method, path, **options)
        try:
            return answer.json()
        except ValueError as error:
            raise Unavailable(f"{self.base_url}{path} answered something that is not JSON") from error

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self._reached():
            answer = self._http.request(method, path, **options)
        return _believed(answer)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn a network's error into ours."""
        try:
            yield
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(f"{self.base_url} does not answer ({reason}): is the service running there?") from error


def _shown(url: str) -> str:
    return str(httpx.URL(url).copy_with(userinfo=b"", query=None, fragment=None)).rstrip("/")


def _sendable(api_key: str) -> str:
    """The key as it is; the network's own error about it would show it."""
    if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
        raise InvalidRequest("an API key has printable ASCII characters, without spaces or line ends", param="api_key")
    return api_key


def _told(fields: Mapping[str, str]) -> Told | None:
    """The message of a stream that has these fields; None where it has no data, as a comment has none."""
    if "data" not in fields:
        return None
    return Told(fields.get("event", "message"), json.loads(fields["data"]), fields.get("id"))


def _believed(answer: httpx.Response) -> httpx.Response:
    """An answer that is none of error; raises what the service raised."""
    if answer.is_success:
        return answer
    try:
        body = answer.json()
    except ValueError:
        body = {}
    wait = answer.headers.get("retry-after", "")
    raise from_body(
        answer.status_code, body if isinstance(body, Mapping) else {}, float(wait) if wait.isdigit() else None
    )


class TeacherClient(_Client):
    def attribute(self, request: AttributionRequest) -> AttributionResponse:
        # From bytes to the answer and back in one step each: rows are many, and their words more.
        content, headers = request.model_dump_json(), {"Content-Type": "application/json"}
        answer = self._send("POST", "/v1/attributions", content=content, headers=headers)
        return AttributionResponse.model_validate_json(answer.content)

    def stream(self, request: AttributionRequest) -> Iterator[tuple[int, Attribution | UnderstudyError]]:
        """Each example's place in the request with its result, or its error, as soon as the service has it.

        No order is kept. Leaving the loop early ends the work on the rest. Raises what is wrong with the whole request,
        and Unavailable where the service breaks off.
        """
        body, headers = request.model_dump(mode="json"), {"Accept": "application/x-ndjson"}
        with self._reached(), self._http.stream("POST", "/v1/attributions", json=body, headers=headers) as answer:
            if not answer.is_success:
                answer.read()
            for text in _believed(answer).iter_lines():
                line = json.loads(text)
                if "done" in line:
                    return
                if "error" in line:
                    yield line["index"], from_body(InternalError.status, line)
                elif "index" in line:
                    yield line["index"], Attribution.model_validate(line["result"])
        raise Unavailable(f"{self.base_url} broke off in the middle of its answer")

    def predict(self, request: PredictionRequest) -> PredictionResponse:
        return PredictionResponse.model_validate(
            self._call("POST", "/v1/predictions", json=request.model_dump(mode="json"))
        )

    def model(self, ref: str) -> ModelInfo:
        """Facts about a model, which the service loads if it has to."""
        return ModelInfo.model_validate(self._call("GET", "/v1/models/" + ref))


class StudentClient(_Client):
    def predict(self, request: PredictionRequest) -> PredictionResponse:
        return PredictionResponse.model_validate(
            self._call("POST", "/v1/predictions", json=request.model_dump(mode="json"))
        )

    def models(self) -> list[dict[str, Any]]:
        return list(self._call("GET", "/v1/models")["data"])


class OrchestratorClient(_Client):
    """OpenAI's wire format plus ours; jobs are returned as the JSON objects that came over the wire."""

    def upload(self, path: Path, purpose: str = "fine-tune") -> str:
        """Upload a data file and return its id."""
        with path.open("rb") as file:
            options = {"files": {"file": (path.name, file)}, "data": {"purpose": purpose}}
            return str(self._call("POST", "/v1/files", **options)["id"])

    def create_job(self, job: Mapping[str, Any], *, key: str | None = None) -> dict[str, Any]:
        """Submit a job. Under one `key` the same job may be sent again and again, and is made once."""
        headers = {"Idempotency-Key": key} if key else {}
        return dict(self._call("POST", "/v1/fine_tuning/jobs", json=dict(job), headers=headers))

    def dry_run(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """What submitting the job would lead to and cost. Raises what would be wrong with it."""
        return dict(self._call("POST", "/v1/fine_tuning/jobs", json=dict(job), params={"dry_run": "true"}))

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self._call("GET", f"/v1/fine_tuning/jobs/{job_id}"))

    def jobs(self) -> list[dict[str, Any]]:
        return list(self._call("GET", "/v1/fine_tuning/jobs")["data"])

    def each_job(self, *, metadata: Mapping[str, str] | None = None) -> Iterator[dict[str, Any]]:
        """All jobs, the newest first, a page at a time; only those that have this `metadata`."""
        wanted = {f"metadata[{name}]": value for name, value in (metadata or {}).items()}
        after: dict[str, str] = {}
        while True:
            page = self._call("GET", "/v1/fine_tuning/jobs", params={"limit": "100", **wanted, **after})
            yield from page["data"]
            if not page["has_more"]:
                return
            after = {"after": page["data"][-1]["id"]}

    def cancel(self, job_id: str) -> dict[str, Any]:
        return dict(self._call("POST", f"/v1/fine_tuning/jobs/{job_id}/cancel"))

    def pause(self, job_id: str) -> dict[str, Any]:
        return dict(self._call("POST", f"/v1/fine_tuning/jobs/{job_id}/pause"))

    def resume(self, job_id: str) -> dict[str, Any]:
        return dict(self._call("POST", f"/v1/fine_tuning/jobs/{job_id}/resume"))

    def events(self, job_id: str, after: str | None = None) -> list[dict[str, Any]]:
        params = {"limit": "100"} | ({"after": after} if after else {})
        return list(self._call("GET", f"/v1/fine_tuning/jobs/{job_id}/events", params=params)["data"])

    def follow(self, job_id: str, after: str | None = None) -> Iterator[dict[str, Any]]:
        """The job's events as they happen, oldest first, until it has ended.

        Raises Unavailable when the connection breaks; go on behind the last event's id then.
        """
        return (told.data for told in self.stream(job_id, after) if told.name == "message")

    def stream(self, job_id: str, after: str | None = None) -> Iterator[Told]:
        """All that the service tells of a job from behind the event `after`: events, progress, and `done` last.

        Ends at once where `after` was the last one. Raises Unavailable when the connection breaks, or is silent for so
        long that it must have.
        """
        headers = {"Accept": _EVENTS} | ({"Last-Event-ID": after} if after else {})
        place = f"/v1/fine_tuning/jobs/{job_id}/events"
        with self._reached(), self._http.stream("GET", place, headers=headers, timeout=SILENCE_SECONDS) as answer:
            if not answer.is_success:
                answer.read()
            if _believed(answer).status_code == httpx.codes.NO_CONTENT:
                return
            if not answer.headers.get("content-type", "").startswith(_EVENTS):
                raise NotFound(f"{self.base_url} streams no events: poll the job")
            fields: dict[str, str] = {}
            for line in answer.iter_lines():  # data are JSON, which stands on one line
                name, _, value = line.partition(":")
                if name:
                    fields[name] = value.removeprefix(" ")
                elif not line and (told := _told(fields)):
                    yield told
                    if told.name == "done":
                        return
                fields = fields if line else {}
        raise Unavailable(f"{self.base_url} broke off before job {job_id} had ended")

    def report(self, job_id: str) -> dict[str, Any]:
        return dict(self._call("GET", f"/v1/fine_tuning/jobs/{job_id}/report"))

    def report_html(self, job_id: str) -> str:
        return self._send("GET", f"/v1/fine_tuning/jobs/{job_id}/report.html").text
