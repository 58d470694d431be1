"""The HTTP interface in this process: what is stored, what is refused with which field, and what a job looks like."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

import anyio
import httpx
import pytest
from asgi_lifespan import LifespanManager
from stand.server import DISTIL

from services.orchestrator.app import create_app
from services.orchestrator.settings import Settings
from understudy.errors import Unavailable

pytestmark = pytest.mark.anyio

TEACHER = DISTIL


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def api(bench: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The real application on the bench's database; what its sweeper sends lands on the bench."""
    settings = bench.context.settings.model_copy(update={"max_upload_bytes": 20_000, "max_body_bytes": 5_000})
    app = create_app(settings, lambda item_id, queue: bench.sent.append((item_id, queue)))
    async with LifespanManager(app) as manager:
        transport = httpx.ASGITransport(app=manager.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://orchestrator") as client:
            yield client


async def upload(api: httpx.AsyncClient, content: bytes, name: str = "train.jsonl", **form: str) -> httpx.Response:
    return await api.post("/v1/files", files={"file": (name, content)}, data={"purpose": "fine-tune", **form})


async def uploaded(api: httpx.AsyncClient, rows: Any, count: int = 80) -> str:
    return str((await upload(api, rows(count).encode())).json()["id"])


async def create(api: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await api.post("/v1/fine_tuning/jobs", json={"model": "scratch:bert-1x16", "method": TEACHER, **body})


def error(answer: httpx.Response, status: int, param: str | None) -> str:
    assert answer.status_code == status, answer.text
    body = answer.json()["error"]
    assert body["param"] == param, body
    assert set(body) == {"message", "type", "param", "code"}
    return str(body["message"])


# --- files ---------------------------------------------------------------------------------------------------------


async def test_an_uploaded_file_is_there_byte_for_byte(api: httpx.AsyncClient) -> None:
    content = '{"input": "ä", "output": "b"}\n'.encode()
    file = (await upload(api, content)).json()
    assert file["id"].startswith("file-")
    assert (file["object"], file["bytes"], file["filename"]) == ("file", len(content), "train.jsonl")
    assert (file["purpose"], file["status"]) == ("fine-tune", "processed")
    assert (await api.get(f"/v1/files/{file['id']}")).json() == file
    assert (await api.get(f"/v1/files/{file['id']}/content")).content == content


async def test_each_upload_is_a_file_of_its_own_and_deleting_one_leaves_the_other(api: httpx.AsyncClient) -> None:
    first, second = [(await upload(api, b"same\n")).json()["id"] for _ in range(2)]
    assert first != second
    assert (await api.delete(f"/v1/files/{first}")).json() == {"id": first, "object": "file", "deleted": True}
    error(await api.get(f"/v1/files/{first}"), 404, None)
    assert (await api.get(f"/v1/files/{second}/content")).content == b"same\n"


async def test_a_deleted_files_bytes_are_gone(api: httpx.AsyncClient, bench: Any) -> None:
    file_id = (await upload(api, b"secret\n")).json()["id"]
    artifact = bench.context.files.get(file_id).artifact
    await api.delete(f"/v1/files/{file_id}")
    assert not bench.context.artifacts.exists(artifact)


async def test_files_are_listed_newest_first_in_pages(api: httpx.AsyncClient) -> None:
    ids = [(await upload(api, f"{i}\n".encode())).json()["id"] for i in range(5)]
    first = (await api.get("/v1/files", params={"limit": 2})).json()
    assert ([one["id"] for one in first["data"]], first["has_more"]) == (ids[:2:-1], True)
    rest = (await api.get("/v1/files", params={"after": first["data"][-1]["id"]})).json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (ids[2::-1], False)
    oldest = (await api.get("/v1/files", params={"order": "asc", "limit": 1})).json()
    assert oldest["data"][0]["id"] == ids[0]
    assert (await api.get("/v1/files", params={"purpose": "fine-tune-results"})).json()["data"] == []


async def test_a_purpose_that_no_database_takes_is_refused(api: httpx.AsyncClient) -> None:
    assert "printable" in error(await api.get("/v1/files", params={"purpose": "fine\0tune"}), 400, "purpose")


async def test_a_disk_that_is_full_while_an_upload_is_received_is_503(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(number: int) -> Callable[..., int]:
        def write(*_: Any) -> int:
            raise OSError(number, os.strerror(number))

        return write

    monkeypatch.setattr(SpooledTemporaryFile, "write", fails(errno.ENOSPC))
    answer = await upload(api, b"row\n")
    assert "no space is left" in error(answer, 503, None)
    assert int(answer.headers["retry-after"]) > 0
    monkeypatch.setattr(SpooledTemporaryFile, "write", fails(errno.EIO))
    error(await upload(api, b"row\n"), 400, None)
    monkeypatch.undo()
    assert (await upload(api, b"row\n")).status_code == 200


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd.jsonl", "passwd.jsonl"),
        ("..\\..\\windows\\rows.csv", "rows.csv"),
        ("/", "upload.jsonl"),
        ("no-ending", "no-ending.jsonl"),
        ("größe.JSONL", "größe.jsonl"),
        ("x" * 500 + ".csv", "x" * 200 + ".csv"),
    ],
)
async def test_of_a_filename_only_a_harmless_base_name_is_kept(
    api: httpx.AsyncClient, bench: Any, given: str, kept: str
) -> None:
    file = (await upload(api, b"row\n", given)).json()
    assert file["filename"] == kept
    path = bench.context.path_of(bench.context.files.get(file["id"]))
    assert path.is_relative_to(Path(bench.context.settings.artifact_root))
    assert path.stem == "data"
    assert (await api.get(f"/v1/files/{file['id']}/content")).status_code == 200


async def test_control_characters_in_a_filename_are_dropped(api: httpx.AsyncClient) -> None:
    fields = (
        b'name="purpose"\r\n\r\nfine-tune\r\n',
        b'name="file"; filename="a\x01\x7f\tb.jsonl"\r\n\r\nrow\r\n',
    )
    body = b"".join(b"--b\r\nContent-Disposition: form-data; " + field for field in fields) + b"--b--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=b"}
    assert (await api.post("/v1/files", content=body, headers=headers)).json()["filename"] == "ab.jsonl"


