"""Every engine obeys one contract, whatever its architecture and wherever its reasons come from."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from understudy.errors import InvalidRequest, ModelError, ModelNotFound, UnknownName
from understudy.models.base import Written
from understudy.models.forms import Form
from understudy.models.load import load_adapter
from understudy.schemas import PredictionInput
from understudy.serving.hf import HFEngine
from understudy.testing import LABELS, SENTENCES, tiny_classifier, tiny_seq2seq

Get = Callable[[str], HFEngine]
FORMS = ("label_then_rationale", "rationale_then_label")
ENGINES = ("gate", "mean", "hub", "written", "choice", "decoder", "gated", *FORMS)
TORTURE = (
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 a family \U0001f1e9\U0001f1ea flag",
    "e\u0301clair cafe\u0301 \ufb01ne \u2168 \uff34\uff25\uff38\uff34",
    "नमस्ते दुनिया",
    "שלום \u202eevil\u202c עולם",
    "漢字とかな 한국어",
    "zero\u200bwidth\ufeff joiner \u00ad soft",
    "a\x00b\x07c\r\n\td",
    "...!!! --- ???",
    "x" * 5000,
    "word " * 3000,
    "İstanbul ſtraße ŉ",
    "[PAD] [SEP] [CLS] </s> <pad> <unk>",
)


def rows(engine: HFEngine, texts: tuple[str, ...] = SENTENCES) -> list[PredictionInput]:
    choices = ("good", "bad thing", "neither") if engine.adapter.task.kind == "choice" else None
    return [PredictionInput(id=str(i), input=text, choices=choices) for i, text in enumerate(texts)]


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("explain", [True, False])
def test_answers_come_in_order_with_probabilities_over_the_candidates(engine: Get, name: str, explain: bool) -> None:
    model = engine(name)
    inputs = rows(model)
    found = model.predict(inputs, explain=explain, top_k=3)
    assert [prediction.id for prediction in found] == [row.id for row in inputs]
    for prediction in found:
        assert prediction.probabilities is not None
        assert set(prediction.probabilities) == set(inputs[0].choices or model.adapter.task.labels)
        assert math.isclose(sum(prediction.probabilities.values()), 1, abs_tol=1e-9)
        assert prediction.probability == prediction.probabilities[prediction.label]
        assert prediction.probability == max(prediction.probabilities.values())
        assert (prediction.words is not None) == explain


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("explain", [True, False])
def test_an_answer_does_not_depend_on_what_it_shares_a_batch_with(engine: Get, name: str, explain: bool) -> None:
    model = engine(name)
    inputs = rows(model, SENTENCES + TORTURE)
    random.shuffle(inputs)
    together = model.predict(inputs, explain=explain, top_k=4)
    for row, batched in zip(inputs, together, strict=True):
        (alone,) = model.predict([row], explain=explain, top_k=4)
        assert alone.probabilities == pytest.approx(batched.probabilities, rel=1e-4)
        assert (alone.label, alone.truncated, alone.id) == (batched.label, batched.truncated, batched.id)
        assert [word.text for word in alone.words or ()] == [word.text for word in batched.words or ()]


@pytest.mark.parametrize("name", ENGINES)
def test_asking_for_reasons_does_not_change_the_answer(engine: Get, name: str) -> None:
    model = engine(name)
    inputs = rows(model)
    plain = model.predict(inputs, explain=False, top_k=1)
    explained = model.predict(inputs, explain=True, top_k=1)
    for one, other in zip(plain, explained, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, rel=1e-5)


@pytest.mark.parametrize("name", [*ENGINES, "open"])
@pytest.mark.parametrize("text", TORTURE, ids=ascii)
def test_words_are_spans_of_the_input_to_the_character(engine: Get, name: str, text: str) -> None:
    model = engine(name)
    (found,) = model.predict(rows(model, (text,)), explain=True, top_k=7)
    assert found.words is not None
    assert len(found.words) <= 7
    assert [word.start for word in found.words] == sorted({word.start for word in found.words})
    for word in found.words:
        assert text[word.start : word.end] == word.text
        assert math.isfinite(word.score)


@pytest.mark.parametrize("name", ["gate", "mean", "hub", "choice", "decoder", "gated"])
@pytest.mark.parametrize("top_k", [1, 3, 100])
def test_as_many_words_as_asked_for_or_as_there_are(engine: Get, name: str, top_k: int) -> None:
    model = engine(name)
    (found,) = model.predict(rows(model, ("one two three four",)), explain=True, top_k=top_k)
    assert len(found.words or ()) == min(top_k, 4)


@pytest.mark.parametrize("name", ENGINES)
def test_a_text_past_the_window_is_cut_counted_and_still_answered(engine: Get, name: str) -> None:
    model = engine(name)
    long, short = model.predict(rows(model, ("word " * 500, "word")), explain=True, top_k=100)
    assert long.truncated > 400
    assert short.truncated == 0
    assert all(word.end <= 5 * model.adapter.max_tokens for word in long.words or ())


@pytest.mark.parametrize("name", ["gate", "gated"])
def test_a_gate_names_the_words_that_it_opens_for(engine: Get, name: str) -> None:
    """The scores are the gate's own probabilities: the mean over a word's pieces, computed here by hand."""
    model = engine(name)
    text = SENTENCES[3]
    (found,) = model.predict(rows(model, (text,)), explain=True, top_k=100)
    batch = model.adapter.encode([text], [LABELS[0]])
    with torch.no_grad():
        reader = model.adapter.model if name == "gate" else model.adapter.model.get_encoder()
        gates = reader(input_ids=batch.ids, attention_mask=batch.mask).gate_logits.sigmoid()[0]
    assert len({word.score for word in found.words or ()}) > 1
    for word in found.words or ():
        inside = [
            float(gate)
            for gate, span in zip(gates, batch.offsets[0], strict=True)
            if span is not None and word.start <= span[0] < word.end
        ]
        assert word.score == pytest.approx(sum(inside) / len(inside), rel=1e-5)


def test_a_gate_takes_one_forward_pass(engine: Get) -> None:
    model = engine("gate")
    passes: list[int] = []
    hook = model.adapter.model.register_forward_hook(lambda *_: passes.append(1))
    model.predict(rows(model), explain=True, top_k=3)
    hook.remove()
    assert len(passes) == 1


def test_written_words_that_are_not_in_the_input_are_dropped_and_counted(engine: Get) -> None:
    model = engine("written")
    found = model.predict(rows(model), explain=True, top_k=100)
    assert any(prediction.dropped_words for prediction in found)
    assert model.reasons == "generated"


@pytest.mark.parametrize(("top_k", "dropped"), [(3, 0), (5, 0), (6, 1)])
def test_a_student_that_writes_much_names_the_first_and_loses_none_that_comes_later(
    engine: Get, top_k: int, dropped: int
) -> None:
    model = copy.copy(engine("written"))
    model.adapter = copy.copy(model.adapter)
    model.adapter.generate = lambda texts, **_: [Written("thin but the acting is nowhere", 0.5)] * len(texts)
    (found,) = model.predict(rows(model, SENTENCES[:1]), explain=True, top_k=top_k)
    assert [word.text for word in found.words or ()] == ["thin", "but", "the", "acting", "is"][:top_k]
    assert found.dropped_words == dropped
    assert {word.score for word in found.words or ()} == {0.5}


@pytest.mark.parametrize("form", FORMS)
def test_words_come_from_the_text_that_has_the_label(engine: Get, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the label that was chosen, or before it; written once, and asked for in no other template."""
    model = engine(form)
    asked: list[tuple[int, list[str] | None]] = []
    label_first = form == "label_then_rationale"

    def write(encoded: Sequence[object], *_: object, begun: list[str] | None = None) -> list[Written]:
        asked.append((len(encoded), begun))
        text = "plot nowhere acting" if label_first else "plot nowhere acting answer: odd"
        return [Written(text, 0.5)] * len(encoded)

    monkeypatch.setattr(model.adapter, "write", write)
    found = model.predict(rows(model, SENTENCES[:2]), explain=True, top_k=3)
    assert asked == [(2, [f"{one.label} because:" for one in found] if label_first else None)]
    assert [word.text for word in found[0].words or ()] == ["plot", "acting"]
    assert [word.score for word in found[0].words or ()] == [0.5, 0.5]
    assert found[0].dropped_words == 1
    assert {one.label for one in found} <= {"negative", "positive"}


