from __future__ import annotations

import json
import random
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from understudy.attribution import comparison
from understudy.attribution.attribute import attribute
from understudy.attribution.comparison import COLUMNS, CONTROLS, Comparison, compare, rank_correlation
from understudy.attribution.plausibility import plausibility
from understudy.attribution.words import word_spans
from understudy.errors import InvalidRequest, UnknownName
from understudy.models.base import Adapter
from understudy.models.load import load_adapter
from understudy.schemas import AttributionExample, AttributionOptions, Example
from understudy.testing import LABELS, SENTENCES, TARGETS, tiny_classifier

GOLD = AttributionOptions(target="gold", predict=False, labels=LABELS, top_k=3)
EXAMPLES = [
    Example(
        id=str(i), input=text, output=label, highlights=tuple(word_spans(text)[i % 3 : i % 3 + 2]) if i % 4 else None
    )
    for i, (text, label) in enumerate(zip(SENTENCES, TARGETS, strict=True))
]
ASKED = [AttributionExample(input=one.input, output=one.output) for one in EXAMPLES]


def test_each_method_stands_beside_the_controls(classifier: Adapter) -> None:
    found = compare(classifier, EXAMPLES, [("saliency", {}), ("integrated_gradients", {"n_steps": 2})], GOLD)
    assert [row.method for row in found.rows] == ["saliency", "integrated_gradients", "random", "first_words"]
    assert [row.control for row in found.rows] == [False, False, True, True]
    assert found.rows[1].settings == {"n_steps": 2}
    assert (found.examples, found.highlighted) == (12, 9)
    assert found.columns == COLUMNS


def test_a_control_that_was_asked_for_is_not_repeated(classifier: Adapter) -> None:
    asked = [("random", {"seed": 3}), ("random", {"seed": 4}), ("saliency", {})]
    rows = compare(classifier, EXAMPLES[:2], asked, GOLD).rows
    assert [(row.method, row.settings) for row in rows] == [*asked, ("first_words", {})]
    assert rows[0].figures["comprehensiveness"] != rows[1].figures["comprehensiveness"]


def test_figures_are_means_over_the_examples(classifier: Adapter) -> None:
    row = compare(classifier, EXAMPLES, [("integrated_gradients", {"n_steps": 3})], GOLD).rows[0]
    options = GOLD.model_copy(
        update={"method": "integrated_gradients", "settings": {"n_steps": 3}, "faithfulness": True}
    )
    maps = attribute(classifier, ASKED, options)
    for key in ("comprehensiveness", "sufficiency", "aopc_comprehensiveness", "aopc_sufficiency", "log_odds",
                "completeness_error"):  # fmt: skip
        expected = [getattr(one.faithfulness, key) for one in maps]
        assert row.figures[key].mean == pytest.approx(sum(expected) / 12, rel=1e-3, abs=1e-6)
        assert row.figures[key].examples == 12
    judged = plausibility(maps, [one.highlights for one in EXAMPLES])
    for key in ("token_f1", "iou_f1", "auprc"):
        assert row.figures[key].mean == pytest.approx(getattr(judged, key))
        assert row.figures[key].examples == judged.examples == 9


def test_only_a_method_that_promises_a_sum_has_a_completeness_error(classifier: Adapter) -> None:
    found = compare(classifier, EXAMPLES[:3], [("saliency", {}), ("integrated_gradients", {"n_steps": 2})], GOLD)
    assert ["completeness_error" in row.figures for row in found.rows] == [False, True, False, False]
    without = compare(classifier, EXAMPLES[:3], [("saliency", {})], GOLD)
    assert "completeness_error" not in [column.key for column in without.columns]


def test_without_highlights_there_is_no_plausibility(classifier: Adapter) -> None:
    plain = [one.model_copy(update={"highlights": None}) for one in EXAMPLES[:3]]
    found = compare(classifier, plain, [("saliency", {})], GOLD)
    assert found.highlighted == 0
    assert {"token_f1", "iou_f1", "auprc"}.isdisjoint(column.key for column in found.columns)
    assert {"token_f1", "iou_f1", "auprc"}.isdisjoint(found.rows[0].figures)