async def test_other_purposes_are_refused_with_the_choices(api: httpx.AsyncClient) -> None:
    for purpose in ("batch", "assistants", "fine-tune-results"):
        assert "fine-tune" in error(await upload(api, b"x", purpose=purpose), 400, "purpose")


async def test_what_is_no_data_file_is_refused_with_the_choices(api: httpx.AsyncClient) -> None:
    assert ".parquet" in error(await upload(api, b"x", "model.pkl"), 400, "file")
    assert "empty" in error(await upload(api, b""), 400, "file")
    error(await api.post("/v1/files", data={"purpose": "fine-tune"}, files={"other": b"x"}), 400, "other")
    error(await api.post("/v1/files", files={"file": b"x"}), 400, "purpose")
    error(await upload(api, b"x", expires_after="1"), 400, "expires_after")


async def test_an_upload_that_is_no_form_is_415(api: httpx.AsyncClient) -> None:
    assert "multipart/form-data" in error(await api.post("/v1/files", json={"file": "x"}), 415, None)


async def test_an_upload_that_is_too_large_is_413_with_and_without_a_declared_length(api: httpx.AsyncClient) -> None:
    error(await upload(api, b"x" * 20_001), 413, "file")
    assert (await upload(api, b"x" * 20_000)).status_code == 200
    error(await upload(api, b"x" * 500_000), 413, None)

    async def chunks() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
        for _ in range(100):
            yield b"x" * 5000
        yield b"\r\n--b--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=b"}
    error(await api.post("/v1/files", content=chunks(), headers=headers), 413, None)


async def test_a_large_json_body_is_413_although_uploads_may_be_larger(api: httpx.AsyncClient) -> None:
    error(await create(api, training_file="x" * 6000), 413, None)