def test_an_open_task_writes_its_answer(engine: Get) -> None:
    model = engine("open")
    found = model.predict(rows(model), explain=False, top_k=1)
    assert all(prediction.probabilities is None for prediction in found)
    assert all(0 < prediction.probability <= 1 for prediction in found)
    assert any(prediction.label for prediction in found)


# --- labels, choices, templates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gate", "mean", "hub"])
@pytest.mark.parametrize("explain", [True, False])
def test_labels_and_choices_narrow_a_classifier(engine: Get, name: str, explain: bool) -> None:
    model = engine(name)
    plain, choosy = PredictionInput(input="a"), PredictionInput(input="a", choices=("positive", "neutral"))
    (one,) = model.predict([plain], explain=explain, top_k=1, labels=("negative", "positive"))
    whole, other = model.predict([plain, choosy], explain=explain, top_k=1)
    assert set(one.probabilities or ()) == {"negative", "positive"}
    assert list(other.probabilities or ()) == ["positive", "neutral"]
    odds = whole.probabilities or {}
    assert (other.probabilities or {})["positive"] == pytest.approx(
        odds["positive"] / (odds["positive"] + odds["neutral"]), rel=1e-4
    )


def test_each_row_has_its_own_choices(engine: Get) -> None:
    model = engine("choice")
    inputs = [PredictionInput(input="a", choices=(f"x{i}", f"y{i}")) for i in range(5)]
    for explain in (True, False):
        found = model.predict(inputs, explain=explain, top_k=2)
        assert [set(prediction.probabilities or ()) for prediction in found] == [{f"x{i}", f"y{i}"} for i in range(5)]


