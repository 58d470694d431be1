"""What a request is taken to cost."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from services.teacher.limits import Reading, answer_work, work
from understudy.attribution.methods import make_method
from understudy.schemas import AttributionExample, AttributionOptions, ModelInfo, PredictionInput, TaskSpec

TEXT = "four words, of text"
LABELS = tuple(f"answer {number}" for number in range(10, 60))

Architecture = Literal["classifier", "seq2seq", "causal"]


def reading(architecture: Architecture, labels: tuple[str, ...] = (), shared: int = 2048) -> Reading:
    """A model that writes 20 tokens, and takes one for every three letters of an answer."""
    info = ModelInfo(
        id="m",
        architecture=architecture,
        parameters=1,
        max_tokens=10,
        answer_tokens=None if architecture == "classifier" else 20,
        fingerprint="f",
        precision="float32",
        device="cpu",
        task=TaskSpec(kind="classification", labels=labels) if labels else TaskSpec(),
    )
    return Reading(info, lambda answer: 0 if architecture == "classifier" else len(answer) // 3, shared)


def cost(
    architecture: Architecture,
    options: dict[str, Any],
    contrast: bool = False,
    labels: tuple[str, ...] = (),
    text: str = TEXT,
    shared: int = 2048,
) -> int:
    """Of a text of ten tokens whose answer is known to be `yes` four times."""
    asked = AttributionOptions(**options)
    example = AttributionExample(input=text, output="yes" * 4, against="no" * 3 if contrast else None)
    method = make_method(asked.method, asked.settings)
    return work(reading(architecture, labels, shared), asked, method, example, 10, contrast=contrast)


@pytest.mark.parametrize(
    ("options", "contrast", "tokens"),
    [
        ({}, False, 20),
        ({"predict": False, "target": "gold"}, False, 10),
        ({}, True, 30),
        ({"method": "integrated_gradients", "settings": {"n_steps": 30}}, False, 310),
        ({"method": "integrated_gradients", "settings": {"n_steps": 30}}, True, 610),
        ({"method": "smooth_grad", "settings": {"n_samples": 7}}, False, 80),
        ({"method": "occlusion"}, False, 50),
        ({"method": "occlusion", "ignore": ()}, False, 60),
        ({"faithfulness": True}, False, 140),
        ({"rows": True, "target": "gold"}, False, 30),
    ],
)
def test_every_option_that_multiplies_the_work_is_counted(options: dict[str, Any], contrast: bool, tokens: int) -> None:
    assert cost("classifier", options, contrast) == tokens


@pytest.mark.parametrize(
    ("options", "contrast", "tokens"),
    [
        ({"predict": False, "target": "gold"}, False, 10 + 4),
        ({"predict": False, "target": "gold"}, True, (10 + 4) + (10 + 2)),
        ({"predict": False, "target": "gold", "rows": True}, False, (10 + 4) * (1 + 4)),
        ({"predict": False, "target": "gold", "faithfulness": True}, False, (10 + 4) * (1 + 12)),
        ({"predict": False, "target": "gold", "token_probabilities": 16}, False, (10 + 4) + 10 + 4 * (1 + 8 * 16)),
        ({}, False, (10 + 20) * 2),
        ({"rows": True}, False, (10 + 20) * (1 + 20) + (10 + 20)),
        ({"method": "integrated_gradients", "settings": {"n_steps": 5}}, False, (10 + 20) * 5 + (10 + 20)),
        ({"token_probabilities": 1}, False, (10 + 20) * 2 + 10 + 20 * (1 + 8)),
    ],
)
def test_a_model_that_writes_reads_the_answer_too(options: dict[str, Any], contrast: bool, tokens: int) -> None:
    assert cost("seq2seq", options, contrast) == tokens


def test_of_a_closed_set_the_longest_answer_may_be_the_models_own() -> None:
    labels = ("yes", "no" * 6)
    answered = 10 + 1 + 4
    assert cost("seq2seq", {}, labels=labels) == (10 + 4) + answered
    assert cost("seq2seq", {"rows": True}, labels=labels) == (10 + 4) * (1 + 4) + answered
    assert cost("seq2seq", {"token_probabilities": 1}, labels=labels) == (10 + 4) + answered + 10 + 4 * (1 + 8)


def test_words_are_those_that_a_map_has_and_no_more_than_are_read() -> None:
    occlusion = {"method": "occlusion", "predict": False, "target": "gold"}
    assert cost("classifier", occlusion, text="这部电影沉闷") == 6 * 10
    assert cost("classifier", occlusion, text="a,b;c/d") == 4 * 10
    assert cost("classifier", occlusion, text="这部电影沉闷" * 5) == 10 * 10


def test_answers_to_choose_from_cost_what_the_architecture_reads_for_them() -> None:
    assert cost("classifier", {}, labels=LABELS) == 20
    assert cost("seq2seq", {}, labels=LABELS) == (10 + 3) + 10 + 50 * 3
    # A decoder: 50 answers of three tokens behind ten are one pass of 2,048 tokens, or 14 of 50.
    assert cost("causal", {}, labels=LABELS) == (10 + 3) + 10 + 50 * 3
    assert cost("causal", {}, labels=LABELS, shared=50) == (10 + 3) + 14 * 10 + 50 * 3
    assert cost("causal", {}, labels=LABELS, shared=1) == (10 + 3) + 50 * (10 + 3)
    assert cost("causal", {"faithfulness": True}, labels=LABELS, shared=1) == (10 + 3) + 13 * 50 * (10 + 3)


@pytest.mark.parametrize("architecture", ["classifier", "seq2seq", "causal"])
@pytest.mark.parametrize("labels", [(), LABELS])
def test_an_answer_costs_the_same_with_a_map_and_without(architecture: Architecture, labels: tuple[str, ...]) -> None:
    asked = PredictionInput(input=TEXT)
    alone = answer_work(reading(architecture), asked, labels, 10)
    explained = cost(architecture, {"labels": labels or None, "target": "gold"})
    assert explained - cost(architecture, {"predict": False, "target": "gold"}) == alone
