"""What images, docker-compose.yml and k8s/ say of the services is true of the services. Builds and starts nothing.

`make check-deploy` holds the same files to the schemas of those who read them.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from services.orchestrator.jobs import QUEUES
from services.orchestrator.metrics import WorkMetrics
from services.orchestrator.settings import Settings as OrchestratorSettings
from services.orchestrator.worker import _options
from services.orchestrator.worker_metrics import WorkerMetrics
from services.student.metrics import StudentMetrics
from services.student.settings import Settings as StudentSettings
from services.teacher.metrics import TeacherMetrics
from services.teacher.settings import Settings as TeacherSettings
from understudy.browsers import is_loopback
from understudy.metrics import Metrics

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OURS = {name: one for name, one in COMPOSE["services"].items() if one["image"].startswith("understudy-")}
DOCUMENT = (ROOT / "docs" / "deployment.md").read_text()
STEPS = (ROOT / "docs" / "howto" / "kubernetes.md").read_text()
SETTINGS = {
    "UNDERSTUDY_TEACHER_": TeacherSettings,
    "UNDERSTUDY_STUDENT_": StudentSettings,
    "UNDERSTUDY_": OrchestratorSettings,
}
PORTS = {
    name: SETTINGS[prefix]().port
    for name, prefix in {
        "orchestrator": "UNDERSTUDY_",
        "teacher": "UNDERSTUDY_TEACHER_",
        "student": "UNDERSTUDY_STUDENT_",
    }.items()
}
WORKERS = ("annotator", "trainer")
ELSEWHERE = {"UNDERSTUDY_LOG"}  # read by understudy.logs


def cluster() -> list[dict[str, Any]]:
    """Every resource as it is written, before overlays."""
    files = [*(ROOT / "k8s" / "base").glob("*.yaml"), *(ROOT / "k8s" / "components" / "keda").glob("*.yaml")]
    found = [one for path in sorted(files) for one in yaml.safe_load_all(path.read_text())]
    return [one for one in found if isinstance(one, dict) and "kind" in one]


def pods() -> dict[str, dict[str, Any]]:
    """The pods' specs by kind and name."""
    found = {}
    for one in cluster():
        spec = one.get("spec", {})
        template = spec.get("template") or spec.get("jobTargetRef", {}).get("template")
        if template:
            found[f"{one['kind']}/{one['metadata']['name']}"] = template["spec"]
    return found


def images(*overlays: str) -> set[str]:
    """What the pods' images are called after these overlays, the lowest first: each finds what the one before left."""
    names = {container["image"]: container["image"] for pod in pods().values() for container in pod["containers"]}
    tags: dict[str, str] = {}
    for overlay in overlays:
        written = yaml.safe_load((ROOT / "k8s" / "overlays" / overlay / "kustomization.yaml").read_text())
        said = {one["name"]: one for one in written["images"]}
        assert set(said) == set(names.values()), overlay
        tags |= {name: str(said[now]["newTag"]) for name, now in names.items() if "newTag" in said[now]}
        names = {name: said[now].get("newName", now) for name, now in names.items()}
    return {f"{now}:{tags[name]}" for name, now in names.items()}


def test_the_images_of_the_overlays_are_those_that_the_steps_build_and_push() -> None:
    built = set(re.findall(r"-t (\S+) \.$", STEPS, re.MULTILINE))
    assert built == images("cpu", "example") | images("gpu", "example")
    pushed = re.findall(r"^for name in (.+); do docker push (\S+); done$", STEPS, re.MULTILINE)
    assert built == {place.replace("$name", name) for names, place in pushed for name in names.split()}


def test_the_steps_show_the_overlay_that_they_apply() -> None:
    assert f"```yaml\n{(ROOT / 'k8s/overlays/example/kustomization.yaml').read_text()}```" in STEPS
    assert "kubectl apply -k k8s/overlays/example\n" in STEPS


def test_the_images_are_built_alike() -> None:
    """Each service has a Dockerfile of its own; where they install and what they begin with may not drift apart."""
    texts = [(ROOT / "services" / name / "Dockerfile").read_text() for name in PORTS]
    end = re.escape("RUN pip install --no-deps --prefix /opt/code .")
    begun = [re.search(rf"^ARG PYTHON=.*?^{end}$", text, re.DOTALL | re.MULTILINE) for text in texts]
    assert len({found[0] for found in begun if found}) == 1
    torch = [re.search(r"^ARG ACCELERATOR=.*?(?=^ARG EXTRAS)", text, re.DOTALL | re.MULTILINE) for text in texts]
    assert len({found[0] for found in torch if found}) == 1
    assert all(begun)
    assert all(torch)