def test_a_choice_that_is_no_class_is_named(engine: Get) -> None:
    inputs = [PredictionInput(input="a"), PredictionInput(input="a", choices=("positive", "postive"))]
    with pytest.raises(UnknownName, match="Did you mean 'positive'") as caught:
        engine("gate").predict(inputs, explain=True, top_k=1)
    assert caught.value.param == "inputs[1].choices"


def test_a_choice_task_without_choices_is_named(engine: Get) -> None:
    inputs = [PredictionInput(input="a", choices=("b", "c")), PredictionInput(input="a")]
    with pytest.raises(InvalidRequest) as caught:
        engine("choice").predict(inputs, explain=False, top_k=1)
    assert caught.value.param == "inputs[1].choices"


def test_a_blank_input_is_named(engine: Get) -> None:
    with pytest.raises(InvalidRequest) as caught:
        engine("mean").predict([PredictionInput(input="a"), PredictionInput(input=" \n")], explain=False, top_k=1)
    assert caught.value.param == "inputs[1]"


@pytest.mark.parametrize("template", ["", "no place", "{input} {input}"])
def test_a_template_without_one_place_for_the_input_is_named(engine: Get, template: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        engine("mean").predict(rows(engine("mean")), explain=False, top_k=1, template=template)
    assert caught.value.param == "template"


def test_another_template_is_another_question_for_this_call_only(engine: Get) -> None:
    model = engine("mean")
    before = model.predict(rows(model), explain=True, top_k=2)
    other = model.predict(rows(model), explain=True, top_k=2, template="wonderful music: {input}")
    assert [p.probabilities for p in other] != [p.probabilities for p in before]
    assert model.predict(rows(model), explain=True, top_k=2) == before
    for row, prediction in zip(rows(model), other, strict=True):
        assert all(row.input[word.start : word.end] == word.text for word in prediction.words or ())


def test_nothing_in_nothing_out(engine: Get) -> None:
    assert engine("gate").predict([], explain=True, top_k=1) == []


# --- loading -------------------------------------------------------------------------------------------------------


def test_the_info_describes_the_model(engine: Get) -> None:
    info = engine("gate").info()
    assert (info.id, info.architecture, info.precision, info.device) == ("gate", "classifier", "float32", "cpu")
    assert info.parameters == sum(p.numel() for p in engine("gate").adapter.model.parameters())
    assert info.task is not None
    assert info.task.labels == LABELS


def test_a_folder_loaded_twice_gives_equal_answers(tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "model", pooling="gate")
    one, other = HFEngine.load(folder), HFEngine.load(folder)
    assert one.predict(rows(one), explain=True, top_k=3) == other.predict(rows(other), explain=True, top_k=3)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        HFEngine.load(tmp_path)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), ModelNotFound),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x08" * 64), ModelError),
        (lambda folder: (folder / "task.json").write_text("{}}"), ModelError),
        (lambda folder: (folder / "card.json").write_text("[]"), ModelError),
    ],
    ids=["no-weights", "broken-weights", "broken-task", "broken-card"],
)
def test_a_damaged_folder_is_refused_at_load(
    tmp_path: Path, damage: Callable[[Path], object], error: type[Exception]
) -> None:
    folder = tiny_classifier(tmp_path / "model")
    damage(folder)
    with pytest.raises(error):
        HFEngine.load(folder)


@pytest.mark.parametrize("pooling", ["gate", "mean"])
def test_a_model_whose_numbers_are_not_finite_is_refused_at_load(
    tmp_path: Path, pooling: Literal["gate", "mean"]
) -> None:
    folder = tiny_classifier(tmp_path / "model", pooling=pooling)
    weights = load_file(folder / "model.safetensors")
    save_file({k: v.fill_(float("nan")) for k, v in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="not finite"):
        HFEngine.load(folder)


@pytest.mark.parametrize(
    ("card", "complaint"), [({"reasons": "gate"}, "has none"), ({"reasons": "generated"}, "no template")]
)
def test_a_card_that_promises_what_the_model_has_not_is_refused_at_load(
    tmp_path: Path, card: dict[str, str], complaint: str
) -> None:
    folder = tiny_classifier(tmp_path / "model")
    said = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(said | card))
    with pytest.raises(ModelError, match=complaint):
        HFEngine.load(folder)


def test_a_folder_without_a_card_explains_by_saliency(tmp_path: Path) -> None:
    folder = tiny_seq2seq(tmp_path / "model")
    (folder / "card.json").unlink()
    assert HFEngine.load(folder).reasons == "saliency"


def test_the_engine_answers_as_the_adapter_does(tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "model", pooling="gate")
    adapter = load_adapter(str(folder))
    answers = adapter.answers(SENTENCES)
    found = HFEngine.load(folder).predict([PredictionInput(input=text) for text in SENTENCES], explain=True, top_k=1)
    for one, other in zip(answers, found, strict=True):
        assert one.text == other.label
        assert one.probabilities == pytest.approx(other.probabilities, rel=1e-5)
