"""One page for each service's HTTP API, from its committed OpenAPI document: operations by tag, then the bodies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tables import cell, code, table

__all__ = ["SOURCE", "document", "page"]

Json = Mapping[str, Any]

FOLDER = Path(__file__).parents[1] / "openapi"
SOURCE = {"orchestrator": 8000, "teacher": 8001, "student": 8002}
SHARED = frozenset({"400", "401", "403", "404", "413", "415", "429", "503", "504"})
"""Answers that every address may give; the page of errors tells them."""

INTRO = """\
# HTTP: {service}

Made from [the OpenAPI document](../../openapi/{service}.json) of the service, which listens on port {port} and shows
the same at `/docs`. Errors have [one shape](errors.md) everywhere. With keys, requests send
`Authorization: Bearer KEY`.

"""


def document(service: str) -> Json:
    found: Json = json.loads((FOLDER / f"{service}.json").read_text(encoding="utf-8"))
    return found


def page(service: str) -> str:
    parts = [INTRO.format(service=service, port=SOURCE[service])]
    described = document(service)
    for tag, operations in _by_tag(described).items():
        parts.append(f"## {tag[0].upper()}{tag[1:]}\n\n")
        parts += [_operation(*one) for one in operations]
    parts.append("## Bodies\n\nFields without a default are required.\n\n")
    parts += [_schema(name, one) for name, one in sorted(described["components"]["schemas"].items())]
    return "".join(parts)


def _by_tag(described: Json) -> dict[str, list[tuple[str, str, Json]]]:
    found: dict[str, list[tuple[str, str, Json]]] = {}
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            found.setdefault((operation.get("tags") or ["other"])[0], []).append((method.upper(), path, operation))
    return found


def _operation(method: str, path: str, operation: Json) -> str:
    text = [f"### {method} {path.replace('_', chr(92) + '_')}\n\n{cell(operation.get('summary', ''))}.\n\n"]
    if description := operation.get("description"):
        text.append(f"{description}\n\n")
    parameters = [
        (code(one["name"]), one["in"], _type(one["schema"]), cell(one.get("description", "")))
        for one in operation.get("parameters", ())
    ]
    text.append(table(("Parameter", "In", "Type", "Meaning"), parameters) + "\n")
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        text.append(f"Body, `{kind}`: {_type(body.get('schema', {})) or 'see above'}\n\n")
    text.append(table(("Answer", "Body", "When"), list(_answers(operation["responses"]))) + "\n")
    return "".join(text)


def _answers(responses: Json) -> Iterator[tuple[str, str, str]]:
    for status, answer in responses.items():
        if status in SHARED and "ErrorBody" in json.dumps(answer.get("content", {})):
            continue
        kinds = answer.get("content", {})
        bodies = ", ".join(_type(one.get("schema", {})) or code(kind) for kind, one in kinds.items())
        yield status, bodies, cell(answer.get("description", "").replace("Successful Response", ""))


def _schema(name: str, schema: Json) -> str:
    text = [f"### {name}\n\n"]
    if description := schema.get("description"):
        text.append(description + "\n\n")
    required = set(schema.get("required", ()))
    rows = [
        (code(field), _type(one), "" if field in required else _default(one), cell(one.get("description", "")))
        for field, one in schema.get("properties", {}).items()
    ]
    if not rows:
        return "".join([*text, f"{_type(schema)}\n\n"])
    return "".join([*text, table(("Field", "Type", "Default", "Meaning"), rows), "\n"])


def _default(schema: Json) -> str:
    if "default" not in schema:
        return "none"
    value = json.dumps(schema["default"], ensure_ascii=False)
    return code(value if len(value) <= 60 else value[:57] + "...")


def _type(schema: Json) -> str:
    """A schema in one phrase, with links to the bodies that it names."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for words in ("anyOf", "oneOf", "allOf"):
        if words in schema:
            said = [_type(one) for one in schema[words]]
            return " or ".join(dict.fromkeys(one for one in said if one))
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    if "enum" in schema:
        return " or ".join(code(json.dumps(one)) for one in schema["enum"])
    kind = schema.get("type", "")
    if kind == "array":
        inner = _type(schema["items"]) if schema.get("items") else ""
        return f"list of {inner}{_bounds(schema)}" if inner else f"list{_bounds(schema)}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties']) or 'anything'}"
    if kind == "string" and schema.get("format") == "binary":
        return "file"
    return f"{kind}{_bounds(schema)}"


def _bounds(schema: Json) -> str:
    signs = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}
    signs |= {"minLength": "≥ {} characters", "maxLength": "≤ {} characters", "minItems": "≥ {}", "maxItems": "≤ {}"}
    said = [text.format(_number(schema[name])) for name, text in signs.items() if name in schema]
    return f" ({', '.join(said)})".replace("<", "&lt;").replace(">", "&gt;") if said else ""


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else str(value)
