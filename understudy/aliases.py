"""Aliases: names in an artifact store that move from one artifact to the next, each with its whole history.

Every move is a record of its own, `history/<alias>/<number>.json`, that is created once and never changed; `aliases/
<alias>.json` is what readers read, and says what the last record says. Who moves an alias takes the next number, which
only one can have, so that of several who do it at once one comes after the other and none is lost. On a local file
system a lock makes the record and the file one step; on an object store the file is written again until it agrees with
the last record, and whoever comes next completes a move that was cut off in between.

A database's transaction does not reach in here. A job therefore moves its alias right before it commits that it has
succeeded, while it holds its own row, so that one that was cancelled or paused moves none. If it dies in between, the
job has not ended, its end is written again, and this finds the move made (`once`). The other way round, a death would
leave a job that has succeeded and an alias that nobody moves. What remains is a job that dies in between and is
cancelled before its end is written again: its alias moved before the cancel, and stays.

Knows no artifact but its id, and not whether it exists.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from understudy.errors import ArtifactCorrupt, Conflict
from understudy.tracing import traceparent

__all__ = ["Aliases", "How", "Move", "standing"]

How = Literal["publish", "promote", "rollback"]


class Move(BaseModel):
    """An alias named `artifact` from `at` on, in seconds since 1970, and `before` until then.

    `by` is who did it: a job's id, or the name of a user or of a key; `traceparent` the span in which it was done.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    number: int
    artifact: str
    before: str | None
    at: int
    how: How
    by: str | None = None
    traceparent: str | None = None


class Aliases:
    """The aliases below one root of an fsspec file system. Names are those that `artifacts.check_alias` lets through.

    `write` replaces a file by the JSON of a value, in one step.
    """

    def __init__(self, fs: Any, root: str, write: Callable[[str, Mapping[str, Any]], None], *, local: bool) -> None:
        self.fs, self.root = fs, root
        self._write = write
        self._local = local

    def names(self) -> list[str]:
        """Every alias, in order."""
        return self._listed(f"{self.root}/aliases")

    def get(self, name: str) -> str | None:
        """The artifact that an alias names; None where there is no such alias. Reads a file, and nothing else."""
        path = self._path(name)
        return str(json.loads(self.fs.cat_file(path))["artifact"]) if self.fs.exists(path) else None

    def history(self, name: str) -> list[Move]:
        """Every move of an alias, the first one first. Raises ArtifactCorrupt for a record that cannot be read."""
        folder = f"{self.root}/history/{name}"
        found = [self._read(f"{folder}/{one}.json") for one in self._listed(folder)]
        return found or self._before_there_was_a_history(name)

    def move(
        self, name: str, artifact: str, *, how: How, by: str | None, expected: str | None = None, once: bool = False
    ) -> Move:
        """Point an alias at an artifact; one that is there already stays, and the move that brought it is returned.

        With `once`, so is a move that `by` has made to it before, whatever the alias names by now. Raises Conflict
        where the alias does not name `expected`.
        """

        def decide(past: Sequence[Move]) -> Move:
            if once and (made := [one for one in past if (one.artifact, one.how, one.by) == (artifact, how, by)]):
                return made[-1]
            now = past[-1].artifact if past else None
            _check_expected(name, now, expected)
            if past and now == artifact:
                return past[-1]
            went = {"artifact": artifact, "before": now, "traceparent": traceparent()}
            return Move(number=len(past) + 1, at=_now(), how=how, by=by, **went)

        return self._add(name, decide)

    def rollback(self, name: str, *, by: str | None, check: Callable[[str], None], expected: str | None = None) -> Move:
        """Point an alias at what it named before, as far back as its history goes, a step each time.

        `check` raises for an artifact that must not be taken. Raises Conflict where there is nothing before, or the
        alias does not name `expected`.
        """

        def decide(past: Sequence[Move]) -> Move:
            stack = standing(past)
            _check_expected(name, stack[-1] if stack else None, expected)
            if len(stack) < 2:
                raise Conflict(
                    f"alias '{name}' has named nothing before: there is nothing to go back to", param="alias"
                )
            check(stack[-2])
            went = {"artifact": stack[-2], "before": stack[-1], "traceparent": traceparent()}
            return Move(number=len(past) + 1, at=_now(), how="rollback", by=by, **went)

        return self._add(name, decide)

    def _add(self, name: str, decide: Callable[[Sequence[Move]], Move]) -> Move:
        while True:
            with self._alone(name):
                past = self.history(name)
                move = decide(past)
                if past and not self.fs.exists(self._record(name, past[0].number)):
                    self._create(name, past[0])
                if move in past or self._create(name, move):
                    self._point(name, self.history(name)[-1])
                    return move

    def _point(self, name: str, last: Move) -> None:
        """Let readers see the last move. Another may have been added meanwhile, and its file been overwritten here."""
        while True:
            self.fs.makedirs(f"{self.root}/aliases", exist_ok=True)
            self._write(self._path(name), {"artifact": last.artifact, "set_at": last.at, "number": last.number})
            newest = self.history(name)[-1]
            if newest == last:
                return
            last = newest

    def _create(self, name: str, move: Move) -> bool:
        """Write a record that is not there yet; False where somebody else was first."""
        path = self._record(name, move.number)
        if self._local:  # under the lock
            self._write(path, move.model_dump())
            return True
        try:
            self.fs.pipe_file(path, json.dumps(move.model_dump(), indent=1).encode(), mode="create")
        except FileExistsError:
            return False
        return True

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Nobody else on this file system moves the alias meanwhile; object stores have no locks, and need none."""
        folder = f"{self.root}/history/{name}"
        self.fs.makedirs(folder, exist_ok=True)
        if not self._local:
            yield
            return
        descriptor = os.open(Path(folder) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _before_there_was_a_history(self, name: str) -> list[Move]:
        """What an alias named that an older version of this program set."""
        if not self.fs.exists(self._path(name)):
            return []
        given = json.loads(self.fs.cat_file(self._path(name)))
        return [Move(number=1, artifact=given["artifact"], before=None, at=given.get("set_at", 0), how="publish")]

    def _read(self, path: str) -> Move:
        try:
            return Move.model_validate_json(self.fs.cat_file(path))
        except ValidationError as error:
            wrong = error.errors()[0]["msg"]
            raise ArtifactCorrupt(f"the record {'/'.join(path.split('/')[-3:])} cannot be read: {wrong}") from error

    def _listed(self, folder: str) -> list[str]:
        """The names of the JSON files in a folder, in order."""
        self.fs.invalidate_cache(folder)
        if not self.fs.exists(folder):
            return []
        paths = sorted(str(path) for path in self.fs.ls(folder, detail=False))
        return [path.rsplit("/", 1)[-1].removesuffix(".json") for path in paths if path.endswith(".json")]

    def _path(self, name: str) -> str:
        return f"{self.root}/aliases/{name}.json"

    def _record(self, name: str, number: int) -> str:
        return f"{self.root}/history/{name}/{number:08d}.json"


def standing(history: Sequence[Move]) -> list[str]:
    """What an alias can still go back to, the oldest first, and at the end what it names."""
    stack: list[str] = []
    for one in history:
        if one.how == "rollback":
            stack.pop()
        else:
            stack.append(one.artifact)
    return stack


def _check_expected(name: str, now: str | None, expected: str | None) -> None:
    if expected is not None and now != expected:
        raise Conflict(
            f"alias '{name}' does not name '{expected}' but {now or 'nothing'}: it has moved", param="expected"
        )


def _now() -> int:
    return int(time.time())
