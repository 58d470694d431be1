"""Artifacts: immutable, content-addressed folders on any fsspec file system, finished when their manifest is there.

`publish` writes the files first and `manifest.json` last, so that a reader either sees a whole artifact or none. An id
is the kind and a hash of the content: publishing the same bytes twice gives the same id and costs nothing. Aliases
(`production` -> `model-...`) are the only thing here that changes. Knows nothing of what is inside an artifact.

Whoever comes to rely on an artifact that exists already says so first with `use`, which looks again then; whoever
removes one sets it aside first (see `removals`), and looks at `used_at` then: at least one sees the other.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, get_args

import fsspec
from fsspec.core import url_to_fs

from understudy.aliases import Aliases, How, Move
from understudy.errors import ArtifactCorrupt, ArtifactNotFound, InvalidRequest
from understudy.removals import MANIFEST, USED, Removals, modified

__all__ = [
    "Artifact",
    "ArtifactStore",
    "Inventory",
    "Kind",
    "Stray",
    "check_alias",
    "file_sha256",
    "ids_in",
    "published_for",
]

Kind = Literal["file", "dataset", "shard", "model", "report"]
_ID = re.compile(rf"({'|'.join(get_args(Kind))})-[0-9a-f]{{24}}")
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PART = ".part"
_owner: ContextVar[str] = ContextVar("owner", default="")


@dataclass(frozen=True)
class Artifact:
    """A published folder: `files` maps each relative path to its SHA-256."""

    id: str
    kind: Kind
    files: Mapping[str, str]
    bytes: int
    meta: Mapping[str, Any]
    created_at: int


@dataclass(frozen=True)
class Stray:
    """What lies in a store and is no artifact: a part of one that was never completed. `modified`: its newest file."""

    path: str
    bytes: int
    modified: float


@dataclass(frozen=True)
class Inventory:
    """All that a store holds at one time."""

    artifacts: list[Artifact] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    strays: list[Stray] = field(default_factory=list)


def ids_in(text: str) -> set[str]:
    """Every artifact id that stands somewhere in a text."""
    return {found.group() for found in _ID.finditer(text)}


@contextmanager
def published_for(owner: str) -> Iterator[None]:
    """Name those whose work is published within: what a killed process leaves half-written is told apart by that."""
    token = _owner.set(owner)
    try:
        yield
    finally:
        _owner.reset(token)


def check_alias(name: str, *, param: str = "alias") -> None:
    """Raise InvalidRequest for a name that no artifact can have."""
    if not _ALIAS.fullmatch(name) or _ID.fullmatch(name):
        raise InvalidRequest(f"alias '{name}' must be 1-64 of letters, digits, '.', '_' or '-'", param=param)


def file_sha256(path: Path) -> str:
    """The SHA-256 of what a file holds. Raises OSError where there is none."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ArtifactStore:
    """The artifacts below one root: a local folder, or any fsspec URL (`s3://bucket/prefix`).

    `cache` is the local folder that remote artifacts are copied into before use; a local store is used in place.
    """

    def __init__(self, root: str | Path, cache: Path | None = None) -> None:
        self.url = str(root)
        self.fs, self.root = url_to_fs(self.url)
        self._local = isinstance(self.fs, fsspec.implementations.local.LocalFileSystem)
        self._cache = cache or Path(tempfile.gettempdir()) / f"understudy-cache-{os.getuid()}"
        self._verified: set[str] = set()
        self.moves = Aliases(self.fs, self.root, self._write_json, local=self._local)
        """The aliases with their history; `set_alias` and `resolve` are the checked way to it."""
        self.removals = Removals(self.fs, self.root, None if self._local else self._cache, self._verified.discard)
        """Removal in two steps; `delete` is both of them."""

    def publish(self, kind: Kind, folder: Path, meta: Mapping[str, Any] | None = None) -> Artifact:
        """Copy every file of `folder` into the store and return the finished artifact.

        `meta` is a description and no part of the identity. Raises InvalidRequest for an empty folder.
        """
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        if not paths:
            raise InvalidRequest(f"nothing to publish: {folder} holds no file")
        files = {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}
        digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
        artifact = Artifact(
            id=f"{kind}-{digest[:24]}",
            kind=kind,
            files=files,
            bytes=sum(path.stat().st_size for path in paths),
            meta=dict(meta or {}),
            created_at=int(time.time()),
        )
        if self.use(artifact.id):
            return self.get(artifact.id)
        self.removals.wait_for_end(artifact.id)
        if self._local and not os.path.lexists(self._path(artifact.id)):
            self._publish_at_once(artifact, folder)
        else:  # object stores cannot rename a folder; and a folder without a manifest is of a removal that was cut off
            self._fill(self._path(artifact.id), artifact, folder)
        return artifact

    def exists(self, artifact_id: str) -> bool:
        """True when the artifact is finished; a folder without a manifest does not exist."""
        if not _ID.fullmatch(artifact_id):
            return False
        self.fs.invalidate_cache(self._path(artifact_id))
        return bool(self.fs.exists(f"{self._path(artifact_id)}/{MANIFEST}"))

    def use(self, artifact_id: str) -> bool:
        """Note that somebody relies on an artifact from now on; False where there is none."""
        if not self.exists(artifact_id):
            return False
        self._write_small(f"{self.root}/{USED}/{artifact_id}", str(time.time()).encode())
        return self.exists(artifact_id)

    def used_at(self, artifact_ids: Iterable[str]) -> dict[str, float]:
        """When each of these was last noted to be used, in seconds since 1970; those that never were are left out."""
        self.fs.invalidate_cache(f"{self.root}/{USED}")
        found = {}
        for artifact_id in artifact_ids:
            with suppress(FileNotFoundError, ValueError):
                found[artifact_id] = float(self.fs.cat_file(f"{self.root}/{USED}/{artifact_id}"))
        return found

    def get(self, artifact_id: str) -> Artifact:
        """Read a manifest; raises ArtifactNotFound."""
        if not self.exists(artifact_id):
            raise ArtifactNotFound(f"no artifact '{artifact_id}' in this store")
        try:
            return Artifact(**json.loads(self.fs.cat_file(f"{self._path(artifact_id)}/{MANIFEST}")))
        except (TypeError, ValueError) as error:
            raise ArtifactCorrupt(f"the manifest of '{artifact_id}' cannot be read: {error}") from error

    def folder(self, artifact_id: str) -> Path:
        """A local folder with the artifact's files, checksums verified once per process.

        Raises ArtifactNotFound, or ArtifactCorrupt when a byte differs from the manifest. Treat it as read-only.
        """
        artifact = self.get(artifact_id)
        place = Path(self._path(artifact_id)) if self._local else self._cache / artifact_id
        if artifact_id in self._verified and place.is_dir():
            return place
        for name in artifact.files:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ArtifactCorrupt(f"the manifest of '{artifact_id}' names a path outside it: '{name}'")
        if self._local:
            _verify(artifact, place)
        else:
            self._fetch(artifact, place)
        self._verified.add(artifact_id)
        return place

    def delete(self, artifact_id: str, check: Callable[[], None] = lambda: None) -> None:
        """Remove an artifact, its manifest first, so that no reader meets half of it. Raises ArtifactNotFound.

        `check` is called when nobody can find it any more: where that raises, it is put back. Whoever comes to rely on
        it in this moment says so first, in a way that `check` can see, and looks then whether it is there.
        """
        self.get(artifact_id)
        with self.removals.alone():
            if not self.removals.set_aside(artifact_id):
                return
            try:
                check()
            except BaseException:
                self.removals.put_back(artifact_id)
                raise
            self.removals.purge(artifact_id)

    def inventory(self) -> Inventory:
        """Everything that is there, in one listing."""
        self.fs.invalidate_cache()
        groups: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        for path, facts in self.fs.find(self.root, detail=True).items():
            first, _, rest = self._inside(path).partition("/")
            groups[first][rest] = facts
        self.fs.invalidate_cache()  # what was listed is soon not true any more
        found = Inventory()
        for name, files in sorted(groups.items()):
            if _ID.fullmatch(name) and MANIFEST in files:
                try:
                    found.artifacts.append(self.get(name))
                except ArtifactNotFound:
                    continue  # it was removed meanwhile
                except ArtifactCorrupt:
                    found.unreadable.append(name)
            elif _ID.fullmatch(name) or name.endswith(_PART):
                found.strays.append(_stray(f"{self.root}/{name}", files))
            parts = {rest: one for rest, one in files.items() if rest.endswith(_PART)}
            if not name.endswith(_PART):
                found.strays.extend(_stray(f"{self.root}/{name}/{rest}", {"": one}) for rest, one in parts.items())
        return found

    def sweep_up(self, stray: Stray) -> None:
        """Remove what was never completed."""
        with suppress(FileNotFoundError):
            self.fs.rm(stray.path, recursive=True)

    def note(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep a small JSON object beside the artifacts, under a name that is none of theirs."""
        self._write_json(f"{self.root}/{name}.json", value)

    def noted(self, name: str) -> dict[str, Any] | None:
        """What `note` kept last; None where there is nothing."""
        try:
            return dict(json.loads(self.fs.cat_file(f"{self.root}/{name}.json")))
        except FileNotFoundError:
            return None

    def set_alias(
        self,
        name: str,
        artifact_id: str,
        *,
        how: How = "publish",
        by: str | None = None,
        expected: str | None = None,
        once: bool = False,
    ) -> Move:
        """Point `name` at an artifact, atomically; its history says `how` and by whom.

        With `once`, a move that `by` has made to it before is not made again, whatever came after it. Raises
        InvalidRequest, ArtifactNotFound, or Conflict where it does not name `expected` now.
        """
        check_alias(name)
        if not self.use(artifact_id):
            self.get(artifact_id)
        return self.moves.move(name, artifact_id, how=how, by=by, expected=expected, once=once)

    def aliases(self) -> dict[str, str]:
        """Every alias and the artifact that it names."""
        return {name: self.resolve(name) for name in self.moves.names()}

    def resolve(self, name: str) -> str:
        """The artifact id behind an id or an alias; raises ArtifactNotFound, which lists the aliases there are."""
        if _ID.fullmatch(name):
            return self.get(name).id
        found = self.moves.get(name) if _ALIAS.fullmatch(name) else None
        if found is None:
            known = ", ".join(self.moves.names()) or "none yet"
            raise ArtifactNotFound(f"'{name}' is neither an artifact id nor an alias (aliases: {known})")
        return found

    def list(self, kind: Kind) -> list[Artifact]:
        """Finished artifacts of one kind, oldest first."""
        found = (str(path).rsplit("/", 2)[-2] for path in self.fs.glob(f"{self.root}/{kind}-*/{MANIFEST}"))
        return sorted((self.get(name) for name in found if _ID.fullmatch(name)), key=lambda a: (a.created_at, a.id))

    def half_written(self) -> dict[str, Sequence[Path]]:
        """What is being written by those that `published_for` named, or was by one that is gone, by their names."""
        found: defaultdict[str, Any] = defaultdict(list)
        if self._local and Path(self.root).is_dir():
            for entry in os.scandir(self.root):
                parts = entry.name.split(".")
                if entry.name.endswith(_PART) and len(parts) == 4:
                    found[parts[1]].append(Path(entry.path))
        return dict(found)

    def _publish_at_once(self, artifact: Artifact, folder: Path) -> None:
        """Fill a folder aside and rename it: an error on the way, as of a full disk, takes no room that stays taken."""
        owner = f"{_owner.get()}." if _owner.get() else ""
        aside = f"{self._path(artifact.id)}.{owner}{uuid.uuid4().hex}{_PART}"
        try:
            self._fill(aside, artifact, folder)
            try:
                Path(aside).rename(self._path(artifact.id))
            except OSError:
                if not self.exists(artifact.id):  # otherwise another was first, with the same content
                    raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _fill(self, place: str, artifact: Artifact, folder: Path) -> None:
        for name in artifact.files:
            target = f"{place}/{name}"
            self.fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            self._write(target, folder / name)
        self._write_json(f"{place}/{MANIFEST}", artifact.__dict__)

    def _inside(self, path: Any) -> str:
        return str(path).removeprefix(self.root).lstrip("/")

    def _path(self, artifact_id: str) -> str:
        return f"{self.root}/{artifact_id}"

    def _fetch(self, artifact: Artifact, place: Path) -> None:
        """Copy an artifact into the cache, once for all threads and processes that share it.

        Others may be reading it: what is whole stays as it is, and what is new comes to its place when it is whole.
        """
        self._cache.mkdir(parents=True, exist_ok=True)
        with place.with_name(f"{artifact.id}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with suppress(ArtifactCorrupt):
                _verify(artifact, place)
                return
            aside = place.with_name(f"{artifact.id}{_PART}")
            shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
            for name in artifact.files:
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                self.fs.get_file(f"{self._path(artifact.id)}/{name}", str(aside / name))
            _verify(artifact, aside)
            shutil.rmtree(place, ignore_errors=True)  # it is damaged, if it is there
            aside.rename(place)

    def _write(self, target: str, source: Path) -> None:
        """Write aside and move: a crash leaves a stray file, never a short one under its final name."""
        if not self._local:  # object stores make a key visible only when it is whole
            self.fs.put_file(str(source), target)
            return
        with _aside(target) as aside, source.open("rb") as file:
            shutil.copyfileobj(file, aside)

    def _write_json(self, target: str, value: Mapping[str, Any]) -> None:
        self._write_small(target, json.dumps(dict(value), indent=1, sort_keys=True).encode())

    def _write_small(self, target: str, content: bytes) -> None:
        if not self._local:
            self.fs.pipe_file(target, content)
            return
        self.fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        with _aside(target) as aside:
            aside.write(content)


def _verify(artifact: Artifact, place: Path) -> None:
    """Raise ArtifactCorrupt where a file of it is missing there, or has other bytes."""
    for name, digest in artifact.files.items():
        if not (place / name).is_file():
            raise ArtifactCorrupt(f"'{name}' of '{artifact.id}' is missing: publish the artifact again")
        if file_sha256(place / name) != digest:
            raise ArtifactCorrupt(f"'{name}' of '{artifact.id}' differs from its manifest: publish it again")


@contextmanager
def _aside(target: str) -> Iterator[BinaryIO]:
    """A file that takes its name when it is whole and on the disk; an error, as of a full disk, leaves nothing."""
    path = f"{target}.{uuid.uuid4().hex}{_PART}"
    try:
        with open(path, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(path, target)
    finally:
        with suppress(FileNotFoundError):
            Path(path).unlink()


def _stray(path: str, files: Mapping[str, Mapping[str, Any]]) -> Stray:
    newest = max(map(modified, files.values()))
    return Stray(path, sum(int(one.get("size") or 0) for one in files.values()), newest)
