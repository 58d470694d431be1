"""Batches of equal lengths that are still a permutation, and the same one for the same seed and epoch."""

from __future__ import annotations

import random

from understudy.training.sampler import LengthBuckets

_DRAW = random.Random(0)
LENGTHS = [_DRAW.randint(5, 300) for _ in range(1003)]


def batches(sampler: LengthBuckets) -> list[list[int]]:
    order = list(sampler)
    return [order[start : start + sampler.batch_size] for start in range(0, len(order), sampler.batch_size)]


def test_every_example_comes_once_an_epoch() -> None:
    sampler = LengthBuckets(LENGTHS, 16, seed=0)
    assert sorted(sampler) == list(range(1003))
    assert len(sampler) == 1003


def test_examples_of_a_batch_are_alike_in_length() -> None:
    padded = sum(len(batch) * max(LENGTHS[i] for i in batch) for batch in batches(LengthBuckets(LENGTHS, 16, seed=0)))
    assert padded / sum(LENGTHS) < 1.1


def test_batches_do_not_come_in_order_of_length() -> None:
    longest = [max(LENGTHS[i] for i in batch) for batch in batches(LengthBuckets(LENGTHS, 16, seed=0))]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_the_short_batch_comes_last() -> None:
    assert [len(batch) for batch in batches(LengthBuckets(LENGTHS, 16, seed=0))] == [16] * 62 + [11]


def test_seed_and_epoch_decide_the_order() -> None:
    one, same, other = (LengthBuckets(LENGTHS, 16, seed=seed) for seed in (0, 0, 1))
    assert list(one) == list(same) == list(one)
    assert list(one) != list(other)
    first = batches(one)
    one.set_epoch(1)
    assert {frozenset(batch) for batch in batches(one)} != {frozenset(batch) for batch in first}
