from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from understudy.errors import ModelError
from understudy.models.base import Adapter
from understudy.models.load import load_adapter
from understudy.models.passes import in_batches, out_of_memory
from understudy.testing import LABELS, SENTENCES

LENGTHS = [3, 1, 7, 2, 2, 5, 1]


def test_each_position_gets_its_own_result_within_the_budget() -> None:
    seen: list[list[int]] = []

    def work(positions: Sequence[int]) -> list[int]:
        seen.append(list(positions))
        return [10 * position for position in positions]

    assert in_batches(LENGTHS, 7, work) == [0, 10, 20, 30, 40, 50, 60]
    assert all(len(batch) * max(LENGTHS[i] for i in batch) <= 7 for batch in seen)
    assert seen[0] == [2]  # the longest first: where memory runs out, it does at once
    assert in_batches([], 7, work) == []


@pytest.mark.parametrize("fits", [1, 2, 3, 5])
def test_a_batch_that_does_not_fit_is_halved(fits: int) -> None:
    seen: list[int] = []

    def work(positions: Sequence[int]) -> list[int]:
        if len(positions) > fits:
            raise torch.OutOfMemoryError("tried to allocate too much")
        seen.append(len(positions))
        return [10 * position for position in positions]

    before = out_of_memory.value
    assert in_batches(LENGTHS, 1000, work) == [0, 10, 20, 30, 40, 50, 60]
    assert out_of_memory.value > before
    assert sum(seen) == len(LENGTHS)
    assert max(seen) <= fits


def test_a_row_that_does_not_fit_alone_is_an_error() -> None:
    def work(_: Sequence[int]) -> list[int]:
        raise torch.OutOfMemoryError("tried to allocate too much")

    with pytest.raises(ModelError, match="7 tokens do not fit into the device's memory"):
        in_batches(LENGTHS, 1000, work)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def work(_: Sequence[int]) -> list[int]:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        in_batches(LENGTHS, 1000, work)


def out_of_memory_above(rows: int) -> Callable[..., None]:
    def refuse(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:  # noqa: ARG001
        given = kwargs.get("input_ids", kwargs.get("inputs_embeds"))
        if given is not None and len(given) > rows:
            raise torch.OutOfMemoryError("tried to allocate too much")

    return refuse


@pytest.fixture(params=["seq2seq", "causal", "classifier", "bert"])
def adapter(request: pytest.FixtureRequest, folder_of: Callable[[str], Path]) -> Adapter:
    return load_adapter(str(folder_of(request.param)), dtype="float64")


def read(adapter: Adapter) -> torch.nn.Module:
    """What reads the texts: the encoder, or the model."""
    found = adapter.model.get_encoder() if adapter.architecture == "seq2seq" else adapter.model
    assert isinstance(found, torch.nn.Module)
    return found


def test_likelihoods_and_answers_go_on_in_smaller_batches(adapter: Adapter) -> None:
    likelihoods = adapter.log_likelihoods(SENTENCES, [LABELS] * len(SENTENCES))
    written = None if adapter.architecture == "classifier" else adapter.generate(SENTENCES, max_new_tokens=3)
    hook = read(adapter).register_forward_pre_hook(out_of_memory_above(2), with_kwargs=True)
    for found, expected in zip(adapter.log_likelihoods(SENTENCES, [LABELS] * len(SENTENCES)), likelihoods, strict=True):
        assert found == pytest.approx(expected, rel=1e-9)
    if written:
        again = adapter.generate(SENTENCES, max_new_tokens=3)
        assert [one.text for one in again] == [one.text for one in written]
    hook.remove()
    read(adapter).register_forward_pre_hook(out_of_memory_above(0), with_kwargs=True)
    with pytest.raises(ModelError, match="tokens do not fit into the device's memory"):
        adapter.log_likelihoods(SENTENCES, [LABELS] * len(SENTENCES))
