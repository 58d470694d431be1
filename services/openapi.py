"""Writes each service's OpenAPI document into docs/openapi, or checks that the committed ones are true."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "openapi"
SERVICES = ("orchestrator", "student", "teacher")


def document(service: str) -> str:
    app = importlib.import_module(f"services.{service}.app").create_app()
    return json.dumps(app.openapi(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> int:
    stale = []
    for service in SERVICES:
        path, text = FOLDER / f"{service}.json", document(service)
        if "--check" not in sys.argv:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif not path.is_file() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        print(f"docs/openapi is out of date ({', '.join(stale)}): run `make openapi`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
