"""What lives as long as the application, and how a route asks for it."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, TypedDict

from fastapi import Depends, Header, Request, Response

from services.orchestrator.comparison import Comparisons
from services.orchestrator.context import Context
from services.orchestrator.dispatch import Sweeper
from services.orchestrator.dry import DryRun
from services.orchestrator.follow import Followers
from services.orchestrator.idempotency import HEADER, REPLAYED, Replay
from services.orchestrator.keys import KeyStore
from services.orchestrator.watch import Watchers
from understudy.keys import Caller

__all__ = [
    "ONCE",
    "OnceKey",
    "Scope",
    "State",
    "TheCaller",
    "TheComparisons",
    "TheContext",
    "TheDryRun",
    "TheFollowers",
    "TheKeys",
    "TheSweeper",
    "TheWatchers",
    "answered",
    "replayed",
]


class State(TypedDict):
    context: Context
    keys: KeyStore
    sweeper: Sweeper
    followers: Followers
    watchers: Watchers
    dry_run: DryRun
    comparisons: Comparisons


def _context(request: Request) -> Context:
    return request.state.context


def _sweeper(request: Request) -> Sweeper:
    return request.state.sweeper


def _caller(request: Request) -> Caller:
    return request.state.caller


def _keys(request: Request) -> KeyStore:
    return request.state.keys


def _scope(request: Request) -> str:
    """The address, and who asks: nobody is answered what somebody else was."""
    who = _caller(request).id or hashlib.sha256(request.headers.get("authorization", "").encode()).hexdigest()
    return f"{request.method} {request.url.path} {who[:32]}"


def answered(answer: str) -> Response:
    """The answer as the very text that a replay repeats."""
    return Response(answer, media_type="application/json")


def replayed(first: Replay) -> Response:
    return Response(first.body, first.status, {REPLAYED: "true"}, "application/json")


ONCE: dict[int | str, dict[str, Any]] = {
    409: {"description": "A request with this key is at work: ask again"},
    422: {"description": "Another request came under this key before"},
}
OnceKey = Annotated[
    str | None,
    Header(alias=HEADER, description="Repeats of a request under one key get its first answer again, for 24 hours"),
]
Scope = Annotated[str, Depends(_scope)]


def _followers(request: Request) -> Followers:
    return request.state.followers


def _dry_run(request: Request) -> DryRun:
    return request.state.dry_run


def _watchers(request: Request) -> Watchers:
    return request.state.watchers


def _comparisons(request: Request) -> Comparisons:
    return request.state.comparisons


TheComparisons = Annotated[Comparisons, Depends(_comparisons)]
TheWatchers = Annotated[Watchers, Depends(_watchers)]
TheDryRun = Annotated[DryRun, Depends(_dry_run)]
TheFollowers = Annotated[Followers, Depends(_followers)]
TheCaller = Annotated[Caller, Depends(_caller)]
TheKeys = Annotated[KeyStore, Depends(_keys)]
TheContext = Annotated[Context, Depends(_context)]
TheSweeper = Annotated[Sweeper, Depends(_sweeper)]
