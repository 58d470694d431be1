"""The comparison on data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from understudy.evaluation.compare import MARGIN, compare, mcnemar, mean_interval, verdict

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


def test_mcnemar_is_given_for_one_seed_only() -> None:
    assert compare(_answers(0.8, 50), _answers(0.7, 50, draw=1)).p is not None
    assert compare(_answers(0.8, 50, 2), _answers(0.7, 50, 2, draw=1)).p is None


def test_mean_interval_holds_the_mean_over_seeds() -> None:
    arm = _answers(0.8, 400, seeds=3)
    mean, low, high = mean_interval(arm)
    assert mean == pytest.approx(np.mean([arm[s] for s in arm]))
    assert low < mean < high