async def test_a_file_that_a_job_reads_cannot_be_deleted(api: httpx.AsyncClient, rows: Any) -> None:
    file_id = await uploaded(api, rows)
    job = (await create(api, training_file=file_id)).json()
    assert job["id"] in error(await api.delete(f"/v1/files/{file_id}"), 409, None)
    await api.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel")
    assert (await api.delete(f"/v1/files/{file_id}")).status_code == 200


@pytest.mark.parametrize("file_id", ["file-unknown", "..%2f..%2fetc", "file-%00", "%ff", "a" * 3000])
async def test_an_unknown_file_is_404_whatever_its_id_looks_like(api: httpx.AsyncClient, file_id: str) -> None:
    for answer in (await api.get(f"/v1/files/{file_id}"), await api.get(f"/v1/files/{file_id}/content")):
        assert answer.status_code == 404


# --- jobs ----------------------------------------------------------------------------------------------------------


async def test_a_job_is_stored_and_answered_at_once_and_a_message_is_sent(
    api: httpx.AsyncClient, bench: Any, rows: Any
) -> None:
    file_id = await uploaded(api, rows)
    job = (await create(api, training_file=file_id, suffix="v2", metadata={"team": "a"})).json()
    assert job["id"].startswith("ftjob-")
    assert (job["object"], job["status"], job["phase"]) == ("fine_tuning.job", "validating_files", "validate")
    assert (job["training_file"], job["model"], job["seed"]) == (file_id, "scratch:bert-1x16", 0)
    assert (job["suffix"], job["alias"], job["metadata"]) == ("v2", "production-v2", {"team": "a"})
    assert [phase["phase"] for phase in job["phases"]] == [
        "validate",
        "preflight",
        "annotate",
        "train",
        "evaluate",
        "publish",
    ]
    assert [phase["state"] for phase in job["phases"]] == ["running"] + ["pending"] * 5
    assert (await api.get(f"/v1/fine_tuning/jobs/{job['id']}")).json()["id"] == job["id"]
    for _ in range(100):
        if bench.sent:
            break
        await anyio.sleep(0.02)
    assert bench.sent == [(bench.item_ids(bench.context.jobs.get(job["id"]), "validate")[0], "control")]


async def test_a_teacher_to_be_trained_adds_its_phase(api: httpx.AsyncClient, rows: Any) -> None:
    method = {"type": "distillation", "distillation": {"teacher": {"model": "scratch:bert-2x32", "finetune": True}}}
    job = (await create(api, training_file=await uploaded(api, rows), method=method)).json()
    assert "teacher" in [phase["phase"] for phase in job["phases"]]


def change(path: str, value: Any) -> dict[str, Any]:
    """A valid job body with one field changed; the path is the one that the error must name."""
    body: dict[str, Any] = {"model": "scratch:bert-1x16", "method": json.loads(json.dumps(TEACHER))}
    *parents, last = path.split(".")
    place = body
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return body


