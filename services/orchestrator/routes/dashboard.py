"""The dashboard: a static page at `/` and its files below `/dashboard`, open to all, since they say nothing of anybody.

What the page shows it asks of the public API, with the key that its user gives it. Its policy lets no script run and no
style apply but its own files, and no text become HTML.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request, Response
from starlette.routing import Route

import services.orchestrator.dashboard as page

__all__ = ["CONTENT_SECURITY_POLICY", "dashboard_paths", "serve_dashboard"]

FOLDER = Path(page.__file__).parent
PREFIX = "/dashboard"
START = f"{PREFIX}/index.html"

_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # A string becomes HTML in one place only: lit's, for the templates that stand in our own code.
        "require-trusted-types-for 'script'",
        "trusted-types lit-html",
    )
)

_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Kept, and asked about each time: a new version of the service brings a new page at once.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class _File:
    content: bytes
    headers: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> _File:
        content = path.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        return cls(content, {**_HEADERS, "Content-Type": _KINDS[path.suffix], "ETag": tag})

    def answer(self, request: Request) -> Response:
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if self.headers["ETag"] in known:
            return Response(status_code=304, headers=self.headers)
        return Response(self.content, headers=self.headers)


def _files() -> dict[str, Path]:
    """Each file by the path that it is served at."""
    found = sorted(path for path in FOLDER.rglob("*") if path.suffix in _KINDS)
    return {f"{PREFIX}/{path.relative_to(FOLDER).as_posix()}": path for path in found}


def dashboard_paths() -> list[str]:
    """What needs no key."""
    return ["/", *_files()]


def serve_dashboard(app: FastAPI) -> None:
    """Add the page's routes, which are no part of the API's description."""
    files = {address: _File.read(path) for address, path in _files().items()}

    async def start(request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            raise HTTPException(404)  # as for any other program: the page is for people
        answer = files[START].answer(request)
        answer.headers["Vary"] = "Accept"
        return answer

    async def file(request: Request) -> Response:
        return files[request.url.path].answer(request)

    app.router.routes.append(Route("/", start))
    app.router.routes.extend(Route(address, file) for address in files)
