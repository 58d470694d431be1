"""Removal in two steps: what is set aside is gone for all, and comes back or goes for good."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.artifacts import ArtifactStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "made"
    place.mkdir()
    (place / "weights.bin").write_bytes(b"\x00\x01" * 1000)
    return place


@pytest.mark.parametrize("root", ["folder", "memory://aside/artifacts"])
def test_what_is_set_aside_is_gone_at_once_and_can_be_put_back(folder: Path, tmp_path: Path, root: str) -> None:
    store = ArtifactStore(str(tmp_path / "artifacts") if root == "folder" else root, cache=tmp_path / "cache")
    artifact = store.publish("model", folder)
    with store.removals.alone():
        assert store.removals.set_aside(artifact.id)
        assert not store.exists(artifact.id)
        assert not store.removals.set_aside(artifact.id)
        assert store.removals.is_whole(artifact.id)
        store.removals.put_back(artifact.id)
    assert (store.folder(artifact.id) / "weights.bin").is_file()
    assert store.get(artifact.id) == artifact
    with store.removals.alone():
        assert store.removals.set_aside(artifact.id)
        store.removals.purge(artifact.id)
        assert not store.removals.is_whole(artifact.id)
    assert [name for name in store.fs.find(store.root) if not name.endswith("lock")] == []


@pytest.mark.parametrize("root", ["folder", "memory://cut/artifacts"])
def test_a_removal_that_was_cut_off_is_found_again_when_its_time_is_over(
    folder: Path, tmp_path: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(str(tmp_path / "artifacts") if root == "folder" else root, cache=tmp_path / "cache")
    artifact = store.publish("model", folder)
    with store.removals.alone():
        assert store.removals.cut_off() == []
        store.removals.set_aside(artifact.id)
        at_work = [] if root != "folder" else [artifact.id]  # on a file system the lock tells that nobody is
        assert store.removals.cut_off() == at_work
        monkeypatch.setattr("understudy.removals.REMOVAL_SECONDS", -1.0)
        assert store.removals.cut_off() == [artifact.id]
        store.removals.purge(artifact.id)
        assert store.removals.cut_off() == []
