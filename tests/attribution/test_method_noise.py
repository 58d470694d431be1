"""Noise belongs to an example: nothing but its tokens and the seed decides what it draws."""

from __future__ import annotations

import pytest
import torch

from understudy.attribution.methods import GradientShap, SmoothGrad
from understudy.attribution.methods.noise import generators, shares, spread, text_noise
from understudy.models.base import Adapter, Batch
from understudy.testing import SENTENCES


def noise_of(adapter: Adapter, batch: Batch, seed: int = 0, sample: int = 0) -> torch.Tensor:
    return text_noise(batch, generators(batch, seed, sample), adapter.embed(batch.ids))


@pytest.fixture(params=["seq2seq", "causal", "classifier"])
def adapter(request: pytest.FixtureRequest) -> Adapter:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Adapter)
    return found


def test_noise_does_not_depend_on_neighbours_order_or_padding(adapter: Adapter) -> None:
    texts, targets = SENTENCES[:4], ["positive"] * 4
    there, back = (adapter.encode(order, targets) for order in (texts, texts[::-1]))
    together, reversed_ = noise_of(adapter, there), noise_of(adapter, back).flip(0)
    for i, text in enumerate(texts):
        alone = adapter.encode([text], ["positive"])
        expected = noise_of(adapter, alone)[0][alone.text_tokens[0]]
        assert torch.equal(together[i][there.text_tokens[i]], expected)
        assert torch.equal(reversed_[i][back.text_tokens.flip(0)[i]], expected)


def test_only_tokens_of_the_text_get_noise(adapter: Adapter) -> None:
    framed = adapter.with_template("Review: {input} Sentiment:")
    batch = framed.encode(SENTENCES[:3], ["positive"] * 3)
    found = noise_of(framed, batch)
    assert found[~batch.text_tokens].abs().sum() == 0
    mine = found[batch.text_tokens]
    assert mine.ne(0).all()
    assert abs(mine.mean()) < 0.1
    assert abs(mine.std() - 1) < 0.1


def test_seeds_samples_and_texts_draw_differently(classifier: Adapter) -> None:
    batch = classifier.encode([SENTENCES[0], SENTENCES[0], SENTENCES[1]], ["positive"] * 3)
    draws = [noise_of(classifier, batch, seed, sample)[:, 1] for seed, sample in ((0, 0), (0, 1), (1, 0), (1, 1))]
    for draw in draws:
        assert torch.equal(draw[0], draw[1])
        assert not torch.equal(draw[0], draw[2])
    assert len({tuple(draw[0].tolist()) for draw in draws}) == 4
    points = [shares(generators(batch, 0, sample), torch.zeros(1)) for sample in range(50)]
    assert points[0].shape == (3, 1, 1)
    assert all(0 <= share < 1 for point in points for share in point.flatten().tolist())
    assert 0.3 < torch.stack(points).mean() < 0.7


def test_every_precision_sees_the_same_noise(classifier: Adapter) -> None:
    batch = classifier.encode(SENTENCES[:1], ["positive"])
    embeds = classifier.embed(batch.ids)
    wide, narrow = (
        text_noise(batch, generators(batch, 0, 0), embeds.to(kind)) for kind in (torch.float64, torch.bfloat16)
    )
    assert torch.equal(wide.bfloat16(), narrow)


def test_the_random_state_of_the_process_is_left_alone(classifier: Adapter) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    noise_of(classifier, classifier.encode(SENTENCES[:1], ["positive"]))
    assert torch.equal(torch.rand(3), expected)


def test_the_spread_is_that_of_the_text_alone(adapter: Adapter) -> None:
    batch = adapter.encode([SENTENCES[0], "fun", ""], ["positive"] * 3)
    embeds = adapter.embed(batch.ids)
    found = spread(batch, embeds)
    assert found.shape == (3, 1, 1)
    for i in range(2):
        mine = embeds[i][batch.text_tokens[i]]
        assert found[i].item() == pytest.approx(float((mine - mine.mean()).square().mean().sqrt()), rel=1e-5)
    assert found[2] == 0


def test_more_noise_and_another_seed_make_another_map(seq2seq: Adapter) -> None:
    batch = seq2seq.encode(SENTENCES[:2], ["positive"] * 2)
    maps = [
        SmoothGrad(n_samples=2)(seq2seq, batch),
        SmoothGrad(n_samples=2, seed=1)(seq2seq, batch),
        SmoothGrad(n_samples=2, noise=0.5)(seq2seq, batch),
        SmoothGrad(n_samples=3)(seq2seq, batch),
    ]
    maps += [GradientShap(n_samples=2)(seq2seq, batch), GradientShap(n_samples=2, seed=1)(seq2seq, batch)]
    assert len({tuple(found.flatten().tolist()) for found in maps}) == len(maps)
    assert torch.equal(SmoothGrad(n_samples=2)(seq2seq, batch), maps[0])