def test_agreement_is_with_the_first_method(classifier: Adapter) -> None:
    rows = compare(classifier, EXAMPLES, [("saliency", {}), ("saliency", {"norm": "l2"})], GOLD).rows
    maps = [attribute(classifier, ASKED, GOLD.model_copy(update={"settings": {"norm": norm}})) for norm in ("l1", "l2")]
    expected = [
        rank_correlation([word.score for word in one.words], [word.score for word in other.words])
        for one, other in zip(*maps, strict=True)
    ]
    assert "agreement" not in rows[0].figures
    assert rows[1].figures["agreement"].mean == pytest.approx(np.mean(expected))
    assert rows[1].figures["agreement"].mean > 0.9
    asked = [("saliency", {}), ("random", {}), ("saliency", {"norm": "l1"})]
    rows = compare(classifier, EXAMPLES, asked, GOLD).rows
    assert abs(rows[1].figures["agreement"].mean) < 0.5
    assert rows[2].figures["agreement"].mean == pytest.approx(1, abs=1e-3)


def test_all_but_the_clock_is_the_same_each_time(classifier: Adapter) -> None:
    def timeless(found: Comparison) -> Any:
        plain = json.loads(json.dumps(asdict(found)))  # plain data all through
        return [{key: value for key, value in row.items() if key != "seconds"} for row in plain["rows"]]

    first, second = (compare(classifier, EXAMPLES[:4], [("saliency", {})], GOLD) for _ in range(2))
    assert timeless(first) == timeless(second)
    assert all(row.seconds > 0 and row.timed == 4 and row.examples_per_second > 0 for row in first.rows)


def test_another_seed_draws_other_examples_for_the_same_mean(classifier: Adapter) -> None:
    one, other = (compare(classifier, EXAMPLES, [("saliency", {})], GOLD, seed=seed).rows[0] for seed in (0, 1))
    ours, theirs = one.figures["log_odds"], other.figures["log_odds"]
    assert ours.mean == theirs.mean
    assert (ours.low, ours.high) != (theirs.low, theirs.high)


def test_progress_counts_examples_of_every_method(classifier: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "CHUNK", 5)
    seen: list[tuple[int, int]] = []
    whole = compare(classifier, EXAMPLES, [("saliency", {})], GOLD, progress=lambda *at: seen.append(at))
    assert seen == [(done, 36) for done in (5, 10, 12, 17, 22, 24, 29, 34, 36)]
    assert [row.figures["auprc"].examples for row in whole.rows] == [9, 9, 9]
    assert {row.timed for row in whole.rows} == {5}


def test_an_example_at_fault_is_named_by_its_place(classifier: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "CHUNK", 5)
    broken = [*EXAMPLES[:7], EXAMPLES[7].model_copy(update={"output": "joyful"})]
    with pytest.raises(InvalidRequest) as caught:
        compare(classifier, broken, [("saliency", {})], GOLD)
    assert caught.value.param == "examples[5:][2].output"
    with pytest.raises(InvalidRequest) as caught:
        compare(classifier, broken[5:], [("saliency", {})], GOLD)
    assert caught.value.param == "examples[2].output"


@pytest.mark.parametrize(
    ("method", "error"), [(("lime", {}), UnknownName), (("saliency", {"steps": 3}), InvalidRequest)]
)
def test_an_impossible_method_is_refused_before_the_model_has_worked(
    classifier: Adapter, method: tuple[str, dict[str, Any]], error: type[Exception]
) -> None:
    seen: list[int] = []
    with pytest.raises(error):
        compare(classifier, EXAMPLES, [("saliency", {}), method], GOLD, progress=lambda *at: seen.append(at[0]))
    assert seen == []


def test_rows_are_asked_of_no_method(classifier: Adapter) -> None:
    rows = GOLD.model_copy(update={"rows": True})
    assert len(compare(classifier, EXAMPLES[:2], [("saliency", {})], rows).rows) == 3


def test_the_model_may_be_explained_for_its_own_answers(seq2seq: Adapter) -> None:
    options = AttributionOptions(target="predicted")
    rows = compare(seq2seq, EXAMPLES[:3], [("saliency", {})], options).rows
    assert all(row.figures["comprehensiveness"].examples == 3 for row in rows)


