"""Everything on hosts of its own: a cut cable costs no row, and a rolling restart no request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from stand.bench import rows as make_rows
from stand.cluster import Cluster, Replicas
from stand.network import unable
from stand.postgres import find_binaries
from stand.processes import wait

from understudy.client import OrchestratorClient
from understudy.data.parquet import read_annotated, read_examples
from understudy.jobs import submit, watch

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("hosts")]

Ask = Callable[[httpx.Client, str], httpx.Response]
ROWS = 600
LEASE = 4.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if why := unable() or (None if find_binaries() else "no PostgreSQL"):
        pytest.skip(f"2 tests of hosts on a network: {why}")
    settings = {"shard_size": 8, "teacher_max_examples": 4, "lease_seconds": LEASE, "heartbeat_seconds": 0.5}
    settings |= {"resend_seconds": 5, "retry_after": 0.2, "sweep_seconds": 0.3}
    with Cluster(tmp_path_factory.mktemp("cluster"), **settings) as running:
        yield running


def job(client: OrchestratorClient, folder: Path, rows: int, tag: str, steps: int) -> str:
    """A job whose teacher is fine-tuned first; `steps` of integrated gradients are how slow its explanations are."""
    file = folder / "rows.jsonl"
    file.write_text(make_rows(rows, tag), encoding="utf-8")
    few = {"max_steps": 30}
    distillation: dict[str, Any] = {
        "teacher": {"model": "scratch:bert-2x32", "finetune": True, "hyperparameters": few},
        "recipe": "finetune",
        "seeds": [0],
        "hyperparameters": few,
        "attribution": {"method": "integrated_gradients", "settings": {"n_steps": steps}},
    }
    body = {"model": "scratch:bert-1x16", "method": {"type": "distillation", "distillation": distillation}}
    return submit(client, {"training_file": file}, body)


def annotated(client: OrchestratorClient, job_id: str) -> float:
    """The share of the rows that are annotated; 1 when another phase has begun."""
    now = client.job(job_id)
    assert now["status"] not in ("failed", "cancelled"), now["error"]
    phase = next(one for one in now["phases"] if one["phase"] == "annotate")
    return phase["completed"] / phase["total"] if phase["total"] else 0.0


def test_a_teacher_and_a_worker_that_are_cut_off_cost_no_row_and_double_none(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.client() as client:
        job_id = job(client, tmp_path, ROWS, " of a network", steps=60)
        wait(lambda: annotated(client, job_id) > 0.1, 120)
        for name in ("teacher-1", "worker-1"):
            cluster.hosts[name].cut()
        assert annotated(client, job_id) < 0.9, "it was over before anything was cut"
        wait(lambda: annotated(client, job_id) == 1, 240)  # what the two held is done by others
        for name in ("teacher-1", "worker-1"):
            cluster.hosts[name].heal()
        watch(client, job_id, lambda _: None, seconds=0.5)
        done = client.job(job_id)
    assert done["status"] == "succeeded"
    with cluster.context() as context:
        found = context.jobs.get(job_id)
        shards = [one["shard"] for one in context.flow.results(job_id, "annotate")]
        folders = [context.artifacts.folder(shard) for shard in shards]  # which verifies every checksum
        assert found.facts.dataset is not None
        train = read_examples(context.artifacts.folder(found.facts.dataset) / "train.parquet")
        lost = [item for item in context.flow.items(job_id, "annotate") if item.attempts > 1]
    rows = read_annotated(*(folder / "shard.parquet" for folder in folders))
    assert [row.example.id for row in rows] == [row.id for row in train]
    assert lost, "nobody was at work where the cable was cut"
    assert all(process.poll() is None for process in cluster.processes.values())  # nobody had to be started again


def test_a_rolling_restart_of_every_service_fails_no_request(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.client() as client:
        job_id = job(client, tmp_path, 120, " of a rollout", steps=2)
        watch(client, job_id, lambda _: None, seconds=0.5)
        teacher = client.job(job_id)["teacher"]
    for name in ("student-1", "student-2"):
        cluster.await_ready(name)
    text = "The film number 3 was positive I think"
    asked: dict[str, Ask] = {
        "student": lambda http, url: http.post(f"{url}/v1/predictions", json={"inputs": [text]}),
        "orchestrator": lambda http, url: http.get(f"{url}/v1/fine_tuning/jobs/{job_id}"),
        "teacher": lambda http, url: http.post(
            f"{url}/v1/attributions", json={"model": teacher, "examples": [{"input": text}]}
        ),
    }
    for kind, ask in asked.items():
        replicas = Replicas(cluster, kind)
        with replicas.under_load(4, ask):
            replicas.replace_all()
        assert replicas.answers > 50
        assert replicas.failures == [], kind
