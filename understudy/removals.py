"""Removal of artifacts in two steps, so that it can be taken back until its end.

`set_aside` makes an artifact disappear at once and whole; `purge` or `put_back` ends that. What was cut off in between
is found again, and ended by the next who removes something. Knows nothing of who needs an artifact, nor of its content.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["MANIFEST", "USED", "Removals", "modified"]

MANIFEST = "manifest.json"
USED, _REMOVED, _LOCK = "used", "removed", "lock"
REMOVAL_SECONDS = 60.0
"""How long a removal on an object store may take. Who publishes the same content meanwhile waits for its end."""


class Removals:
    """Those below one root of an fsspec file system.

    `cache` is where artifacts of an object store are copied to, None for a local file system; `forget` is told each
    artifact that goes.
    """

    def __init__(self, fs: Any, root: str, cache: Path | None, forget: Callable[[str], None]) -> None:
        self.fs, self.root = fs, root
        self._cache, self._local = cache, cache is None
        self._forget = forget

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else on this file system removes anything meanwhile; object stores have no locks."""
        if not self._local:
            yield
            return
        place = Path(self.root) / _REMOVED
        place.mkdir(parents=True, exist_ok=True)
        with (place / _LOCK).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def set_aside(self, artifact_id: str) -> bool:
        """Make an artifact disappear, at once and so that it can be put back; False where there is none.

        Within `alone`. A file system renames its folder; on an object store its manifest moves, and its files stay.
        """
        self._forget(artifact_id)
        if self._local:
            if not Path(self._path(artifact_id), MANIFEST).exists():
                return False
            shutil.rmtree(
                self._aside(artifact_id), ignore_errors=True
            )  # of a removal that was cut off: ours is the lock
            Path(self._path(artifact_id)).rename(self._aside(artifact_id))
            return True
        try:
            manifest = self.fs.cat_file(f"{self._path(artifact_id)}/{MANIFEST}")
        except FileNotFoundError:
            return False
        self.fs.pipe_file(f"{self._aside(artifact_id)}/{MANIFEST}", manifest)
        self.fs.rm_file(f"{self._path(artifact_id)}/{MANIFEST}")
        return True

    def put_back(self, artifact_id: str) -> None:
        """Let what was set aside be there again; where somebody has published it anew, that stays."""
        aside = self._aside(artifact_id)
        if self._local:
            with suppress(OSError):  # it is there again
                Path(aside).rename(self._path(artifact_id))
            shutil.rmtree(aside, ignore_errors=True)
            return
        self.fs.pipe_file(f"{self._path(artifact_id)}/{MANIFEST}", self.fs.cat_file(f"{aside}/{MANIFEST}"))
        self.fs.rm_file(f"{aside}/{MANIFEST}")

    def purge(self, artifact_id: str) -> None:
        """Remove for good what was set aside. Cut off in between, it is done again from its beginning."""
        aside = self._aside(artifact_id)
        if self._cache is None:
            Path(aside, MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(aside)
        else:
            for name in json.loads(self.fs.cat_file(f"{aside}/{MANIFEST}"))["files"]:
                with suppress(FileNotFoundError):
                    self.fs.rm_file(f"{self._path(artifact_id)}/{name}")
            self.fs.rm_file(f"{aside}/{MANIFEST}")
            shutil.rmtree(self._cache / artifact_id, ignore_errors=True)
        with suppress(FileNotFoundError):
            self.fs.rm_file(f"{self.root}/{USED}/{artifact_id}")

    def cut_off(self) -> list[str]:
        """What was set aside and neither put back nor purged, by those whose time for it is over. Within `alone`."""
        place = f"{self.root}/{_REMOVED}"
        self.fs.invalidate_cache(place)
        found = set()
        for path, facts in self.fs.find(place, detail=True, withdirs=self._local).items():
            name = str(path).removeprefix(place).lstrip("/").split("/")[0]
            late = self._local or time.time() - modified(facts) > REMOVAL_SECONDS
            if name and name != _LOCK and late:
                found.add(name)
        return sorted(found)

    def is_whole(self, artifact_id: str) -> bool:
        """Whether all files of what was set aside are still there, so that it can be put back."""
        aside = self._aside(artifact_id)
        try:
            files = json.loads(self.fs.cat_file(f"{aside}/{MANIFEST}"))["files"]
        except (FileNotFoundError, ValueError):
            return False
        return all(self.fs.exists(f"{aside if self._local else self._path(artifact_id)}/{name}") for name in files)

    def wait_for_end(self, artifact_id: str) -> None:
        """On an object store the files of an artifact go one by one: what is published anew must not be among them."""
        record = f"{self._aside(artifact_id)}/{MANIFEST}"
        until = time.monotonic() + REMOVAL_SECONDS
        while not self._local and time.monotonic() < until:
            self.fs.invalidate_cache(record.rsplit("/", 1)[0])
            if not self.fs.exists(record):
                return
            time.sleep(0.2)

    def _path(self, artifact_id: str) -> str:
        return f"{self.root}/{artifact_id}"

    def _aside(self, artifact_id: str) -> str:
        return f"{self.root}/{_REMOVED}/{artifact_id}"


def modified(facts: Mapping[str, Any]) -> float:
    """When a file was written, as the file systems of fsspec say it; now where they do not."""
    for name in ("mtime", "LastModified", "last_modified", "created"):
        value = facts.get(name)
        if value is not None:
            return float(value.timestamp() if hasattr(value, "timestamp") else value)
    return time.time()