D = "method.distillation"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("model", "", "at least 1"),
        ("model", "scratch:bort-1x16", "choose from bert, gpt2, t5"),
        ("model", 3, "string"),
        ("model", "a\0b", "printable"),
        ("model", "cut:2x", "cut:6x2"),
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 2**31, "less than or equal"),
        ("suffix", "x" * 65, "at most 64"),
        ("suffix", "no spaces", "letters, digits"),
        ("metadata", {str(i): "x" for i in range(17)}, "at most 16"),
        ("metadata.note", "a\0b", "NUL"),
        ("integrations", [{"type": "wandb"}], "integration"),
        ("trainingfile", "x", "no such field"),
        ("method.type", "dpo", "'distillation'"),
        (f"{D}.teacher.model", "", "at least 1"),
        (f"{D}.teacher.model", "scratch:bert-2x128", "finetune to true"),
        (f"{D}.teacher.model", "scratch:nothing", "scratch:bert-2x128"),
        (f"{D}.teacher.model", "cut:2@some-model", "whole one"),
        (f"{D}.recipe", "salency", "Did you mean 'saliency'"),
        (f"{D}.attribution.method", "lime", "choose from"),
        (f"{D}.attribution.top_k", 0, "greater than or equal to 1"),
        (f"{D}.attribution.target", "both", "'gold' or 'predicted'"),
        (f"{D}.seeds", [], "at least 1"),
        (f"{D}.seeds", [1, 1], "twice"),
        (f"{D}.sizes", [20, 20], "twice"),
        (f"{D}.template", "no place for it", "{input}"),
        (f"{D}.template", "{input}\0", "NUL"),
        (f"{D}.attribution.settings.a", "\0", "NUL"),
        (f"{D}.test_file", "file-\0", "NUL"),
        (f"{D}.alias", "a/b", "match"),
        (f"{D}.max_train_rows", 1, "greater than or equal to 2"),
        (f"{D}.rationale_weight", 0, "greater than 0"),
        (f"{D}.hyperparameters.max_steps", 0, "greater than or equal to 1"),
        (f"{D}.nonsense", 1, "no such field"),
    ],
)
async def test_every_bad_field_is_named_with_what_would_be_right(
    api: httpx.AsyncClient, rows: Any, path: str, value: Any, words: str
) -> None:
    body = change(path, value) | {"training_file": await uploaded(api, rows)}
    message = error(await api.post("/v1/fine_tuning/jobs", json=body), 400, path)
    assert words in message
    assert (await api.get("/v1/fine_tuning/jobs")).json()["data"] == []


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"type": "supervised"}, "cut:3@<model>"),
        (
            {"type": "distillation", "distillation": {"teacher": {"model": "scratch:bert-2x16", "finetune": True}}},
            "are 2",
        ),
    ],
)
async def test_a_cut_that_cannot_be_made_is_refused_before_there_is_a_job(
    api: httpx.AsyncClient, rows: Any, method: dict[str, Any], words: str
) -> None:
    body = {"model": "cut:3", "method": method, "training_file": await uploaded(api, rows)}
    assert words in error(await api.post("/v1/fine_tuning/jobs", json=body), 400, "model")


async def test_half_a_character_is_refused_by_its_field(api: httpx.AsyncClient, rows: Any) -> None:
    body = json.dumps(change("suffix", "\ud800") | {"training_file": await uploaded(api, rows)})
    answer = await api.post("/v1/fine_tuning/jobs", content=body, headers={"content-type": "application/json"})
    assert "unicode" in error(answer, 400, "suffix")