def test_no_examples_leave_a_table_without_figures(classifier: Adapter) -> None:
    found = compare(classifier, [], [("saliency", {})], GOLD)
    assert found.columns == ()
    assert [row.method for row in found.rows] == ["saliency", *CONTROLS]
    assert found.rows[0].examples_per_second == 0


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((1, 2, 3, 4), (10, 20, 30, 400), 1),
        ((1, 2, 3, 4), (4, 3, 2, -1), -1),
        ((1, 2, 3, 4), (2, 1, 4, 3), 1 - 6 * 4 / (4 * 15)),
        ((1, 1, 2), (1, 2, 3), 0.75**0.5),  # ranks 1.5, 1.5, 3 against 1, 2, 3
        ((7, 7, 8, 9), (1, 2, 3, 4), 0.9**0.5),  # ranks 1.5, 1.5, 3, 4
        ((5, 5, 5), (1, 2, 3), None),
        ((1, 2, 3), (0, 0, 0), None),
        ((1,), (2,), None),
        ((), (), None),
    ],
)
def test_rank_correlation_is_spearmans(one: tuple[int, ...], other: tuple[int, ...], expected: float | None) -> None:
    assert rank_correlation(one, other) == (expected if expected is None else pytest.approx(expected))


def test_the_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(5, 2, 400).tolist()
    figure = comparison._figure(values, seed=0)
    assert figure.mean == pytest.approx(np.mean(values))
    half = 1.96 * np.std(values) / 20
    assert figure.low == pytest.approx(figure.mean - half, abs=0.02)
    assert figure.high == pytest.approx(figure.mean + half, abs=0.02)
    single = comparison._figure([3.0], seed=0)
    assert (single.mean, single.low, single.high, single.examples) == (3.0, 3.0, 3.0, 1)


KEYWORDS = {"wonderful": "positive", "dull": "negative"}
FILLER = ("film", "plot", "music", "hour", "room", "student", "teacher", "line", "file", "lock")


def keyword_example(chance: random.Random) -> Example:
    """Words that say nothing, with one that decides the answer, which is highlighted, or with none."""
    words = chance.choices(FILLER, k=chance.randint(4, 9))
    keyword = chance.choice([*KEYWORDS, None])
    if keyword is None:
        return Example(id="none", input=" ".join(words), output="neutral")
    place = chance.randrange(len(words))
    words[place] = keyword
    start = len(" ".join([*words[:place], ""]))
    span = (start, start + len(keyword))
    return Example(id=keyword, input=" ".join(words), output=KEYWORDS[keyword], highlights=(span,))


@pytest.fixture(scope="module")
def knows_keywords(tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    """A tiny model that has learned to look for the keywords and at nothing else."""
    adapter = load_adapter(str(tiny_classifier(tmp_path_factory.mktemp("keywords"))))
    chance = random.Random(1)
    adapter.model.requires_grad_(True)
    optimizer = torch.optim.AdamW(adapter.model.parameters(), lr=0.01)
    for _ in range(60):
        rows = [keyword_example(chance) for _ in range(32)]
        batch = adapter.encode([row.input for row in rows], [row.output for row in rows])
        logits = adapter.model(input_ids=batch.ids, attention_mask=batch.mask).logits
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, batch.labels.squeeze(-1)).backward()
        optimizer.step()
    adapter.model.requires_grad_(False)
    return adapter


def test_a_method_that_finds_what_decides_stands_above_the_controls(knows_keywords: Adapter) -> None:
    chance = random.Random(2)
    examples = [keyword_example(chance) for _ in range(60)]
    methods = [("occlusion", {}), ("integrated_gradients", {})]
    found = compare(knows_keywords, examples, methods, AttributionOptions(target="gold", top_k=1))
    assert found.highlighted == sum(one.highlights is not None for one in examples) < 60
    figures = {row.method: row.figures for row in found.rows}
    for method, _ in methods:
        for control in CONTROLS:
            for column in ("comprehensiveness", "aopc_comprehensiveness", "token_f1", "iou_f1", "auprc"):
                assert figures[method][column].low > figures[control][column].high
            for column in ("sufficiency", "aopc_sufficiency", "log_odds"):
                assert figures[method][column].high < figures[control][column].low
    assert figures["occlusion"]["auprc"].mean > 0.9
    assert figures["integrated_gradients"]["completeness_error"].mean < 0.05
