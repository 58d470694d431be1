"""One model, in a plain script as it were: found, measured, loaded, asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from services.teacher.engine import Engine
from services.teacher.settings import Settings
from understudy.artifacts import ArtifactStore
from understudy.errors import ModelError, ModelNotFound
from understudy.models.base import Adapter
from understudy.models.text import Encoded
from understudy.schemas import PredictionInput
from understudy.testing import SENTENCES, tiny_classifier

MakeSettings = Callable[..., Settings]


@pytest.mark.parametrize("ref", ["writer", "/etc", "models/../../etc", "org/models/../x", "allowed/../writer", ""])
def test_only_references_that_are_allowed_are_offered(settings: MakeSettings, ref: str) -> None:
    engine = Engine(settings(allowed_models=("classifier", "allowed/*")))
    engine.permit("classifier")
    with pytest.raises(ModelNotFound, match="matches one of classifier, allowed/") as caught:
        engine.permit(ref)
    assert caught.value.param == "model"


def test_an_alias_and_its_artifact_are_one_place(settings: MakeSettings, published: ArtifactStore) -> None:
    engine = Engine(settings())
    assert engine.find("classifier") == engine.find(published.resolve("classifier"))
    assert engine.find("classifier") != engine.find("writer")


def test_a_folder_that_was_written_to_is_another_place(settings: MakeSettings, folder: Path) -> None:
    engine = Engine(settings())
    before = engine.find(str(folder))
    assert engine.find(str(folder)) == before
    tiny_classifier(folder, seed=1)
    assert engine.find(str(folder)) != before


@pytest.mark.parametrize("ref", ["classifier", "writer", "decoder"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_is_measured_before_it_is_loaded(settings: MakeSettings, ref: str, precision: str) -> None:
    engine = Engine(settings(precision=precision))
    place = engine.find(ref)
    model = engine.load(place)
    assert model.bytes == sum(p.numel() for p in model.adapter.model.parameters()) * (
        4 if precision == "float32" else 2
    )
    assert engine.size(place) == pytest.approx(model.bytes, rel=0.1)  # buffers are in the file, and tied weights once
    assert model.info.precision == precision


def test_numbered_parts_are_measured_together(settings: MakeSettings, folder: Path) -> None:
    engine = Engine(settings())
    whole = engine.size(engine.find(str(folder)))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    data = (folder / "model-00001-of-00002.safetensors").read_bytes()
    (folder / "model-00002-of-00002.safetensors").write_bytes(data)
    assert whole is not None
    assert engine.size(engine.find(str(folder))) == 2 * whole


def test_weights_that_can_hold_code_are_never_read(settings: MakeSettings, folder: Path) -> None:
    engine = Engine(settings())
    weights = {"w": torch.zeros(1)}
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"model\.safetensors or its numbered parts"):
        engine.size(engine.find(str(folder)))
    with pytest.raises(ModelNotFound, match=r"model\.safetensors"):
        engine.load(engine.find(str(folder)))


def test_code_that_comes_with_a_model_is_never_run(settings: MakeSettings, folder: Path, tmp_path: Path) -> None:
    engine = Engine(settings())
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModel": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(ModelError, match="cannot be used"):
        engine.load(engine.find(str(folder)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x02\x00\x00\x00\x00\x00\x00\x00[]", b"\x00" * 8])
def test_a_file_that_is_no_safetensors_file_is_named(settings: MakeSettings, folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    engine = Engine(settings())
    with pytest.raises(ModelError, match="is no safetensors file"):
        engine.size(engine.find(str(folder)))


def test_lengths_are_those_of_the_batches(settings: MakeSettings) -> None:
    engine = Engine(settings())
    model = engine.load(engine.find("writer"))
    framed = model.adapter.with_template("Review: {input}")
    assert model.lengths(SENTENCES, "Review: {input}") == framed.lengths(SENTENCES)
    assert model.lengths(SENTENCES, None) == model.adapter.lengths(SENTENCES)


def test_a_cut_text_is_reported(settings: MakeSettings) -> None:
    engine = Engine(settings())
    model = engine.load(engine.find("classifier"))
    inputs = [PredictionInput(input="dull film " * 100), PredictionInput(input="fine")]
    cut, whole = engine.answer(model, None, None, inputs)
    assert cut.truncated > 0
    assert whole.truncated == 0


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_ARTIFACTS", "/srv/artifacts")
    monkeypatch.setenv("UNDERSTUDY_TEACHER_MODEL", "best")
    monkeypatch.setenv("UNDERSTUDY_TEACHER_ALLOWED_MODELS", "model-*, best")
    found = Settings()
    assert (found.artifacts, found.model, found.allowed_models) == ("/srv/artifacts", "best", ("model-*", "best"))
    monkeypatch.setenv("UNDERSTUDY_TEACHER_ALLOWED_MODELS", '["a"]')
    monkeypatch.setenv("UNDERSTUDY_TEACHER_ARTIFACTS", "/srv/own")
    assert (Settings().allowed_models, Settings().artifacts) == (("a",), "/srv/own")
    monkeypatch.setenv("UNDERSTUDY_TEACHER_MAX_MODELS", "0")
    with pytest.raises(ValidationError, match="max_models"):
        Settings()


def test_keys_come_from_the_environment_and_from_a_file_and_are_never_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("sk-two\n\n  sk-three \n")
    monkeypatch.setenv("UNDERSTUDY_TEACHER_API_KEYS", "sk-one")
    monkeypatch.setenv("UNDERSTUDY_TEACHER_API_KEYS_FILE", str(tmp_path / "keys"))
    found = Settings()
    assert found.keys == ("sk-one", "sk-two", "sk-three")
    assert "sk-one" not in repr(found)


@pytest.mark.parametrize("ref", ["classifier", "writer", "decoder"])
def test_a_template_that_leaves_no_room_is_found_out_by_one_text(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, ref: str
) -> None:
    engine = Engine(settings())
    model = engine.load(engine.find(ref))
    kind = type(model.adapter)
    tokenized: list[int] = []
    tokenize = kind.tokenize

    def counted(adapter: Adapter, texts: Sequence[str]) -> list[Encoded]:
        tokenized.append(len(texts))
        return tokenize(adapter, texts)

    monkeypatch.setattr(kind, "tokenize", counted)
    with pytest.raises(ModelError, match="shorten the template"):
        model.lengths(SENTENCES, "word " * 500 + "{input}")
    assert tokenized == [1]


def test_an_answer_says_where_it_broke_off_and_the_model_how_much_it_writes(settings: MakeSettings) -> None:
    engine = Engine(settings())
    model = engine.load(engine.find("writer"))
    assert model.info.answer_tokens == model.adapter.longest_answer
    (found,) = engine.answer(model, None, None, [PredictionInput(input=SENTENCES[0])])
    assert found.unfinished is model.adapter.answers(SENTENCES[:1])[0].unfinished is True
    (chosen,) = engine.answer(model, ["rain", "sun"], None, [PredictionInput(input=SENTENCES[0])])
    assert chosen.unfinished is False
    assert engine.load(engine.find("classifier")).info.answer_tokens is None