def kustomizations() -> list[dict[str, Any]]:
    return [yaml.safe_load(path.read_text()) for path in ROOT.glob("k8s/**/kustomization.yaml")]


def variables() -> Iterator[str]:
    """The names of all environment variables that are set for our processes anywhere."""
    for service in OURS.values():
        yield from service.get("environment", {})
    for pod in pods().values():
        yield from (one["name"] for container in pod["containers"] for one in container.get("env", []))
    for one in kustomizations():
        for generator in one.get("configMapGenerator", []):
            yield from (literal.partition("=")[0] for literal in generator["literals"])
    for path in ROOT.glob("services/*/Dockerfile"):
        yield from re.findall(r"\b(UNDERSTUDY_\w+)=", path.read_text())
    for path in ROOT.glob("docs/runbooks/*.md"):
        yield from re.findall(r"\bUNDERSTUDY_\w+", path.read_text())


def test_every_variable_is_a_setting_of_a_service() -> None:
    named = {name for name in variables() if name.startswith("UNDERSTUDY_")} - ELSEWHERE
    assert len(named) > 10
    for name in named:
        prefix = next(prefix for prefix in SETTINGS if name.startswith(prefix))
        fields = SETTINGS[prefix].model_fields
        known = name.removeprefix(prefix).lower() in fields
        assert known or name.removeprefix("UNDERSTUDY_").lower() in OrchestratorSettings.model_fields, name


def measured() -> set[str]:
    """The names under which Prometheus knows what our services and their processes count."""
    metrics, teacher = Metrics(), CollectorRegistry(auto_describe=True)
    StudentMetrics(metrics.registry).follow(
        SimpleNamespace(items=0, tokens=0),  # type: ignore[arg-type]
        SimpleNamespace(loaded=list),  # type: ignore[arg-type]
        SimpleNamespace(now=None),  # type: ignore[arg-type]
    )
    TeacherMetrics(teacher)
    WorkerMetrics(metrics.registry)
    found = {"up"}
    for registry in (metrics.registry, teacher):
        for family in registry.collect():
            ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
            found |= {family.name + end for end in ends}
    return found


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    from services.orchestrator.database import Database
    from services.orchestrator.migrate import migrate

    database = Database(f"sqlite:///{tmp_path_factory.mktemp('deploy') / 'jobs.db'}")
    migrate(database)
    work = {family.name for family in WorkMetrics(database).collect()}
    database.close()
    return measured() | work


def queries() -> dict[str, str]:
    folder = ROOT / "docker" / "observability"
    dashboard = json.loads((folder / "grafana" / "dashboards" / "understudy.json").read_text())
    alerts = yaml.safe_load((folder / "alerts.yml").read_text())
    found = {
        f"{panel['title']} {one['refId']}": one["expr"] for panel in dashboard["panels"] for one in panel["targets"]
    }
    found |= {rule["alert"]: rule["expr"] for group in alerts["groups"] for rule in group["rules"]}
    scaled = [one for one in cluster() if one["apiVersion"].startswith("keda.sh")]
    return found | {
        f"{one['kind']} {index}": trigger["metadata"]["valueLocation"]
        for one in scaled
        for index, trigger in enumerate(one["spec"]["triggers"])
    }


def test_every_metric_in_dashboard_alerts_and_scaling_exists(names: set[str]) -> None:
    asked = queries()
    assert len(asked) > 20
    for place, query in asked.items():
        found = set(re.findall(r"\b(?:understudy|process)_\w+\b|\bup\b", query))
        assert found, place
        assert found <= names, (place, found - names)


def test_a_service_that_has_no_address_any_more_is_down_too() -> None:
    """Prometheus forgets a container that has stopped, and with it the `up` that could be 0."""
    prometheus = yaml.safe_load((ROOT / "docker" / "observability" / "prometheus.yml").read_text())
    scraped = {one["job_name"] for one in prometheus["scrape_configs"]} - set(WORKERS)
    asked = queries()["UnderstudyServiceDown"]
    (answering,) = re.findall(r'up\{job=~"([\w|]+)"\} == 0', asked)
    assert set(answering.split("|")) == set(re.findall(r'absent\(up\{job="(\w+)"\}\)', asked)) == scraped == set(PORTS)


