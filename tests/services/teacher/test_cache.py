"""What is known already is not computed again, and nothing else is taken for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.teacher.cache import Cache, Flights, example_key, options_key
from understudy.schemas import Attribution, AttributionExample, AttributionOptions, AttributionRequest, Word

pytestmark = pytest.mark.anyio

OTHER_OPTIONS: dict[str, dict[str, Any]] = {
    "select": {"select": "span"},
    "top_k": {"top_k": 3},
    "top_share": {"top_share": 0.5},
    "threshold": {"threshold": 0.9},
    "ignore": {"ignore": ("punctuation", "stop_words")},
    "labels": {"labels": ("a", "b")},
    "template": {"template": "{input}!"},
    "method": {"method": "input_x_gradient"},
    "settings": {"settings": {"norm": "l2"}},
    "target": {"target": "gold"},
    "label": {"target": "label", "label": "a"},
    "against": {"against": "b"},
    "rows": {"rows": True},
    "aggregation": {"aggregation": "max"},
    "predict": {"predict": False, "target": "gold"},
    "faithfulness": {"faithfulness": True},
    "token_probabilities": {"token_probabilities": 4},
}
OTHER_EXAMPLES: dict[str, dict[str, Any]] = {
    "input": {"input": "y"},
    "output": {"output": "a"},
    "choices": {"choices": ("a", "b")},
    "against": {"against": "b"},
}


def key(settings: Any = None, **options: Any) -> bytes:
    return options_key("f", "float32", AttributionOptions(**options), settings or options.get("settings", {}))


def test_every_option_changes_the_key() -> None:
    """A field that is added to the options must be given another value above."""
    assert set(OTHER_OPTIONS) == set(AttributionOptions.model_fields)
    keys = [key(), *(key(**changed) for changed in OTHER_OPTIONS.values())]
    assert len(set(keys)) == len(keys)


def test_model_precision_and_the_settings_of_the_method_change_the_key() -> None:
    options = AttributionOptions()
    keys = {
        options_key("f", "float32", options, {"norm": "l1"}),
        options_key("g", "float32", options, {"norm": "l1"}),
        options_key("f", "bfloat16", options, {"norm": "l1"}),
        options_key("f", "float32", options, {"norm": "l2"}),
    }
    assert len(keys) == 4


def test_a_default_that_is_spelled_out_is_the_same_question() -> None:
    spelled = AttributionOptions(settings={"norm": "l1"})
    assert options_key("f", "p", spelled, {"norm": "l1"}) == options_key("f", "p", AttributionOptions(), {"norm": "l1"})


def test_the_name_of_the_model_and_the_other_examples_do_not_change_the_key() -> None:
    one = AttributionRequest(model="best", examples=(AttributionExample(input="x"),))
    other = AttributionRequest(model="model-1", examples=(AttributionExample(input="y"),))
    assert (
        options_key("f", "p", one, {})
        == options_key("f", "p", other, {})
        == options_key("f", "p", AttributionOptions(), {})
    )


def test_every_field_of_an_example_but_its_id_changes_the_key() -> None:
    assert {*OTHER_EXAMPLES, "id"} == set(AttributionExample.model_fields)
    plain = AttributionExample(input="x")
    changed = [plain.model_copy(update=change) for change in OTHER_EXAMPLES.values()]
    keys = [example_key(b"o", one) for one in (plain, *changed)]
    assert len(set(keys)) == len(keys)
    assert example_key(b"o", plain.model_copy(update={"id": "7"})) == keys[0]
    assert example_key(b"p", plain) != keys[0]


def found(text: str = "word", score: float = 0.1) -> Attribution:
    words = (Word(text=text, start=0, end=len(text), score=score),)
    return Attribution(
        id=None, prediction="a", probability=1 / 3, explained="a", words=words, rationale=words, tokens=1
    )


def test_what_comes_out_is_what_went_in_to_the_last_digit() -> None:
    cache = Cache(10_000)
    cache.put(b"k", found(score=0.1 + 0.2))
    assert cache.get(b"k") == found(score=0.1 + 0.2)
    assert cache.get(b"l") is None


def test_the_bytes_are_bounded_and_the_one_asked_longest_ago_goes_first() -> None:
    cache = Cache(0)
    cache.put(b"k", found())
    assert (cache.get(b"k"), cache.bytes) == (None, 0)
    measure = Cache(10**9)
    measure.put(b"0", found())
    one = measure.bytes
    cache = Cache(3 * one)
    for name in (b"0", b"1", b"2"):
        cache.put(name, found())
    cache.get(b"0")
    cache.put(b"3", found())
    assert [name for name in (b"0", b"1", b"2", b"3") if cache.get(name)] == [b"0", b"2", b"3"]
    assert cache.bytes == 3 * one
    cache.put(b"4", found("long" * 10_000))
    assert cache.bytes <= 3 * one
    cache.put(b"0", found())
    cache.put(b"0", found())
    assert cache.bytes == one


async def test_those_who_ask_the_same_wait_for_the_same() -> None:
    flights, source = Flights(), asyncio.get_running_loop().create_future()
    flights.start(b"k", source)
    waiters = [flights.join(b"k", lambda error: error) for _ in range(3)]
    waiters[1].cancel()
    await asyncio.sleep(0)
    assert not source.cancelled()
    source.set_result(found())
    assert await waiters[0] == await waiters[2] == found()
    assert b"k" not in flights


async def test_a_computation_that_everybody_has_left_is_cancelled() -> None:
    flights, source = Flights(), asyncio.get_running_loop().create_future()
    flights.start(b"k", source)
    waiters = [flights.join(b"k", lambda error: error) for _ in range(2)]
    for waiter in waiters:
        waiter.cancel()
    await asyncio.sleep(0)
    assert source.cancelled()
    assert b"k" not in flights  # at once: whoever comes now must not get a cancelled one


async def test_each_is_told_of_an_error_in_its_own_words() -> None:
    flights, source = Flights(), asyncio.get_running_loop().create_future()
    flights.start(b"k", source)
    waiters = [flights.join(b"k", lambda error, name=name: KeyError(f"{name}: {error}")) for name in "ab"]
    source.set_exception(ValueError("bad"))
    for name, waiter in zip("ab", waiters, strict=True):
        with pytest.raises(KeyError, match=f"{name}: bad"):
            await waiter
