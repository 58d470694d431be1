"""A verdict says what the intervals of a table say, and nothing more."""

from __future__ import annotations

import pytest

from understudy.attribution.comparison import COLUMNS, Comparison, Figure, MethodRow
from understudy.attribution.verdict import best, sentences


def row(method: str, mean: float, half: float = 0.05, auprc: float | None = None, **settings: int) -> MethodRow:
    figures = {
        "aopc_comprehensiveness": Figure(mean, mean - half, mean + half, 50),
        "sufficiency": Figure(mean, 0, 0, 50),
    }
    if auprc is not None:
        figures["auprc"] = Figure(auprc, auprc - half, auprc + half, 40)
    return MethodRow(method, settings, figures, 1.0, 50)


def table(*rows: MethodRow) -> Comparison:
    known = {key for one in rows for key in one.figures}
    return Comparison(50, 40, tuple(column for column in COLUMNS if column.key in known), rows)


CONTROLS = (row("random", 0.1, auprc=0.2), row("first_words", 0.12, auprc=0.3))


def test_the_clear_winner_is_named_with_its_figures() -> None:
    (said,) = sentences(table(row("saliency", 0.3), row("integrated_gradients", 0.5, n_steps=50), row("random", 0.1)))
    assert said == (
        "integrated_gradients (n_steps 50) finds the words that the model needs best: an answer loses 0.500 of its "
        "probability without the best of them, 0.100 without random words."
    )


def test_methods_whose_intervals_touch_cannot_be_told_apart() -> None:
    (said,) = sentences(table(row("a", 0.45), row("b", 0.5), row("c", 0.41), row("d", 0.2), row("random", 0.1)))
    assert said.endswith(" a and c cannot be told from it.")


@pytest.mark.parametrize(
    ("random", "first_words", "named"),
    [
        (0.1, 0.12, None),
        (0.42, 0.1, "random words"),
        (0.1, 0.42, "the first words"),
        (0.41, 0.9, "random words or the first words"),
    ],
)
def test_a_method_must_beat_both_controls(random: float, first_words: float, named: str | None) -> None:
    (said,) = sentences(table(row("saliency", 0.5), row("random", random), row("first_words", first_words)))
    if named is None:
        assert said.startswith("saliency finds")
    else:
        assert said == (
            f"No method finds the words that the model needs clearly better than {named} do: "
            "the intervals of AOPC comprehensiveness overlap."
        )


def test_highlights_have_a_sentence_of_their_own() -> None:
    faithful, plausible = sentences(table(row("a", 0.5, auprc=0.21), row("b", 0.2, auprc=0.6), *CONTROLS))
    assert faithful.startswith("a finds the words that the model needs best")
    assert plausible == "b finds the words that people highlighted best: AUPRC 0.600, random words 0.200."
    assert len(sentences(table(row("a", 0.5), row("random", 0.1)))) == 1


def test_controls_alone_prove_nothing() -> None:
    assert sentences(table(*CONTROLS))[0] == "Only the controls were compared: name a method."


def test_the_best_of_a_column_is_at_its_good_end_and_may_be_a_control() -> None:
    first = best(table(row("a", 0.5), row("b", 0.3), row("random", 0.1)))
    assert first["aopc_comprehensiveness"].method == "a"
    assert first["sufficiency"].method == "random"


def test_a_column_without_a_good_end_has_no_best() -> None:
    agreeing = MethodRow("a", {}, {"agreement": Figure(1.0, 1.0, 1.0, 50)}, 1.0, 50)
    assert best(table(agreeing)) == {}
