from __future__ import annotations

import pytest

from understudy.errors import ModelError
from understudy.models.scratch import corpus, train_tokenizer
from understudy.models.text import Encoded, Template, bounded_target, clean, fitting, pad, tokenize
from understudy.testing import SENTENCES, TARGETS

FAMILIES = ("bert", "gpt2", "t5")


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest) -> object:
    return train_tokenizer(request.param, corpus(SENTENCES, TARGETS, "Review: {input} Sentiment:"))


def test_a_template_is_what_stands_around_the_text() -> None:
    template = Template.parse("Is {input} good?")
    assert (template.prefix, template.suffix) == ("Is ", " good?")
    assert template.render("{input} {x}") == "Is {input} {x} good?"


def test_surrogates_are_replaced_one_for_one() -> None:
    assert clean("a\ud800b\udfffc") == "a\ufffdb\ufffdc"


def test_a_text_is_tokenised_together_with_its_template(tokenizer: object) -> None:
    template = Template.parse("Review: {input} Sentiment:")
    row = tokenize(tokenizer, template, [SENTENCES[0]], 512)[0]
    assert row.ids == tokenizer(template.render(SENTENCES[0]))["input_ids"]  # type: ignore[operator]
    assert row.truncated == 0
    spans = [span for span in row.offsets if span]
    assert spans[0][0] == 0
    assert spans[-1][1] == len(SENTENCES[0])
    assert row.offsets[0] is None
    assert row.offsets[-1] is None


@pytest.mark.parametrize("window", [25, 30, 35])
def test_only_the_end_of_the_text_is_cut(tokenizer: object, window: int) -> None:
    template = Template.parse("Review: {input} Sentiment:")
    text = " ".join(SENTENCES)
    whole = tokenize(tokenizer, template, [text], 10_000)[0]
    row = tokenize(tokenizer, template, [text], window)[0]
    users = [i for i, span in enumerate(whole.offsets) if span]
    tail = whole.ids[users[-1] + 1 :]
    assert len(row.ids) == window
    assert row.truncated == len(whole.ids) - window
    assert row.ids == whole.ids[: window - len(tail)] + tail
    assert row.offsets == whole.offsets[: window - len(tail)] + [None] * len(tail)


def test_one_token_of_the_text_is_the_least_that_is_read(tokenizer: object) -> None:
    template = Template.parse("Review: {input} Sentiment:")
    whole = tokenize(tokenizer, template, [SENTENCES[0]], 512)[0]
    users = [i for i, span in enumerate(whole.offsets) if span]
    own = users[-1] + 1 - users[0]  # a byte-level tokenizer has tokens without a character between words
    fixed = len(whole.ids) - own
    assert tokenize(tokenizer, template, [SENTENCES[0]], fixed + 1)[0].truncated == own - 1
    with pytest.raises(ModelError, match=f"take {fixed} of the model's {fixed} tokens") as caught:
        tokenize(tokenizer, template, [SENTENCES[0]], fixed)
    assert caught.value.param == "template"


def test_padding_goes_to_either_side() -> None:
    assert pad([[1, 2], [3]], 9).tolist() == [[1, 2], [3, 9]]
    assert pad([[1, 2], [3]], 9, left=True).tolist() == [[1, 2], [9, 3]]


def test_a_target_is_never_cut() -> None:
    assert bounded_target([1, 2, 3], 3) == [1, 2, 3]
    with pytest.raises(ModelError, match="takes 4 tokens and the model's window is 3"):
        bounded_target([1, 2, 3, 4], 3)


ROW = Encoded(ids=[1, 2, 3, 4, 5, 6], offsets=[None, (0, 3), (3, 6), (5, 8), None, (9, 10)], truncated=2)


@pytest.mark.parametrize(
    ("spans", "left_out"),
    [
        ([], set()),
        ([(0, 3)], {2}),
        ([(0, 4)], {2, 3}),  # a token that lies across the edge goes too
        ([(5, 6)], {3, 4}),  # two tokens share the character
        ([(3, 6), (9, 10)], {3, 4, 6}),
        ([(8, 9)], set()),  # the space between
        ([(0, 10)], {2, 3, 4, 6}),
    ],
)
def test_the_tokens_that_touch_a_span_are_left_out_or_kept_alone(
    spans: list[tuple[int, int]], left_out: set[int]
) -> None:
    gone, alone = ROW.without(spans), ROW.only(spans)
    assert gone.ids == [token for token in ROW.ids if token not in left_out]
    assert alone.ids == [token for token in ROW.ids if token in left_out | {1, 5}]
    assert gone.truncated == alone.truncated == 2
    for row in (gone, alone):
        assert row.offsets == [ROW.offsets[token - 1] for token in row.ids]


def test_a_row_is_cut_from_the_end_of_the_users_text() -> None:
    row = Encoded(ids=[1, 2, 3, 4, 5], offsets=[None, (0, 1), (1, 2), (2, 3), None], truncated=1)
    assert row.cut(5) == row.cut(6) == row
    assert row.cut(4) == Encoded([1, 2, 3, 5], [None, (0, 1), (1, 2), None], truncated=2)
    assert row.cut(3) == Encoded([1, 2, 5], [None, (0, 1), None], truncated=3)
    with pytest.raises(ModelError, match="take 2 of the model's 2 tokens"):
        row.cut(2)


def test_what_has_no_text_cannot_be_cut() -> None:
    with pytest.raises(ModelError, match="shorten the template"):
        Encoded(ids=[1, 2], offsets=[None, None]).cut(1)


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [("one two three", 3, "one two three"), ("one two three", 2, "one two"), ("one two three", 0, ""), ("", 0, "")],
)
def test_an_answer_is_cut_until_it_fits(text: str, most: int, expected: str) -> None:
    found = fitting(text, lambda text: len(text.split()), most)
    assert expected.startswith(found)
    assert len(found.split()) <= most
    assert found or not expected


def test_an_answer_is_cut_where_a_shorter_one_takes_more_tokens() -> None:
    """A tokenizer may need more tokens for less: what does not fit is cut on, and an empty answer ends it."""
    assert fitting("abcdef", lambda text: 9 if text else 1, 3) == ""
    assert fitting("abcdef", lambda _: 9, 3) == ""
