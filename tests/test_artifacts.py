from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from understudy.artifacts import ArtifactStore
from understudy.errors import ArtifactCorrupt, ArtifactNotFound, Conflict, InvalidRequest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "made"
    (place / "deep").mkdir(parents=True)
    (place / "weights.bin").write_bytes(b"\x00\x01" * 1000)
    (place / "deep" / "task.json").write_text("{}")
    return place


def test_what_is_published_comes_back_byte_for_byte(store: ArtifactStore, folder: Path) -> None:
    artifact = store.publish("model", folder, {"recipe": "finetune"})
    place = store.folder(artifact.id)
    assert (place / "weights.bin").read_bytes() == (folder / "weights.bin").read_bytes()
    assert (place / "deep" / "task.json").read_text() == "{}"
    assert artifact.meta == {"recipe": "finetune"}
    assert store.get(artifact.id) == artifact


def test_the_id_is_the_content(store: ArtifactStore, folder: Path) -> None:
    first = store.publish("model", folder, {"made": "once"})
    again = store.publish("model", folder, {"made": "twice"})
    (folder / "deep" / "task.json").write_text("{ }")
    other = store.publish("model", folder)
    assert first == again
    assert other.id != first.id


def test_a_folder_without_a_manifest_does_not_exist(store: ArtifactStore, folder: Path) -> None:
    artifact = store.publish("model", folder)
    (Path(store.root) / artifact.id / "manifest.json").unlink()
    assert not store.exists(artifact.id)
    assert store.list("model") == []
    with pytest.raises(ArtifactNotFound):
        store.folder(artifact.id)
    assert store.publish("model", folder).id == artifact.id  # and it can be published again


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_files_are_refused_by_name(store: ArtifactStore, folder: Path, damage: str) -> None:
    artifact = store.publish("model", folder)
    victim = Path(store.root) / artifact.id / "weights.bin"
    if damage == "flip":
        victim.write_bytes(b"\x01" + victim.read_bytes()[1:])
    elif damage == "cut":
        victim.write_bytes(victim.read_bytes()[:-1])
    else:
        victim.unlink()
    with pytest.raises(ArtifactCorrupt, match=r"weights\.bin"):
        ArtifactStore(store.root).folder(artifact.id)


def test_a_manifest_that_points_outside_is_refused(store: ArtifactStore, folder: Path, tmp_path: Path) -> None:
    artifact = store.publish("model", folder)
    (tmp_path / "secret").write_text("x")
    manifest = Path(store.root) / artifact.id / "manifest.json"
    record = json.loads(manifest.read_text())
    record["files"] = {"../../secret": "0" * 64}
    manifest.write_text(json.dumps(record))
    with pytest.raises(ArtifactCorrupt, match="outside"):
        ArtifactStore(store.root).folder(artifact.id)


@pytest.mark.parametrize("name", ["../etc", "model-xyz", "", "model-" + "0" * 24, "a/b", "nul\x00"])
def test_names_that_are_no_artifact_are_not_found(store: ArtifactStore, name: str) -> None:
    with pytest.raises(ArtifactNotFound):
        store.resolve(name)


def test_an_alias_moves_and_the_error_lists_those_there_are(store: ArtifactStore, folder: Path) -> None:
    first = store.publish("model", folder)
    (folder / "weights.bin").write_bytes(b"new")
    second = store.publish("model", folder)
    store.set_alias("production", first.id)
    assert store.resolve("production") == first.id
    store.set_alias("production", second.id)
    assert store.aliases() == {"production": second.id}
    with pytest.raises(ArtifactNotFound, match="aliases: production"):
        store.resolve("canary")


@pytest.mark.parametrize("name", ["../up", "", "a b", "x" * 65, "-dash"])
def test_alias_names_are_checked(store: ArtifactStore, folder: Path, name: str) -> None:
    artifact = store.publish("model", folder)
    with pytest.raises(InvalidRequest) as caught:
        store.set_alias(name, artifact.id)
    assert caught.value.param == "alias"


def test_an_empty_folder_is_not_published(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidRequest, match="holds no file"):
        store.publish("report", tmp_path / "empty")


