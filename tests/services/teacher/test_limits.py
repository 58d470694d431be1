"""What a request is taken to cost."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from services.teacher.limits import work
from understudy.attribution.methods import make_method
from understudy.schemas import AttributionExample, AttributionOptions, ModelInfo, TaskSpec

TEXT = "four words of text"


def cost(
    architecture: Literal["classifier", "seq2seq", "causal"],
    options: dict[str, Any],
    contrast: bool = False,
    labels: tuple[str, ...] = (),
) -> int:
    """Of a text of ten tokens whose answer is known to be `yes`."""
    model = ModelInfo(
        id="m",
        architecture=architecture,
        parameters=1,
        max_tokens=10,
        fingerprint="f",
        precision="float32",
        device="cpu",
        task=TaskSpec(kind="classification", labels=labels) if labels else TaskSpec(),
    )
    asked = AttributionOptions(**options)
    example = AttributionExample(input=TEXT, output="yes" * 4)
    return work(model, asked, make_method(asked.method, asked.settings), example, 10, contrast=contrast)


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
        ({"faithfulness": True}, False, 140),
        ({"rows": True, "target": "gold"}, False, 60),
        ({"token_probabilities": 16, "target": "gold"}, False, 20 + 10 + 4 * (1 + 8 * 16)),
        ({"token_probabilities": 1}, False, 20 + 10 + 64 * (1 + 8)),
    ],
)
def test_every_option_that_multiplies_the_work_is_counted(options: dict[str, Any], contrast: bool, tokens: int) -> None:
    assert cost("classifier", options, contrast) == tokens


def test_answers_to_choose_from_cost_what_the_architecture_reads_for_them() -> None:
    labels = tuple(f"answer {number}" for number in range(10, 60))
    classifier, seq2seq, causal = (
        cost(kind, {}, labels=labels)
        for kind in ("classifier", "seq2seq", "causal")  # type: ignore[arg-type]
    )
    assert classifier == 20
    assert seq2seq == 20 + 50 * 3
    assert causal == 10 + 50 * (10 + 3)
    assert cost("causal", {"faithfulness": True}, labels=labels) == 10 + 13 * 50 * (10 + 3)
