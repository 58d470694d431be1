"""The comparison on data whose answer is known."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from understudy.evaluation.compare import (
    MARGIN,
    cohens_h,
    compare,
    holm,
    mcnemar,
    mean_interval,
    min_f,
    student_tail,
    verdict,
)

Right = dict[int, list[bool]]


def _answers(accuracy: float, examples: int, seeds: int = 1, draw: int = 0) -> Right:
    random = np.random.default_rng(draw)
    return {seed: (random.random(examples) < accuracy).tolist() for seed in range(seeds)}


@pytest.mark.parametrize("seeds", [1, 3])
def test_arms_that_never_differ_are_told_from_a_gain_by_many_examples_only(seeds: int) -> None:
    few, many = _answers(0.7, 50, seeds), _answers(0.7, 2000, seeds)
    found = compare(few, few)
    assert (found.difference, found.verdict) == (0, "INCONCLUSIVE")
    assert found.low < -0.02 < 0.02 < found.high  # one gain in fifty would not have surprised
    assert compare(many, many).verdict == "DOES NOT BEAT"


def test_two_lucky_examples_of_thirty_are_no_proof() -> None:
    ours, theirs = {0: [True] * 30}, {0: [True] * 28 + [False] * 2}
    assert compare(ours, theirs).verdict == compare(theirs, ours).verdict == "INCONCLUSIVE"


def test_an_accuracy_of_nothing_or_all_has_an_interval_that_holds_it() -> None:
    for right in (True, False):
        mean, low, high = mean_interval({seed: [right] * 60 for seed in range(3)})
        assert low <= mean <= high
        assert 0.02 < high - low < 0.1


def test_a_clear_gain_beats() -> None:
    found = compare(_answers(0.9, 1000), _answers(0.7, 1000, draw=1))
    assert found.verdict == "BEATS"
    assert found.low < found.difference < found.high


def test_a_clear_loss_does_not_beat() -> None:
    assert compare(_answers(0.7, 1000), _answers(0.9, 1000, draw=1)).verdict == "DOES NOT BEAT"


def test_a_small_gain_on_few_examples_is_inconclusive() -> None:
    assert compare(_answers(0.72, 50), _answers(0.70, 50, draw=1)).verdict == "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.001, 0.005, "BEATS"),
        (0.0, 0.05, "INCONCLUSIVE"),
        (-0.02, MARGIN - 1e-9, "DOES NOT BEAT"),
        (-0.02, MARGIN, "INCONCLUSIVE"),
        (-0.3, -0.1, "DOES NOT BEAT"),
    ],
)
def test_verdict_follows_the_stated_rule(low: float, high: float, expected: str) -> None:
    assert verdict(low, high) == expected


def test_the_same_data_give_the_same_interval() -> None:
    arms = _answers(0.8, 300, seeds=3), _answers(0.7, 300, seeds=3, draw=1)
    assert compare(*arms) == compare(*arms)


def test_swapping_the_arms_turns_the_interval_round() -> None:
    ours, theirs = _answers(0.8, 300), _answers(0.7, 300, draw=1)
    forward, backward = compare(ours, theirs), compare(theirs, ours)
    assert forward.low == pytest.approx(-backward.high, abs=0.01)
    assert forward.difference == -backward.difference


def test_pairing_makes_the_interval_of_similar_arms_narrow() -> None:
    ours = _answers(0.7, 500)
    theirs = {0: [not right if i % 50 == 0 else right for i, right in enumerate(ours[0])]}
    unrelated = {0: _answers(0.7, 500, draw=5)[0]}
    paired, unpaired = compare(ours, theirs), compare(ours, unrelated)
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 3


def test_only_seeds_that_both_ran_are_compared() -> None:
    ours, theirs = _answers(0.8, 100, seeds=4), _answers(0.7, 100, seeds=2)
    assert compare(ours, theirs).seeds == 2
    with pytest.raises(ValueError, match="share no seed"):
        compare({0: [True]}, {1: [True]})


def test_one_lucky_seed_of_three_is_no_proof() -> None:
    # The same wrong examples in two seeds of both arms; only the third seed differs, by twenty points.
    base = _answers(0.7, 1000)[0]
    lucky = [right or i % 3 == 0 for i, right in enumerate(base)]
    assert compare({0: lucky}, {0: base}).verdict == "BEATS"
    assert compare({0: base, 1: base, 2: lucky}, {0: base, 1: base, 2: base}).verdict == "INCONCLUSIVE"


def test_two_seeds_that_disagree_show_their_whole_variance() -> None:
    # One seed gains nothing and one gains ten points: drawing two seeds from these two alone would never go below 0.
    never, always = [False] * 1000, [i % 10 == 0 for i in range(1000)]
    assert compare({0: never, 1: always}, {0: never, 1: never}).low < -0.01


def test_grouping_equal_examples_gives_the_bootstrap_of_indices() -> None:
    ours, theirs = _answers(0.8, 200), _answers(0.7, 200, draw=1)
    difference = np.array(ours[0], float) - np.array(theirs[0], float)
    indices = np.random.default_rng(3).integers(0, 200, (10_000, 200))
    low, high = np.percentile(difference[indices].mean(1), [2.5, 97.5])
    found = compare(ours, theirs)
    assert (found.low, found.high) == (pytest.approx(low, abs=0.006), pytest.approx(high, abs=0.006))


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (2, 0.02), (3, 0.0), (3, 0.02)])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(
    seeds: int, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.evaluation.compare.RESAMPLES", 1000)
    random = np.random.default_rng(7)
    covered, trials, gain = 0, 120, 0.03
    for _ in range(trials):
        base = random.uniform(0.4, 0.8, 300)  # how hard each example is, for both arms
        effects = random.normal(0, spread, (2, seeds))
        ours = {s: (random.random(300) < base + gain + effects[0, s]).tolist() for s in range(seeds)}
        theirs = {s: (random.random(300) < base + effects[1, s]).tolist() for s in range(seeds)}
        found = compare(ours, theirs)
        covered += found.low <= gain <= found.high
    assert covered / trials >= 0.9


def test_mcnemar_of_one_against_nine() -> None:
    ours = [True] * 9 + [False] + [True] * 20
    theirs = [False] * 9 + [True] + [True] * 20
    assert mcnemar(ours, theirs) == pytest.approx(2 * (1 + 10) / 2**10)


def test_mcnemar_of_arms_that_agree_is_one() -> None:
    assert mcnemar([True, False], [True, False]) == 1.0


def test_mcnemar_is_given_for_each_pair_of_models() -> None:
    ours, theirs = _answers(0.8, 50, 2), _answers(0.7, 50, 2, draw=1)
    assert compare(ours, theirs).mcnemar == (mcnemar(ours[0], theirs[0]), mcnemar(ours[1], theirs[1]))


@pytest.mark.parametrize(
    ("t", "freedom"), [(12.706, 1), (4.303, 2), (3.182, 3), (2.776, 4), (2.365, 7), (1.984, 100), (1.96, 10**6)]
)
def test_the_tail_of_students_t_is_that_of_the_printed_tables(t: float, freedom: int) -> None:
    assert student_tail(t, freedom) == pytest.approx(0.05, abs=1e-4)
    assert student_tail(0, freedom) == pytest.approx(1)


def test_min_f_of_one_seed_is_a_paired_t_test() -> None:
    # Three of seven examples are gained; the imagined gain and loss widen the variance, and leave the mean alone.
    paired = np.array([[1.0, 1, 1, 0, 0, 0, 0]])
    beside = [1, 1, 1, 0, 0, 0, 0, -1, 1]
    t = (3 / 7) / math.sqrt(statistics.variance(beside) / 9)
    assert min_f(paired) == pytest.approx(student_tail(t, 8))


def test_min_f_adds_the_seeds_variance_with_its_few_degrees_of_freedom() -> None:
    # Four examples each gain 0.5 and 1.0 in two seeds: examples differ by the imagined two alone, seeds by 0.5.
    paired = np.array([[0.5] * 4, [1.0] * 4])
    by_example = statistics.variance([0.75] * 4 + [-1, 1]) / 6
    by_seed = statistics.variance([0.5, 1.0]) / 2
    freedom = (by_example + by_seed) ** 2 / (by_example**2 / 5 + by_seed**2 / 1)
    t = 0.75 / math.sqrt(by_example + by_seed)
    assert min_f(paired) == pytest.approx(student_tail(t, int(freedom)))


def test_holm_is_that_of_the_worked_example() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, and never below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_effect_sizes_of_eighty_against_seventy_five_percent() -> None:
    ours, theirs = {0: [True] * 16 + [False] * 4}, {0: [True] * 15 + [False] * 5}
    found = compare(ours, theirs)
    assert found.error_reduction == pytest.approx(0.2)  # four errors in place of five
    assert found.cohens_h == pytest.approx(2 * (math.asin(math.sqrt(0.8)) - math.asin(math.sqrt(0.75))))
    assert cohens_h(1.0, 0.0) == pytest.approx(math.pi)
    assert compare(theirs, {0: [True] * 20}).error_reduction is None


@pytest.mark.parametrize(("seeds", "examples", "spread"), [(1, 300, 0.0), (3, 300, 0.02), (3, 1000, 0.05)])
def test_arms_that_are_level_are_called_different_no_oftener_than_said(
    seeds: int, examples: int, spread: float
) -> None:
    """Of 400 pairs of level arms p is at most 0.05 in about 20; 36 would be more than three sigma above."""
    random = np.random.default_rng(11)
    found = 0
    for _ in range(400):
        base = random.uniform(0.4, 0.8, examples)  # how hard each example is, for both arms
        effects = random.normal(0, spread, (2, seeds, 1))
        ours, theirs = (random.random((seeds, examples)) < base + effect for effect in effects)
        found += min_f(ours.astype(float) - theirs) <= 0.05
    assert found <= 36


def test_holm_bounds_the_chance_of_any_wrong_claim() -> None:
    random = np.random.default_rng(5)
    once = corrected_once = 0
    for _ in range(150):
        base = random.uniform(0.4, 0.8, 300)
        plain = random.random((3, 300)) < base
        p_values = [min_f((random.random((3, 300)) < base).astype(float) - plain) for _ in range(8)]
        once += min(p_values) <= 0.05
        corrected_once += min(holm(p_values)) <= 0.05
    assert corrected_once <= 0.05 * 150 < once


def test_mean_interval_holds_the_mean_over_seeds() -> None:
    arm = _answers(0.8, 400, seeds=3)
    mean, low, high = mean_interval(arm)
    assert mean == pytest.approx(np.mean([arm[s] for s in arm]))
    assert low < mean < high