def test_a_deleted_artifact_is_gone(store: ArtifactStore, folder: Path) -> None:
    artifact = store.publish("model", folder)
    store.folder(artifact.id)
    store.delete(artifact.id)
    assert not store.exists(artifact.id)
    with pytest.raises(ArtifactNotFound):
        store.folder(artifact.id)


def test_a_remote_store_is_copied_here_and_verified(folder: Path, tmp_path: Path) -> None:
    remote = ArtifactStore("memory://bucket/artifacts", cache=tmp_path / "cache")
    artifact = remote.publish("model", folder)
    assert (remote.folder(artifact.id) / "weights.bin").read_bytes() == (folder / "weights.bin").read_bytes()
    fsspec.filesystem("memory").pipe_file(f"/bucket/artifacts/{artifact.id}/weights.bin", b"bad")
    fresh = ArtifactStore("memory://bucket/artifacts", cache=tmp_path / "cache2")
    with pytest.raises(ArtifactCorrupt):
        fresh.folder(artifact.id)


def test_one_that_others_may_be_reading_is_not_copied_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second process has the same cache; before, it removed under a reader what it then fetched anew."""
    url, cache = "memory://shared/artifacts", tmp_path / "cache"
    first = ArtifactStore(url, cache=cache)
    artifact = first.publish("dataset", folder)
    begun, goes_on, fetched = threading.Event(), threading.Event(), []
    get_file = first.fs.get_file

    def slowly(source: str, target: str) -> Any:
        assert not (cache / artifact.id).exists()
        fetched.append(Path(target).name)
        Path(target).write_bytes(b"half")
        begun.set()
        assert goes_on.wait(60)
        return get_file(source, target)

    monkeypatch.setattr(first.fs, "get_file", slowly)  # that of all stores of this file system
    with ThreadPoolExecutor(4) as threads:
        places = [threads.submit(first.folder, artifact.id)]
        assert begun.wait(60)
        places += [threads.submit(store.folder, artifact.id) for store in (first, ArtifactStore(url, cache=cache))]
        goes_on.set()
        assert {place.result(60) for place in places} == {cache / artifact.id}
    assert ArtifactStore(url, cache=cache).folder(artifact.id) == cache / artifact.id
    assert sorted(fetched) == ["task.json", "weights.bin"]
    monkeypatch.undo()
    (cache / artifact.id / "weights.bin").write_bytes(b"damaged")
    assert (ArtifactStore(url, cache=cache).folder(artifact.id) / "weights.bin").read_bytes() == b"\x00\x01" * 1000


@pytest.mark.parametrize("root", ["folder", "memory://removal/artifacts"])
def test_one_that_goes_while_somebody_says_that_he_relies_on_it_is_not_taken_for_there(
    folder: Path, tmp_path: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "artifacts") if root == "folder" else root
    store, other = ArtifactStore(place, cache=tmp_path / "cache"), ArtifactStore(place, cache=tmp_path / "cache")
    artifact = store.publish("model", folder)
    note, times = store._write_small, iter([1])

    def after_it_went(target: str, content: bytes) -> None:
        if "/used/" in target and next(times, None):
            other.delete(artifact.id)
        note(target, content)

    monkeypatch.setattr(store, "_write_small", after_it_went)
    assert not store.use(artifact.id)
    store.publish("model", folder)
    assert store.use(store.publish("model", folder).id)
    assert (store.folder(artifact.id) / "weights.bin").is_file()


@pytest.mark.parametrize("root", ["folder", "memory://checked/artifacts"])
def test_a_deletion_that_somebody_objects_to_at_its_last_moment_does_not_happen(
    folder: Path, tmp_path: Path, root: str
) -> None:
    store = ArtifactStore(str(tmp_path / "artifacts") if root == "folder" else root, cache=tmp_path / "cache")
    artifact = store.publish("model", folder)

    def object_to_it() -> None:
        assert not store.exists(artifact.id)
        raise Conflict("a file holds it")

    with pytest.raises(Conflict):
        store.delete(artifact.id, object_to_it)
    assert (store.folder(artifact.id) / "weights.bin").is_file()
    store.delete(artifact.id)
    assert not store.exists(artifact.id)
