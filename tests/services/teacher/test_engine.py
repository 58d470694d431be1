"""The engine alone, in a plain script as it were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.teacher.engine import Engine
from services.teacher.settings import Settings
from understudy.artifacts import ArtifactStore
from understudy.errors import InvalidRequest, ModelError, ModelNotFound, PayloadTooLarge
from understudy.schemas import AttributionExample, AttributionRequest, PredictionRequest
from understudy.testing import LABELS, SENTENCES, tiny_classifier

MakeSettings = Callable[..., Settings]


def ids(engine: Engine) -> list[str]:
    return [model.id.split("-")[0] if model.id.startswith("model-") else model.id for model in engine.loaded()]


def test_models_asked_longest_ago_make_room(settings: MakeSettings, published: ArtifactStore) -> None:
    engine = Engine(settings(max_models=2))
    names = {published.resolve(alias): alias for alias in ("classifier", "writer", "decoder")}
    seen = []
    for ref in ("classifier", "writer", "classifier", "decoder", "writer"):
        engine.info(ref)
        seen.append([names[model.id] for model in engine.loaded()])
    assert seen == [
        ["classifier"],
        ["classifier", "writer"],
        ["writer", "classifier"],
        ["classifier", "decoder"],
        ["decoder", "writer"],
    ]


def test_one_model_under_two_names_is_loaded_once(settings: MakeSettings, published: ArtifactStore) -> None:
    engine = Engine(settings())
    one, other = engine.info("classifier"), engine.info(published.resolve("classifier"))
    assert len(engine.loaded()) == 1
    assert one.fingerprint == other.fingerprint
    assert one.id == "classifier"


def test_an_alias_that_moved_is_loaded_anew(tmp_path: Path, settings: MakeSettings) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    engine = Engine(settings(artifacts=str(tmp_path / "artifacts")))
    prints = []
    for seed in (0, 1):
        store.set_alias("best", store.publish("model", tiny_classifier(tmp_path / str(seed), seed=seed)).id)
        prints.append(engine.info("best").fingerprint)
    assert prints[0] != prints[1]


def test_a_folder_that_was_trained_again_is_loaded_anew(tmp_path: Path, settings: MakeSettings) -> None:
    engine = Engine(settings())
    folder = tmp_path / "mine"
    prints = [engine.info(str(tiny_classifier(folder, seed=seed))).fingerprint for seed in (0, 1)]
    assert prints[0] != prints[1]
    assert len(engine.loaded()) == 1
    kept = engine._models[str(folder)]
    engine.info(str(folder))
    assert engine._models[str(folder)] is kept


@pytest.mark.parametrize("ref", ["writer", "/etc", "models/../../etc", "org/models/../x", "allowed/../writer", ""])
def test_only_references_that_are_allowed_are_loaded(settings: MakeSettings, ref: str) -> None:
    engine = Engine(settings(allowed_models=("classifier", "allowed/*")))
    engine.info("classifier")
    with pytest.raises(ModelNotFound, match="matches one of classifier, allowed/") as caught:
        engine.info(ref)
    assert caught.value.param == "model"


def test_a_request_may_bring_its_own_template_and_labels(settings: MakeSettings) -> None:
    engine = Engine(settings(model="writer"))
    example = AttributionExample(input=SENTENCES[0], output="positive")
    plain = engine.attribute(AttributionRequest(examples=(example,), target="gold"))
    framed = engine.attribute(
        AttributionRequest(examples=(example,), target="gold", labels=LABELS, template="Review: {input} Good?")
    )
    assert plain.results[0].probabilities is None
    assert set(framed.results[0].probabilities or ()) == set(LABELS)
    assert framed.results[0].tokens > plain.results[0].tokens
    assert [word.text for word in framed.results[0].words] == [word.text for word in plain.results[0].words]
    assert framed.fingerprint == plain.fingerprint


def test_predictions_are_those_of_attributions(settings: MakeSettings) -> None:
    engine = Engine(settings())
    examples = tuple(AttributionExample(id=str(i), input=text) for i, text in enumerate(SENTENCES))
    explained = engine.attribute(AttributionRequest(examples=examples, target="predicted", top_k=3))
    inputs = tuple({"id": one.id, "input": one.input} for one in examples)
    with_words = engine.predict(PredictionRequest(inputs=inputs, top_k=3))
    without = engine.predict(PredictionRequest(inputs=inputs, explain=False))
    assert (with_words.reasons, without.reasons) == ("saliency", None)
    for one, two, three in zip(explained.results, with_words.predictions, without.predictions, strict=True):
        assert one.id == two.id == three.id
        assert one.prediction == two.label == three.label
        assert one.probability == pytest.approx(two.probability) == pytest.approx(three.probability)
        assert one.rationale == two.words
        assert three.words is None


def test_inputs_may_be_plain_texts(settings: MakeSettings) -> None:
    found = Engine(settings()).predict(PredictionRequest(inputs=(SENTENCES[0], {"input": SENTENCES[1]})))
    assert [one.id for one in found.predictions] == [None, None]
    assert all(one.words for one in found.predictions)


def test_a_cut_text_is_reported_with_and_without_reasons(settings: MakeSettings) -> None:
    engine = Engine(settings())
    for explain in (True, False):
        found = engine.predict(PredictionRequest(inputs=("dull film " * 100, "fine"), explain=explain))
        assert found.predictions[0].truncated > 0
        assert found.predictions[1].truncated == 0


def test_more_tokens_than_a_request_may_have_are_refused(settings: MakeSettings) -> None:
    engine = Engine(settings(max_request_tokens=50))
    with pytest.raises(PayloadTooLarge, match="at most 50 in one request") as caught:
        engine.attribute(AttributionRequest(examples=tuple(AttributionExample(input=text) for text in SENTENCES)))
    assert caught.value.param == "examples"
    with pytest.raises(PayloadTooLarge) as caught:
        engine.predict(PredictionRequest(inputs=SENTENCES, explain=False))
    assert caught.value.param == "inputs"


def test_more_candidates_than_a_request_may_have_are_refused(settings: MakeSettings) -> None:
    engine = Engine(settings(max_candidates=3))
    many = ("a", "b", "c", "d")
    with pytest.raises(PayloadTooLarge) as caught:
        engine.check(PredictionRequest(inputs=("x",), labels=many))
    assert caught.value.param == "labels"
    with pytest.raises(PayloadTooLarge) as caught:
        engine.check(AttributionRequest(examples=(AttributionExample(input="x", choices=many),)))
    assert caught.value.param == "examples[0].choices"


def test_an_answer_named_twice_is_refused(settings: MakeSettings) -> None:
    with pytest.raises(InvalidRequest, match="same answer twice") as caught:
        Engine(settings()).check(PredictionRequest(inputs=({"input": "x", "choices": ("a", "a")},)))
    assert caught.value.param == "inputs[0].choices"


def test_a_classifier_names_its_labels_when_it_has_not_the_ones_asked_for(settings: MakeSettings) -> None:
    with pytest.raises(ModelError, match="it has negative, neutral, positive"):
        Engine(settings()).predict(PredictionRequest(inputs=("x",), labels=("good", "bad")))


@pytest.mark.parametrize("ref", ["classifier", "writer", "decoder"])
def test_warming_up_works_for_every_architecture(settings: MakeSettings, ref: str) -> None:
    engine = Engine(settings())
    engine.warm(ref)
    assert len(engine.loaded()) == 1


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
