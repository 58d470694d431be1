"""`make check-deploy`: everything about images and clusters that can be known without a registry and a cluster.

Renders the overlays where kubectl or kustomize is installed, and checks what comes out against the schemas of the last
Kubernetes versions, KEDA's fields, and checkov; Dockerfiles with hadolint, the compose file with its specification,
Prometheus' queries with a parser. Runs with the tools of requirements.txt, offline.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import promql_parser
import yaml
from kubernetes_validate.utils import all_versions

ROOT = Path(__file__).resolve().parents[1]
K8S = ROOT / "k8s"
TOOLS = Path(sys.executable).parent
VERSIONS = 4
"""Kubernetes itself supports three at a time, and clouds one more."""


def main() -> int:
    problems = [*dockerfiles(), *compose(), *queries(), *cluster()]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(problems)} problems" if problems else "all well")
    return bool(problems)


def dockerfiles() -> Iterator[str]:
    for path in sorted(ROOT.glob("services/*/Dockerfile")):
        yield from _complaints("hadolint", "--no-color", str(path))


def compose() -> Iterator[str]:
    yield from _complaints(
        "check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(ROOT / "docker-compose.yml")
    )


def queries() -> Iterator[str]:
    folder = ROOT / "docker" / "observability"
    dashboard = json.loads((folder / "grafana" / "dashboards" / "understudy.json").read_text())
    alerts = yaml.safe_load((folder / "alerts.yml").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    for query in asked:
        try:
            promql_parser.parse(query)
        except ValueError as error:
            yield f"{query}: {error}"


def cluster() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as place:
        for overlay in sorted((K8S / "overlays").iterdir()):
            resources = rendered(overlay)
            if resources is None:
                print("neither kubectl nor kustomize is installed: k8s/ was NOT rendered, so it was not checked")
                return
            jobs = [_job_of(one) for one in resources if one["kind"] == "ScaledJob"]
            yield from (f"{overlay.name}: {problem}" for one in (*resources, *jobs) for problem in invalid(one))
            (Path(place) / f"{overlay.name}.yaml").write_text(yaml.safe_dump_all([*resources, *jobs]))
        for path in ROOT.glob("services/*/Dockerfile"):
            copy = Path(place) / path.parent.name / "Dockerfile"
            copy.parent.mkdir()
            shutil.copy(path, copy)
        yield from _complaints("checkov", "--config-file", str(K8S / "checkov.yaml"), "--directory", place)


def rendered(overlay: Path) -> list[dict[str, Any]] | None:
    """The resources of an overlay; None where there is nothing to render them with."""
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, str(overlay)], capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{' '.join(command)} {overlay}: {done.stderr}")
            return list(yaml.safe_load_all(done.stdout))
    return None


def invalid(resource: Mapping[str, Any]) -> Iterator[str]:
    name = f"{resource['kind']}/{resource['metadata']['name']}"
    if resource["apiVersion"].startswith("keda.sh/"):
        schema = json.loads((K8S / "keda.schema.json").read_text())
        for error in jsonschema.Draft202012Validator(schema).iter_errors(resource):
            yield f"{name}: {'.'.join(map(str, error.absolute_path))}: {error.message}"
        return
    versions = list(dict.fromkeys(all_versions()))  # each is listed strict and not
    for version in versions[-VERSIONS:]:
        try:
            kubernetes_validate.validate(dict(resource), version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{name} in Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}"


def _job_of(scaled: Mapping[str, Any]) -> dict[str, Any]:
    """The Job that KEDA would make, so that it is checked like any other."""
    meta = {"name": f"{scaled['metadata']['name']}-of-keda", "namespace": scaled["metadata"]["namespace"]}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": scaled["spec"]["jobTargetRef"]}


def _complaints(tool: str, *arguments: str) -> Iterator[str]:
    """What a tool has to say, where it does not agree."""
    environment = {**os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}", "LOG_LEVEL": "CRITICAL"}
    done = subprocess.run(
        [str(TOOLS / tool), *arguments], capture_output=True, text=True, env=environment, check=False, cwd=ROOT
    )
    if done.returncode:
        yield (done.stdout + done.stderr).strip()


if __name__ == "__main__":
    sys.exit(main())