def test_workers_are_scaled_by_queues_that_exist() -> None:
    located = [query for place, query in queries().items() if place.startswith("Scaled")]
    assert {re.search(r'queue="(\w+)"', one).group(1) for one in located} == set(QUEUES)  # type: ignore[union-attr]


def test_every_alert_has_a_page_that_says_what_to_do(names: set[str]) -> None:
    alerts = yaml.safe_load((ROOT / "docker" / "observability" / "alerts.yml").read_text())
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    pages = {path.name for path in (ROOT / "docs" / "runbooks").iterdir()}
    assert pages == {f"{rule['alert']}.md" for rule in rules}
    for rule in rules:
        text = (ROOT / rule["annotations"]["runbook"]).read_text()
        assert text.startswith(f"# {rule['alert']}\n")
        assert [part for part in ("**Means.**", "**Look.**", "**Do", "**Over**") if part not in text] == []
        assert set(re.findall(r"\bunderstudy_[a-z_]+", text)) <= names
        assert f"[`{rule['alert']}`](runbooks/{rule['alert']}.md)" in DOCUMENT


def commands() -> Iterator[list[str]]:
    for service in OURS.values():
        if "command" in service:
            yield service["command"]
    for pod in pods().values():
        for container in pod["containers"]:
            yield [*container["command"], *container.get("args", [])]
    for path in ROOT.glob("services/*/Dockerfile"):
        yield from (
            json.loads(line.removeprefix("CMD ")) for line in path.read_text().splitlines() if line.startswith("CMD [")
        )


def test_commands_are_modules_with_options_that_they_have() -> None:
    queues = []
    for command in commands():
        assert command[:2] == ["python", "-m"]
        place = ROOT / command[2].replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), command
        if command[2] == "services.orchestrator.worker":
            options = _options(command[3:])  # ends the process where it does not understand
            assert str(options.signs) == "/tmp/worker"
            queues.append(tuple(options.queues))
    assert set(queues) >= {("control", "annotate"), ("train",)}


def test_prometheus_reaches_every_worker_at_its_port_and_nobody_else_does() -> None:
    """In a cluster by the ports that the pods and a network policy name, in the compose file by its configuration."""
    ports = set()
    for name, pod in pods().items():
        (container,) = pod["containers"]
        if container["command"][2] != "services.orchestrator.worker":
            continue
        host, port = _options([*container["command"][3:], *container["args"]]).metrics
        assert not is_loopback(host), name
        assert container["ports"] == [{"name": "metrics", "containerPort": port}], name
        ports.add(port)
    workers = {"matchExpressions": [{"key": "app.kubernetes.io/name", "operator": "In", "values": list(WORKERS)}]}
    (policy,) = (
        one["spec"] for one in cluster() if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "workers"
    )
    scraper = {"namespaceSelector": {"matchLabels": {"understudy.dev/metrics": "true"}}}
    assert policy["podSelector"] == workers
    assert policy["ingress"] == [{"from": [scraper], "ports": [{"protocol": "TCP", "port": port} for port in ports]}]
    scraped = yaml.safe_load((ROOT / "docker" / "observability" / "prometheus.yml").read_text())["scrape_configs"]
    asked = {one["job_name"]: one["dns_sd_configs"] for one in scraped if one["job_name"] in WORKERS}
    assert asked == {name: [{"names": [name], "type": "A", "port": port}] for name in WORKERS for port in ports}
    for service in OURS.values():
        if "services.orchestrator.worker" in service.get("command", ()):
            assert {_options(service["command"][3:]).metrics[1]} == ports
            assert "ports" not in service


