"""Every command in the documentation is one that the programs take: options, addresses, fields, files, names.

Nothing is started here. What is run for real is in test_python_blocks.py and, slowly, in test_walks.py.
"""

from __future__ import annotations

import ast
import csv
import functools
import importlib.util
import io
import itertools
import json
import re
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jsonschema_rs
import pytest
import typer.main
import yaml
from stand.pages import ROOT, Block, blocks, commands, pages
from typer.core import TyperGroup

from understudy.cli import app

BLOCKS = [block for path in pages() for block in blocks(path)]
COMMANDS = [block for block in BLOCKS if block.language == "sh" and block.reason is None]
PORTS = {8000: "orchestrator", 8001: "teacher", 8002: "student"}
UNDOCUMENTED = ("/docs", "/openapi.json")
"""Addresses that every service has and no OpenAPI document lists."""

SHELL = frozenset(
    re.findall(r"\S+", "for done echo export cp sed grep tee seq sleep source . cat cd openssl sqlite3 psql")
) | {
    "nvidia-smi",
    "redis-cli",
}
"""Programs of the machine whose use here is plain; `bash -n` has read the block."""


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "sh"], ids=str)
def test_a_block_of_commands_is_a_shell_s(block: Block) -> None:
    typed = [line for line in block.text.splitlines() if line.startswith("$ ")]
    if not typed:  # otherwise its outputs are no shell's
        done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_every_command_is_one_that_its_program_takes(block: Block) -> None:
    found = list(commands(block.text))
    assert found, "a block of commands without one"
    for words in found:
        program = words[0].rpartition("/")[2]
        assert program in CHECKS or program in SHELL, f"nothing here knows `{program}`: teach it, or say why not"
        if program in CHECKS:
            CHECKS[program](words)


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language in ("json", "yaml", "toml", "csv")], ids=str)
def test_a_block_of_data_can_be_read(block: Block) -> None:
    if block.language == "csv":
        rows = list(csv.reader(io.StringIO(block.text), strict=True))
        assert {len(row) for row in rows} == {len(rows[0])}
    else:
        {"json": json.loads, "yaml": yaml.safe_load, "toml": tomllib.loads}[block.language](block.text)


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language == "python"], ids=str)
def test_a_block_of_python_can_be_read(block: Block) -> None:
    ast.parse(block.text)


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    known = {"sh", "python", "json", "yaml", "toml", "csv", "text", "promql", ""}  # test_deploy.py reads PromQL
    assert {block.language for block in BLOCKS} <= known


# --- one check for each program --------------------------------------------------------------------------------------


def understudy(words: list[str]) -> None:
    """Parse the command as the program does, up to the point where it would begin."""
    command, name, rest, context = typer.main.get_command(app), "understudy", words[1:], None
    try:
        while True:
            context = command.make_context(name, rest, parent=context)
            if not isinstance(command, TyperGroup):
                return
            name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    except Exception as error:  # typer has classes of its own for wrong uses, which it does not export
        said = getattr(error, "message", error)
        if "does not exist" not in str(said):  # a file of the reader's
            raise AssertionError(f"{' '.join(words)}: {said}") from error


def curl(words: list[str]) -> None:
    """The address, the method, the query and the body are those of the service's OpenAPI document."""
    given = _curl_options(words[1:])
    url = urlsplit(given["url"] if "//" in given["url"].split("/v")[0] else f"http://{given['url']}")
    assert url.hostname in ("localhost", "127.0.0.1"), f"{given['url']}: not one of our services"
    assert url.port in PORTS, f"no service listens on {url.port}"
    path = re.sub(r"\$\w+", "x", url.path)
    if path in UNDOCUMENTED:
        return
    document = _document(PORTS[url.port])
    method = given.get("method") or ("post" if "body" in given or "form" in given else "get")
    operation = _operation(document, path, method)
    queries = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"}
    assert {name for name, _ in parse_qsl(url.query, keep_blank_values=True)} <= queries
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        schema = {**body["schema"], "components": document["components"]}
        if kind == "application/json":
            jsonschema_rs.validate(schema, json.loads(given["body"]))
        elif kind == "multipart/form-data":
            fields = dict(one.split("=", 1) for one in given["form"])
            jsonschema_rs.validate(schema, fields)


def _curl_options(words: list[str]) -> dict[str, Any]:
    """What matters of curl's options. Raises AssertionError for one that is not known here."""
    found: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        if word in ("-d", "--data"):
            found["body"] = next(rest)
        elif word in ("-F", "--form"):
            found.setdefault("form", []).append(next(rest))
        elif word in ("-X", "--request"):
            found["method"] = next(rest).lower()
        elif word in ("-H", "-o", "-w"):
            next(rest)
        elif word.startswith("-"):
            assert set(word) <= set("-fiNsS"), f"curl {word}: not known here"
        else:
            found["url"] = word
    return found


@functools.cache
def _document(service: str) -> Mapping[str, Any]:
    return json.loads((ROOT / "docs" / "openapi" / f"{service}.json").read_text(encoding="utf-8"))


