"""The page of metrics: what each service counts, found where the source declares it.

Nothing is started, since some series are there only beside a model or a database. A metric is a call of one of
prometheus_client's classes with a name and a text, or an entry of the dictionary that such a call is made for.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tables import cell, code, table

__all__ = ["declared", "page"]

ROOT = Path(__file__).parents[2]
KINDS = {
    "Counter": "counter",
    "CounterMetricFamily": "counter",
    "Gauge": "gauge",
    "GaugeMetricFamily": "gauge",
    "Histogram": "histogram",
}
SOURCES = {
    "Every service": ("understudy/metrics.py",),
    "Orchestrator": ("services/orchestrator/metrics.py",),
    "Worker": ("services/orchestrator/worker_metrics.py",),
    "Teacher": ("services/teacher/metrics.py",),
    "Student": ("services/student/metrics.py",),
}

INTRO = """\
# Metrics

Made from the source. Each service answers `GET /metrics` in Prometheus' text format, a worker at its `--metrics`; a
counter's name ends in `_total` there. What the numbers mean together is told in [Serving](../../serving.md#metrics) and
[Deployment](../../deployment.md#metrics-of-workers). The batches under "Every service" are those of teacher and
student. The orchestrator's API shows a worker's numbers too, of what it sweeps, sends and asks teachers itself.

"""


def page() -> str:
    parts = [INTRO]
    for service, files in SOURCES.items():
        rows = [(code(name), kind, labels, cell(text)) for file in files for name, kind, labels, text in declared(file)]
        parts += [f"## {service}\n\n", table(("Name", "Kind", "Labels", "Meaning"), sorted(rows)), "\n"]
    return "".join(parts)


def declared(file: str) -> Iterator[tuple[str, str, str, str]]:
    """Name, kind, labels and text of every metric that FILE declares."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    nodes: list[Any] = list(ast.walk(tree))
    known = {node.targets[0].id: node.value for node in nodes if _simple(node)}
    for node in nodes:
        if isinstance(node, ast.DictComp) and _kind(node.value):
            call: Any = node.value
            prefix = "".join(map(_text, call.args[0].values))  # of f"understudy_{name}"
            for name, text in _pairs(node.generators[0].iter, known):
                yield _row(call, prefix + name, text, known)
        elif _kind(node) and len(node.args) >= 2 and (name := _text(node.args[0])).startswith("understudy_"):
            yield _row(node, name, _text(node.args[1]), known)


def _simple(node: Any) -> bool:
    return isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)


def _pairs(items: ast.AST, known: Mapping[str, ast.AST]) -> Iterator[tuple[str, str]]:
    """The entries of `{...}.items()`, or of `name.items()` where the name is a dictionary."""
    for node in ast.walk(items):
        found = known.get(node.id) if isinstance(node, ast.Name) else node
        if isinstance(found, ast.Dict):
            yield from zip(map(_text, found.keys), map(_text, found.values), strict=True)


def _row(call: Any, name: str, text: str, known: Mapping[str, ast.AST]) -> tuple[str, str, str, str]:
    kind = _kind(call)
    given = [*call.args[2:3], *(one.value for one in call.keywords if one.arg == "labels")]
    labels = [label for one in given for label in _labels(one, known)]
    return name + ("_total" if kind == "counter" else ""), kind, ", ".join(map(code, labels)), text


def _labels(node: ast.AST, known: Mapping[str, ast.AST]) -> Iterator[str]:
    if isinstance(node, ast.Name) and node.id in known:
        yield from _labels(known[node.id], known)
    elif isinstance(node, ast.Starred):
        yield from _labels(node.value, known)
    elif isinstance(node, ast.List):
        for one in node.elts:
            yield from [_text(one)] if _text(one) else _labels(one, known)


def _kind(node: Any) -> str:
    return KINDS.get(getattr(node.func, "id", ""), "") if isinstance(node, ast.Call) else ""


def _text(node: ast.AST | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