def test_nothing_of_the_compose_file_is_reached_from_other_machines() -> None:
    published = [port for one in COMPOSE["services"].values() for port in one.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert COMPOSE["networks"]["back"]["internal"] is True
    for name in ("postgres", "redis", "s3"):
        assert COMPOSE["services"][name]["networks"] == ["back"]


def test_no_password_has_a_value_that_is_shipped() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    example = dict(
        line.partition("=")[::2]
        for line in (ROOT / ".env.example").read_text().splitlines()
        if re.match(r"[A-Z]", line)
    )
    required = set(re.findall(r"\$\{(\w+):\?", text))
    assert required | {"GRAFANA_PASSWORD"} == set(example)
    assert not any(example.values())
    secret = {name for name in re.findall(r"\$\{(\w+)", text) if re.search("KEY|PASSWORD|SECRET", name)}
    assert secret <= set(example)
    assert not re.search(r"\$\{\w*(KEY|PASSWORD|SECRET)\w*:?-[^}]", text)


def test_our_containers_have_no_more_rights_than_they_need() -> None:
    for name, service in OURS.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        mounted = [one["target"] if isinstance(one, dict) else one.split(":")[1] for one in service.get("volumes", [])]
        assert "/tmp" in [*mounted, *service.get("tmpfs", [])], name


def extras(*names: str) -> set[str]:
    """The packages that extras of ours bring, those of other extras among them."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found: set[str] = set()
    for name in names:
        for requirement in known[name]:
            package = re.match(r"[\w-]+", requirement).group()  # type: ignore[union-attr]
            inner = re.match(r"understudy\[([\w,]+)\]", requirement)
            found |= extras(*inner.group(1).split(",")) if inner else {package}
    return found


def stages(path: Path) -> dict[str, str]:
    """The text of each stage of a Dockerfile by its name."""
    parts = re.split(r"^FROM \S+ AS ([\w-]+)\n", path.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_apis_image_has_no_torch_and_the_others_have_what_they_import() -> None:
    asked = {}
    for path in ROOT.glob("services/*/Dockerfile"):
        for name, text in stages(path).items():
            if found := re.search(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE):
                asked[f"{path.parent.name} {name}"] = extras(*found.group(1).split(","))
    assert asked["orchestrator build-api"] >= {"fastapi", "celery", "sqlalchemy", "psycopg", "s3fs"}
    assert not asked["orchestrator build-api"] & {"torch", "transformers"}
    assert asked["orchestrator build-worker"] >= {"torch", "accelerate", "celery", "psycopg", "s3fs"}
    assert asked["teacher dependencies"] >= {"torch", "captum", "fastapi", "s3fs"}
    assert asked["student dependencies"] >= {"torch", "onnxruntime", "ctranslate2", "fastapi", "s3fs"}


def test_a_change_of_the_code_changes_one_small_layer() -> None:
    """The code is copied over what it needs: else each change of it is a gigabyte to push and to pull."""
    for path in ROOT.glob("services/*/Dockerfile"):
        found = stages(path)
        changes = re.compile(r"^COPY (?!--from).*\b(understudy|services|README\.md) ", re.MULTILINE)
        taken = [name for name, text in found.items() if changes.search(text)]
        assert taken == ["code"]
        images = {name: re.findall(r"^COPY --from=(\S+) ", text, re.MULTILINE) for name, text in found.items()}
        images = {name: copied for name, copied in images.items() if copied}
        assert set(images) == ({"api", "worker"} if path.parent.name == "orchestrator" else {path.parent.name})
        for copied in images.values():
            assert "ARG EXTRAS=" in found[copied[0]]
            assert copied[1:] == ["code"]


def test_no_process_of_ours_is_the_first_of_its_container() -> None:
    """To number 1 the kernel gives no signal that it has no handler for: a SIGTERM during the start would be lost."""
    assert [name for name, service in OURS.items() if service["init"] is not True] == []
    patch = yaml.safe_load((ROOT / "k8s" / "base" / "hardening.yaml").read_text())
    assert {one["path"]: one["value"] for one in patch}["/spec/template/spec/shareProcessNamespace"] is True


def test_what_images_bring_is_pinned() -> None:
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    brought = extras("orchestrator", "train", "engines", "teacher", "student", "postgres", "s3")
    assert {name.lower() for name in brought} <= pinned
    for path in ROOT.glob("services/*/Dockerfile"):
        text = path.read_text()
        assert re.search(r"^ARG PYTHON=\d+\.\d+\.\d+-\S+$", text, re.MULTILINE)
        assert "syntax=" not in text  # an image that moves, which each build would fetch


@pytest.mark.parametrize("name", PORTS)
def test_a_services_port_is_the_same_everywhere(name: str) -> None:
    dockerfile = (ROOT / "services" / name / "Dockerfile").read_text()
    assert re.findall(r"^EXPOSE (\d+)$", dockerfile, re.MULTILINE) == [str(PORTS[name])]
    service = next(one for one in cluster() if one["kind"] == "Service" and one["metadata"]["name"] == name)
    assert service["spec"]["ports"][0]["port"] == PORTS[name]
    probed = re.findall(r"127\.0\.0\.1:(\d+)/", dockerfile)
    assert probed == [str(PORTS[name])]


def test_every_user_is_the_same_and_has_a_fixed_id() -> None:
    for path in ROOT.glob("services/*/Dockerfile"):
        assert set(re.findall(r"^USER (\S+)$", path.read_text(), re.MULTILINE)) == {"10001:10001"}
    rights = (ROOT / "k8s" / "base" / "hardening.yaml").read_text()
    assert "runAsUser: 10001" in rights
    elsewhere = (ROOT / "k8s" / "components" / "keda" / "hardening.yaml").read_text()
    assert rights.split("\n", 1)[1] == elsewhere.split("\n", 1)[1].replace("/jobTargetRef", "")


def test_a_pod_is_given_the_time_that_its_service_takes_to_end() -> None:
    all_pods = pods()

    def drained(name: str, variable: str) -> tuple[float, float]:
        pod = all_pods[name]
        environment = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
        return pod["terminationGracePeriodSeconds"], float(environment[variable])

    grace, drain = drained("Deployment/student", "UNDERSTUDY_STUDENT_DRAIN_SECONDS")
    assert grace > drain + StudentSettings().request_seconds
    grace, drain = drained("StatefulSet/teacher", "UNDERSTUDY_TEACHER_DRAIN_SECONDS")
    assert grace > drain + OrchestratorSettings().teacher_timeout
    grace, drain = drained("Deployment/orchestrator", "UNDERSTUDY_DRAIN_SECONDS")
    from services.orchestrator.dry import MAX_SECONDS

    assert grace > drain + MAX_SECONDS
    for name in ("Deployment/annotator", "StatefulSet/trainer", "ScaledJob/trainer"):
        assert all_pods[name]["terminationGracePeriodSeconds"] > 2 * OrchestratorSettings().child_grace


def test_probes_mean_different_things() -> None:
    for name, pod in pods().items():
        if name.startswith("Job/"):
            continue
        container = pod["containers"][0]
        readiness, liveness = container["readinessProbe"], container["livenessProbe"]
        assert container["startupProbe"], name
        assert readiness.get("httpGet", readiness.get("exec")) != liveness.get("httpGet", liveness.get("exec")), name
        if "httpGet" in liveness:
            assert (readiness["httpGet"]["path"], liveness["httpGet"]["path"]) == ("/readyz", "/livez")


def test_trainings_are_not_ended_for_a_shorter_queue() -> None:
    trainer = next(one for one in cluster() if one["kind"] == "ScaledJob")
    container = trainer["spec"]["jobTargetRef"]["template"]["spec"]["containers"][0]
    assert _options([*container["command"][3:], *container["args"]]).idle_exit > 0
    assert trainer["spec"]["rollout"]["strategy"] == "gradual"
    assert not any(
        one["kind"] == "ScaledObject" and one["spec"]["scaleTargetRef"]["name"] == "trainer" for one in cluster()
    )


def test_no_flow_to_the_internet_leads_to_the_clouds_metadata() -> None:
    policies = [one for one in cluster() if one["kind"] == "NetworkPolicy"]
    assert any(one["spec"]["podSelector"] == {} and not one["spec"].get("egress") for one in policies)
    blocks = [
        peer["ipBlock"]
        for one in policies
        for rule in one["spec"].get("egress", [])
        for peer in rule["to"]
        if "ipBlock" in peer
    ]
    assert blocks
    assert all("169.254.0.0/16" in block["except"] for block in blocks)


def test_every_secret_that_the_cluster_needs_is_in_the_documentation() -> None:
    needed = set()
    for pod in pods().values():
        for one in pod["containers"][0].get("env", []):
            if reference := one.get("valueFrom", {}).get("secretKeyRef"):
                needed.add((reference["name"], reference["key"]))
        for volume in pod.get("volumes", []):
            if secret := volume.get("secret"):
                needed |= {(secret["secretName"], item["key"]) for item in secret["items"]}
    assert needed
    for name, key in needed:
        assert re.search(rf"secret generic {name}\b[^`]*?--from-(?:literal|file)={key}=", DOCUMENT), (name, key)