def _operation(document: Mapping[str, Any], path: str, method: str) -> Mapping[str, Any]:
    """The operation whose template fits, the one with the longest words of its own first."""
    fitting = [
        (len(re.sub(r"\{\w+\}", "", template)), methods[method])
        for template, methods in document["paths"].items()
        if method in methods and re.fullmatch(re.sub(r"\\\{\w+\\\}", ".+", re.escape(template)), path)
    ]
    assert fitting, f"{method.upper()} {path} is no address of {document['info']['title']}"
    return max(fitting, key=lambda one: one[0])[1]


def make(words: list[str]) -> None:
    names = [word for word in words[1:] if "=" not in word]
    done = subprocess.run(["make", "-n", *names], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def python(words: list[str]) -> None:
    """A module or a file that is there; a file of ours has the options."""
    if words[1] == "-m":
        assert importlib.util.find_spec(words[2]) is not None, f"there is no module {words[2]}"
    elif words[1] == "-c":
        ast.parse(words[2])
    elif words[1] != "-":
        source = (ROOT / words[1]).read_text(encoding="utf-8")
        for option in (word.partition("=")[0] for word in words[2:] if word.startswith("--")):
            assert f'"{option}"' in source, f"{words[1]} has no {option}"


def pip(words: list[str]) -> None:
    """Extras of ours that there are."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for wanted in re.findall(r"(?:understudy|\.)\[([\w,]+)\]", " ".join(words)):
        assert set(wanted.split(",")) <= set(extras)


def docker(words: list[str]) -> None:
    """Files, stages and arguments of images; services and profiles of the compose file."""
    if words[1] == "compose":
        return _compose(words[2:])
    if words[1] == "build":
        file = (ROOT / words[words.index("-f") + 1]).read_text(encoding="utf-8")
        if "--target" in words:
            assert re.search(rf"^FROM .* AS {words[words.index('--target') + 1]}$", file, re.MULTILINE | re.IGNORECASE)
        for one in (words[at + 1] for at, word in enumerate(words) if word == "--build-arg"):
            assert re.search(rf"^ARG {one.partition('=')[0]}\b", file, re.MULTILINE)
    return None


def _compose(words: list[str]) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    profiles = {name for one in services.values() for name in one.get("profiles", ())}
    for option, value in itertools.pairwise(words):
        if option == "--profile":
            assert value in profiles
        if option == "--scale":
            assert value.partition("=")[0] in services
    for at, word in enumerate(words):
        if word in ("exec", "logs", "restart"):
            assert next(name for name in words[at + 1 :] if not name.startswith("-")) in services


def kubectl(words: list[str]) -> None:
    """Folders of kustomize that there are, and things that they make."""
    made = {f"{one['kind']}/{one['metadata']['name']}".lower() for one in _cluster()}
    for option, value in itertools.pairwise(words):
        if option in ("-k", "kustomize"):
            assert (ROOT / value / "kustomization.yaml").is_file()
    kinds = ("job/", "deployment/", "service/", "statefulset/", "cronjob/")
    for name in (word for word in words if word.startswith(kinds)):
        assert name in made, f"k8s/base makes no {name}"


@functools.cache
def _cluster() -> tuple[dict[str, Any], ...]:
    files = sorted((ROOT / "k8s" / "base").glob("*.yaml"))
    found = [one for path in files for one in yaml.safe_load_all(path.read_text())]
    return tuple(one for one in found if isinstance(one, dict) and "kind" in one and "name" in one.get("metadata", {}))


CHECKS: Mapping[str, Callable[[list[str]], None]] = {
    "understudy": understudy,
    "curl": curl,
    "make": make,
    "python": python,
    "python3": python,
    "pip": pip,
    "docker": docker,
    "kubectl": kubectl,
}


@pytest.mark.parametrize(
    "line",
    [
        "understudy distill a.csv --teacher t --student s --seed 3",
        "understudy attribute text --target nonsense",
        "understudy nonsense",
        'curl localhost:8002/v1/prediction -d \'{"inputs": ["a"]}\'',
        'curl localhost:8002/v1/predictions -d \'{"input": ["a"]}\'',
        "curl localhost:8000/v1/files -X PUT",
        "make nonsense",
        "python -m services.nonsense",
        "python benchmarks/bench_recipes.py --nonsense",
        "pip install 'understudy[nonsense]'",
        "docker build -f services/teacher/Dockerfile --target nonsense .",
        "docker compose --profile nonsense up",
        "kubectl apply -k k8s/overlays/nonsense",
        "kubectl rollout status deployment/nonsense",
    ],
)
def test_a_command_that_is_wrong_is_found(line: str) -> None:
    """The checks themselves: each sees what it is there for."""
    (words,) = commands(line)
    with pytest.raises((AssertionError, jsonschema_rs.ValidationError, OSError, ModuleNotFoundError)):
        CHECKS[words[0]](words)