@pytest.mark.parametrize(
    "path",
    [
        "hyperparameters.n_epochs",
        f"{D}.hyperparameters.n_epochs",
        f"{D}.hyperparameters.learning_rate_multiplier",
        f"{D}.teacher.hyperparameters.learning_rate_multiplier",
        f"{D}.attribution.settings.n_steps",
        f"{D}.lora.alpha",
    ],
)
@pytest.mark.parametrize("number", ["1e999", "-Infinity", "NaN"])
async def test_a_number_that_is_none_is_refused_by_its_field(
    api: httpx.AsyncClient, rows: Any, path: str, number: str
) -> None:
    body = json.dumps(change(path, "?") | {"training_file": await uploaded(api, rows)}).replace('"?"', number)
    answer = await api.post("/v1/fine_tuning/jobs", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert path.startswith(answer.json()["error"]["param"])  # a sign is refused with the group that it stands in
    if number == "1e999":
        assert "finite" in error(answer, 400, path)
    assert (await api.get("/v1/fine_tuning/jobs")).json()["data"] == []


async def test_a_name_with_nul_is_refused_by_the_field_that_it_is_in(api: httpx.AsyncClient, rows: Any) -> None:
    answer = await create(api, training_file=await uploaded(api, rows), metadata={"a\0b": "x"})
    assert "a name has no NUL" in error(answer, 400, "metadata")


async def test_seed_zero_is_a_seed_and_two_places_must_agree(api: httpx.AsyncClient, rows: Any) -> None:
    file_id = await uploaded(api, rows)
    assert (await create(api, training_file=file_id, seed=0)).json()["method"]["distillation"]["seeds"] == [0]
    assert (await create(api, training_file=file_id, seed=5)).json()["method"]["distillation"]["seeds"] == [5]
    two = change(f"{D}.seeds", [3, 4]) | {"training_file": file_id}
    assert (await api.post("/v1/fine_tuning/jobs", json=two | {"seed": 3})).json()["seed"] == 3
    error(await api.post("/v1/fine_tuning/jobs", json=two | {"seed": 0}), 400, "seed")


async def test_hyperparameters_are_read_where_openai_once_had_them(api: httpx.AsyncClient, rows: Any) -> None:
    file_id = await uploaded(api, rows)
    job = (await create(api, training_file=file_id, hyperparameters={"n_epochs": 2})).json()
    assert job["hyperparameters"]["n_epochs"] == job["method"]["distillation"]["hyperparameters"]["n_epochs"] == 2
    both = change(f"{D}.hyperparameters", {"n_epochs": 3}) | {"training_file": file_id}
    answer = await api.post("/v1/fine_tuning/jobs", json=both | {"hyperparameters": {"n_epochs": 2}})
    error(answer, 400, "hyperparameters")


@pytest.mark.parametrize("param", ["training_file", "validation_file", f"{D}.test_file", f"{D}.unlabelled_file"])
async def test_an_unknown_file_is_404_and_named(api: httpx.AsyncClient, rows: Any, param: str) -> None:
    body = change(param, "file-unknown")
    body.setdefault("training_file", await uploaded(api, rows))
    assert "file-unknown" in error(await api.post("/v1/fine_tuning/jobs", json=body), 404, param)


async def test_one_content_for_training_and_validation_is_refused(api: httpx.AsyncClient, rows: Any) -> None:
    first, second = await uploaded(api, rows), await uploaded(api, rows)
    error(await create(api, training_file=first, validation_file=second), 400, "validation_file")


async def test_a_missing_training_file_and_a_wrong_content_type_are_named(api: httpx.AsyncClient) -> None:
    error(await create(api), 400, "training_file")
    answer = await api.post("/v1/fine_tuning/jobs", content="model=x", headers={"content-type": "text/plain"})
    error(answer, 415, None)


async def test_an_unknown_job_is_404_on_every_route(api: httpx.AsyncClient) -> None:
    base = "/v1/fine_tuning/jobs/ftjob-unknown"
    for path in ("", "/events", "/checkpoints", "/report", "/report.html", "/rejected_rows"):
        error(await api.get(base + path), 404, "fine_tuning_job_id")
    for path in ("/cancel", "/pause", "/resume"):
        error(await api.post(base + path), 404, "fine_tuning_job_id")
        error(await api.post("/v1/fine_tuning/jobs/%00" + path), 404, "fine_tuning_job_id")


async def test_a_job_is_cancelled_once(api: httpx.AsyncClient, rows: Any) -> None:
    job = (await create(api, training_file=await uploaded(api, rows))).json()
    cancelled = (await api.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel")).json()
    assert cancelled["status"] == "cancelled"
    assert cancelled["finished_at"] >= cancelled["created_at"]
    assert cancelled["phases"][0]["state"] == "cancelled"
    assert "it has ended" in error(await api.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel"), 409, None)


async def test_a_job_is_paused_and_resumed(api: httpx.AsyncClient, bench: Any, rows: Any) -> None:
    job = (await create(api, training_file=await uploaded(api, rows))).json()
    path = f"/v1/fine_tuning/jobs/{job['id']}"
    assert (await api.post(f"{path}/pause")).json()["status"] == "paused"
    error(await api.post(f"{path}/pause"), 409, None)
    assert (await api.post(f"{path}/resume")).json()["status"] == "queued"
    done = bench.work(bench.context.jobs.get(job["id"]), until="train")
    assert (done.phase, done.status) == ("train", "running")


async def test_jobs_are_listed_newest_first_in_pages(api: httpx.AsyncClient, bench: Any) -> None:
    ids = [bench.submit(training_file="file-x").id for _ in range(5)]
    first = (await api.get("/v1/fine_tuning/jobs", params={"limit": 3})).json()
    assert (first["object"], [one["id"] for one in first["data"]], first["has_more"]) == ("list", ids[:1:-1], True)
    rest = (await api.get("/v1/fine_tuning/jobs", params={"limit": 3, "after": ids[2]})).json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (ids[1::-1], False)
    error(await api.get("/v1/fine_tuning/jobs", params={"after": "ftjob-unknown"}), 400, "after")
    error(await api.get("/v1/fine_tuning/jobs", params={"limit": 0}), 400, "limit")
    error(await api.get("/v1/fine_tuning/jobs", params={"limit": 101}), 400, "limit")


async def test_jobs_are_found_by_their_metadata(api: httpx.AsyncClient, bench: Any) -> None:
    red = bench.submit(training_file="file-x", metadata={"team": "red", 'odd"key': "1"}).id
    both = bench.submit(training_file="file-x", metadata={"team": "red", "run": "2"}).id
    bare = bench.submit(training_file="file-x").id

    async def found(**params: str) -> list[str]:
        answer = await api.get("/v1/fine_tuning/jobs", params=params)
        return [one["id"] for one in answer.json()["data"]]

    assert await found(**{"metadata[team]": "red"}) == [both, red]
    assert await found(**{"metadata[team]": "red", "metadata[run]": "2"}) == [both]
    assert await found(**{'metadata[odd"key]': "1"}) == [red]
    assert await found(**{"metadata[team]": "blue"}) == []
    assert await found(metadata="null") == [bare]
    assert await found(**{"metadata[team]": "red", "limit": "1"}) == [both]
    error(await api.get("/v1/fine_tuning/jobs", params={"metadata": "red"}), 400, "metadata")


async def test_events_tell_the_story_newest_first_in_pages(api: httpx.AsyncClient, bench: Any) -> None:
    job = bench.work(bench.submit(), until="annotate")
    path = f"/v1/fine_tuning/jobs/{job.id}/events"
    page = (await api.get(path, params={"limit": 2})).json()
    assert page["has_more"]
    event = page["data"][0]
    assert event["message"] == "Phase preflight is done, annotate begins"
    assert event["id"].startswith("ftevent-")
    assert (event["object"], event["level"], event["type"]) == ("fine_tuning.job.event", "info", "message")
    rest = (await api.get(path, params={"after": page["data"][-1]["id"]})).json()
    assert rest["data"][-1]["message"] == "Job created"
    assert not rest["has_more"]


async def test_progress_counts_examples_while_a_phase_runs(api: httpx.AsyncClient, bench: Any) -> None:
    job = bench.work(bench.submit(), until="annotate")
    ids = bench.item_ids(job)
    bench.context.leases.complete(bench.context.leases.claim(ids[0], "a"), {}, 16)
    item = bench.context.leases.claim(ids[1], "a")
    bench.context.leases.heartbeat(item, 4, 16)
    body = (await api.get(f"/v1/fine_tuning/jobs/{job.id}")).json()
    rows = job.facts.rows.train
    progress = body["progress"]
    assert (progress["phase"], progress["completed"], progress["total"], progress["unit"]) == (
        "annotate",
        20,
        rows,
        "examples",
    )
    assert progress["percent"] == pytest.approx(100 * 20 / rows, abs=0.1)
    assert progress["eta_seconds"] is not None
    assert body["phases"][0]["state"] == "done"


async def test_rejected_rows_are_in_the_job_and_all_of_them_at_their_own_address(
    api: httpx.AsyncClient, bench: Any, rows: Any
) -> None:
    content = rows(60) + "not json\n" * 130
    job = bench.work(bench.submit(training_file=bench.upload(content)), until="preflight")
    body = (await api.get(f"/v1/fine_tuning/jobs/{job.id}")).json()
    assert body["rejected_rows"]["count"] == 130
    assert len(body["rejected_rows"]["data"]) == 100
    path = f"/v1/fine_tuning/jobs/{job.id}/rejected_rows"
    everything = (await api.get(path)).json()
    assert [row["line"] for row in everything["data"]] == list(range(61, 191))
    part = (await api.get(path, params={"after": 125, "limit": 3})).json()
    assert ([row["line"] for row in part["data"]], part["has_more"]) == ([186, 187, 188], True)
    assert (await api.get(path, params={"after": 2**53 - 1})).json()["data"] == []
    error(await api.get(path, params={"after": "9" * 25}), 400, "after")


async def test_what_is_not_there_yet_is_404_and_says_where_the_job_is(api: httpx.AsyncClient, bench: Any) -> None:
    job = bench.submit()
    path = f"/v1/fine_tuning/jobs/{job.id}"
    assert "in phase validate" in error(await api.get(f"{path}/report"), 404, None)
    error(await api.get(f"{path}/rejected_rows"), 404, None)
    nothing = {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}
    assert (await api.get(f"{path}/checkpoints")).json() == nothing


async def test_an_unknown_model_is_404_and_lists_the_aliases(api: httpx.AsyncClient, bench: Any) -> None:
    assert (await api.get("/v1/models")).json() == {"object": "list", "data": [], "has_more": False}
    assert "aliases" in error(await api.get("/v1/models/production"), 404, "model")
    artifact = bench.context.files.get(bench.upload("x")).artifact
    error(await api.get(f"/v1/models/{artifact}"), 404, "model")


async def test_a_model_that_nothing_needs_is_deleted_and_no_other(
    api: httpx.AsyncClient, bench: Any, tmp_path: Path
) -> None:
    def published(name: str) -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
        return str(bench.context.artifacts.publish("model", tmp_path / name).id)

    free, aliased, student, teacher, arm = map(published, ("free", "aliased", "student", "teacher", "arm"))
    bench.context.artifacts.set_alias("production", aliased)
    jobs = [
        bench.submit(training_file="file-x", model=student),
        bench.submit(training_file="file-x", spec={"teacher": {"model": teacher}}),
        bench.submit_items(2, phase="train", queue="train"),  # one is left to do, so that nobody ends the phase
    ]
    item = bench.context.leases.claim(bench.item_ids(jobs[2], "train")[0], "a")
    bench.context.leases.complete(item, {"artifact": arm}, 1)
    assert (await api.delete(f"/v1/models/{free}")).json() == {"id": free, "object": "model", "deleted": True}
    error(await api.get(f"/v1/models/{free}"), 404, "model")
    error(await api.delete(f"/v1/models/{free}"), 404, "model")
    assert "production" in error(await api.delete(f"/v1/models/{aliased}"), 409, "model")
    assert "alias" in error(await api.delete("/v1/models/production"), 409, "model")
    for job, needed in zip(jobs, (student, teacher, arm), strict=True):
        assert job.id in error(await api.delete(f"/v1/models/{needed}"), 409, "model")
        await api.post(f"/v1/fine_tuning/jobs/{job.id}/cancel")
        assert (await api.delete(f"/v1/models/{needed}")).status_code == 200


async def test_a_model_that_a_job_cuts_its_student_from_is_needed(
    api: httpx.AsyncClient, bench: Any, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("base")
    base = bench.context.artifacts.publish("model", tmp_path).id
    job = bench.submit(training_file="file-x", model=f"cut:2@{base}", metadata={"note": base})
    other = bench.submit(training_file="file-y", metadata={"note": base})
    assert job.id in error(await api.delete(f"/v1/models/{base}"), 409, "model")
    await api.post(f"/v1/fine_tuning/jobs/{job.id}/cancel")
    assert other.active, "a note needs nothing"
    assert (await api.delete(f"/v1/models/{base}")).status_code == 200


# --- health --------------------------------------------------------------------------------------------------------


async def test_it_is_ready_when_jobs_can_be_stored(api: httpx.AsyncClient) -> None:
    assert (await api.get("/livez")).status_code == 200
    assert (await api.get("/readyz")).json() == {"status": "ok", "database": "ok", "sweeper": "ok"}


async def test_a_job_is_accepted_while_the_broker_is_away(settings: Settings, rows: Any) -> None:
    def away(_: str, __: Any) -> None:
        raise Unavailable("the broker does not answer")

    async with LifespanManager(create_app(settings, away)) as manager:
        transport = httpx.ASGITransport(app=manager.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://orchestrator") as api:
            job = await create(api, training_file=await uploaded(api, rows))
            assert job.status_code == 200
            assert (await api.get("/readyz")).status_code == 200
