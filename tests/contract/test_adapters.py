"""What every adapter promises, asked of each of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from understudy.attribution.words import word_spans
from understudy.errors import ModelError
from understudy.models.base import Adapter, Batch
from understudy.models.likelihood import IGNORE
from understudy.testing import LABELS, SENTENCES

TEXTS = SENTENCES[:4]
GOLD = ("positive", "negative", "neutral", "positive")

ODD_TEXTS = (
    " \t\n ",
    "\ud800 lone \udfff surrogates",
    "👩‍👩‍👧 🇩🇪 ❤️ 1️⃣",
    "e\u0301tude cafe\u0301",
    "שלום عالم",
    "ﬁne ½ Ⅷ ℌ",
    "你好世界",
    "\x00\x07 control",
    "</s> [SEP] <pad> <|endoftext|>",
    "\u200b\u200d\ufeff",
    "a",
    "x" * 3000,
)


def gradient(adapter: Adapter, batch: Batch) -> torch.Tensor:
    embeds = adapter.embed(batch.ids).detach().requires_grad_()
    (found,) = torch.autograd.grad(adapter.score(embeds, batch.mask, batch.labels).sum(), embeds)
    return found


def test_a_batch_scores_as_one_by_one(adapter: Adapter) -> None:
    batch = adapter.encode(TEXTS, GOLD)
    together = adapter.score(adapter.embed(batch.ids), batch.mask, batch.labels)
    for i, (text, target) in enumerate(zip(TEXTS, GOLD, strict=True)):
        alone = adapter.encode([text], [target])
        score = adapter.score(adapter.embed(alone.ids), alone.mask, alone.labels)
        assert score.item() == pytest.approx(together[i].item(), rel=1e-10, abs=1e-12)


def test_a_batch_has_the_gradients_of_one_by_one(adapter: Adapter) -> None:
    batch = adapter.encode(TEXTS, GOLD)
    together = gradient(adapter, batch)
    for i, (text, target) in enumerate(zip(TEXTS, GOLD, strict=True)):
        alone = gradient(adapter, adapter.encode([text], [target]))[0]
        mine = together[i][batch.mask[i].bool()]
        torch.testing.assert_close(mine, alone, rtol=1e-9, atol=1e-13)


def test_padding_has_no_gradient(adapter: Adapter) -> None:
    batch = adapter.encode(TEXTS, GOLD)
    assert batch.mask.eq(0).any()
    assert gradient(adapter, batch)[batch.mask.eq(0)].abs().max() == 0


def test_more_padding_changes_nothing(adapter: Adapter) -> None:
    """Before a decoder's prompt; behind the text where positions are counted; at either end where they are relative."""
    batch = adapter.encode([TEXTS[0]], [GOLD[0]])
    expected = adapter.score(adapter.embed(batch.ids), batch.mask, batch.labels)
    for sides in padding_sides(adapter):
        ids = torch.nn.functional.pad(batch.ids, sides, value=adapter.neutral_id)
        mask = torch.nn.functional.pad(batch.mask, sides, value=0)
        torch.testing.assert_close(
            adapter.score(adapter.embed(ids), mask, batch.labels), expected, rtol=1e-9, atol=1e-12
        )


def padding_sides(adapter: Adapter) -> list[tuple[int, int]]:
    if adapter.architecture == "causal":
        return [(2, 0)]
    return [(0, 2), (2, 0)] if hasattr(adapter.model.config, "relative_attention_num_buckets") else [(0, 2)]


def test_more_padding_behind_the_target_changes_nothing(adapter: Adapter) -> None:
    if adapter.architecture == "classifier":
        pytest.skip("a label has one token")
    batch = adapter.encode([TEXTS[0]], ["the plot is thin"])
    embeds = adapter.embed(batch.ids)
    labels = torch.nn.functional.pad(batch.labels, (0, 2), value=IGNORE)
    torch.testing.assert_close(
        adapter.score(embeds, batch.mask, labels), adapter.score(embeds, batch.mask, batch.labels), rtol=1e-9, atol=0
    )
    assert adapter.token_scores(embeds, batch.mask, labels)[:, -2:].abs().max() == 0


def test_the_model_is_frozen_and_in_eval_mode(adapter: Adapter) -> None:
    assert not any(parameter.requires_grad for parameter in adapter.model.parameters())
    assert not any(module.training for module in adapter.model.modules())


def test_scores_are_the_same_twice(adapter: Adapter) -> None:
    """Dropout left on would show here."""
    batch = adapter.encode(TEXTS, GOLD)
    first, second = (adapter.score(adapter.embed(batch.ids), batch.mask, batch.labels) for _ in range(2))
    assert torch.equal(first, second)


def test_offsets_are_spans_of_the_users_text(adapter: Adapter) -> None:
    batch = adapter.encode(TEXTS, GOLD)
    for text, row in zip(TEXTS, batch.offsets, strict=True):
        assert len(row) == batch.ids.shape[1]
        spans = [span for span in row if span]
        assert all(0 <= start < end <= len(text) for start, end in spans)
        assert spans == sorted(spans)
        covered = "".join(text[i] if any(a <= i < b for a, b in spans) else " " for i in range(len(text)))
        assert covered.split() == text.split()


def test_a_tokens_span_is_its_own_text(adapter: Adapter) -> None:
    batch = adapter.encode(TEXTS, GOLD)
    for i, text in enumerate(TEXTS):
        for token, span in zip(batch.ids[i].tolist(), batch.offsets[i], strict=True):
            if span:
                piece = adapter.tokenizer.decode([token]).strip().removeprefix("##").lower()
                # A bare word-start mark of a SentencePiece tokenizer stands on the letter behind it.
                assert piece in ("", text[slice(*span)].strip().lower())


@pytest.mark.parametrize("text", ODD_TEXTS, ids=lambda text: ascii(text)[:20])
def test_odd_texts_do_no_harm(adapter: Adapter, text: str) -> None:
    batch = adapter.encode([text, TEXTS[0]], [GOLD[0], GOLD[1]])
    scores = adapter.score(adapter.embed(batch.ids), batch.mask, batch.labels)
    assert scores.isfinite().all()
    assert all(0 <= start < end <= len(text) for start, end in filter(None, batch.offsets[0]))
    alone = adapter.encode([TEXTS[0]], [GOLD[1]])
    expected = adapter.score(adapter.embed(alone.ids), alone.mask, alone.labels)
    torch.testing.assert_close(scores[1:], expected, rtol=1e-9, atol=1e-12)
    assert sum(adapter.answers([text], labels=LABELS)[0].probabilities.values()) == pytest.approx(1)


def test_a_long_text_is_cut_and_the_template_stays(adapter: Adapter) -> None:
    text = "wonderful acting " * 300
    batch = adapter.encode([text], ["positive"])
    target = batch.labels.shape[1] if adapter.architecture == "causal" else 0
    assert batch.ids.shape[1] + target == adapter.max_tokens
    assert batch.truncated[0] > 0
    spans = [span for span in batch.offsets[0] if span]
    assert spans[0][0] == 0
    assert spans[-1][1] < len(text)
    suffix = adapter.task.template.partition("{input}")[2]
    assert (
        adapter.tokenizer.decode(batch.ids[0], skip_special_tokens=True)
        .strip()
        .lower()
        .endswith(suffix.strip().lower())
    )


def test_kept_and_cut_tokens_add_up(adapter: Adapter) -> None:
    text = "wonderful acting " * 300
    batch = adapter.encode([text], ["positive"])
    wide = adapter.with_task(adapter.task)
    wide.max_tokens = 10_000
    whole = wide.encode([text], ["positive"])
    assert whole.truncated == (0,)
    assert batch.ids.shape[1] + batch.truncated[0] == whole.ids.shape[1]


def test_a_template_that_fills_the_window_is_refused(adapter: Adapter) -> None:
    wordy = adapter.with_template("word " * 100 + "{input}")
    with pytest.raises(ModelError, match="shorten the template") as caught:
        wordy.encode(["a text"], ["positive"])
    assert caught.value.param == "template"


def test_lengths_are_those_of_the_batch(adapter: Adapter) -> None:
    for text, length in zip(TEXTS, adapter.lengths(TEXTS), strict=True):
        assert adapter.encode([text], ["positive"]).ids.shape == (1, length)


OPEN = ("the plot is thin", "negative", "a film about rain", "one joke")


def answers(adapter: Adapter) -> tuple[str, ...]:
    """An answer for each text: of several tokens where there can be such."""
    return GOLD if adapter.architecture == "classifier" else OPEN


def test_the_score_is_the_mean_of_the_tokens_own_scores(adapter: Adapter) -> None:
    batch = adapter.encode(TEXTS, answers(adapter))
    embeds = adapter.embed(batch.ids)
    scores, own = adapter.token_scores(embeds, batch.mask, batch.labels), adapter.own(batch.labels)
    assert scores.shape == own.shape == batch.labels.shape
    assert scores[~own].abs().sum() == 0
    expected = torch.stack([row[mine].mean() for row, mine in zip(scores, own, strict=True)])
    torch.testing.assert_close(adapter.score(embeds, batch.mask, batch.labels), expected)


def test_one_token_can_be_explained(adapter: Adapter) -> None:
    batch = adapter.encode(TEXTS, answers(adapter))
    embeds = adapter.embed(batch.ids)
    scores = adapter.token_scores(embeds, batch.mask, batch.labels)
    for s in range(batch.labels.shape[1]):
        asked = replace(batch, token=s)
        torch.testing.assert_close(adapter.objective(asked)(embeds, *asked.rows), scores[:, s])


def test_a_contrast_is_the_difference_of_two_scores(adapter: Adapter) -> None:
    one, other = answers(adapter), answers(adapter)[1:] + answers(adapter)[:1]
    batch = adapter.encode(TEXTS, one, other)
    embeds = adapter.embed(batch.ids)
    explained, instead = (adapter.encode(TEXTS, targets) for targets in (one, other))
    difference = adapter.score(embeds, batch.mask, explained.labels) - adapter.score(embeds, batch.mask, instead.labels)
    torch.testing.assert_close(adapter.objective(batch)(embeds, *batch.rows), difference)


def test_a_contrast_is_antisymmetric(adapter: Adapter) -> None:
    there, back = (adapter.encode(TEXTS[:1], [one], [other]) for one, other in (LABELS[:2], LABELS[1::-1]))
    embeds = adapter.embed(there.ids)
    values = [adapter.objective(batch)(embeds, *batch.rows) for batch in (there, back)]
    torch.testing.assert_close(values[0], -values[1])


def test_target_tokens_say_the_target(adapter: Adapter) -> None:
    batch = adapter.encode(TEXTS, answers(adapter))
    for target, tokens, own in zip(
        answers(adapter), adapter.target_tokens(batch), adapter.own(batch.labels), strict=True
    ):
        assert len(tokens) == own.sum()
        assert "".join(tokens).replace(" ", "") == target.replace(" ", "")


def test_words_are_left_out_as_token_ids(adapter: Adapter) -> None:
    """The model reads what is left; the template and the special tokens are always part of that."""
    text = TEXTS[0]
    whole = adapter.tokenize([text])[0]
    words = word_spans(text)
    gone, alone = whole.without(words[:2]), whole.only(words[:2])
    fixed = [token for token, span in zip(whole.ids, whole.offsets, strict=True) if span is None]
    assert len(gone.ids) + len(alone.ids) == len(whole.ids) + len(fixed)
    batch = adapter.collate([gone, alone, whole], [text] * 3, ["positive"] * 3)
    for i, row in enumerate((gone, alone, whole)):
        assert batch.ids[i][batch.mask[i].bool()].tolist() == row.ids
    scores = adapter.score(adapter.embed(batch.ids), batch.mask, batch.labels)
    assert len(set(scores.tolist())) == 3
    torch.testing.assert_close(scores[2:], adapter.score(*embedded(adapter, [text], ["positive"])))


def embedded(adapter: Adapter, texts: Sequence[str], targets: Sequence[str]) -> tuple[torch.Tensor, ...]:
    batch = adapter.encode(texts, targets)
    return adapter.embed(batch.ids), batch.mask, batch.labels


def test_the_likelihoods_of_a_text_with_words_left_out_are_its_own(adapter: Adapter) -> None:
    whole = adapter.tokenize(TEXTS[:1])[0]
    rows = [whole, whole.without(word_spans(TEXTS[0])[:3]), whole.only([]), whole.only(word_spans(TEXTS[0])[:1])]
    together = adapter.likelihoods(rows, [LABELS] * 4)
    assert together[0] == pytest.approx(adapter.log_likelihoods(TEXTS[:1], [LABELS])[0], rel=1e-9)
    assert len({row[0] for row in together}) == 4
    for row, found in zip(rows, together, strict=True):
        assert adapter.likelihoods([row], [LABELS])[0] == pytest.approx(found, rel=1e-9)


def test_likelihoods_do_not_depend_on_neighbours(adapter: Adapter) -> None:
    rows = [LABELS, LABELS[:2], LABELS[1:], LABELS]
    together = adapter.log_likelihoods(TEXTS, rows)
    for text, row, found in zip(TEXTS, rows, together, strict=True):
        assert adapter.log_likelihoods([text], [row])[0] == pytest.approx(found, rel=1e-9)
        assert len(found) == len(row)


def test_likelihoods_follow_the_order_of_the_candidates(adapter: Adapter) -> None:
    values = dict(zip(LABELS, adapter.log_likelihoods(TEXTS[:1], [LABELS])[0], strict=True))
    assert len(set(values.values())) == len(LABELS)
    for order in itertools.permutations(LABELS):
        assert adapter.log_likelihoods(TEXTS[:1], [order])[0] == pytest.approx([values[name] for name in order])


def test_likelihoods_are_probabilities(adapter: Adapter) -> None:
    assert all(value < 0 for value in adapter.log_likelihoods(TEXTS[:1], [LABELS])[0])


def test_answers_sum_to_one_and_name_the_likeliest(adapter: Adapter) -> None:
    for answer in adapter.answers(TEXTS, labels=LABELS):
        assert answer.probabilities is not None
        assert set(answer.probabilities) == set(LABELS)
        assert sum(answer.probabilities.values()) == pytest.approx(1)
        assert answer.probability == max(answer.probabilities.values()) == answer.probabilities[answer.text]


def test_a_rows_own_choices_come_before_the_labels(adapter: Adapter) -> None:
    answers = adapter.answers(TEXTS[:2], [LABELS[:2], None], LABELS)
    assert [set(answer.probabilities or ()) for answer in answers] == [set(LABELS[:2]), set(LABELS)]


def test_the_baseline_differs_in_text_tokens_only(adapter: Adapter) -> None:
    batch = adapter.encode(TEXTS, GOLD)
    differs = (adapter.baseline(batch) - adapter.embed(batch.ids)).abs().sum(-1).gt(0)
    assert torch.equal(differs & ~batch.text_tokens, torch.zeros_like(differs))
    assert torch.equal(differs, batch.text_tokens)


@pytest.mark.parametrize("name", ["t5", "gpt2", "llama"])
def test_generation_is_greedy_and_its_probability_is_that_of_the_answer(
    adapters: Callable[[str], Adapter], name: str
) -> None:
    adapter = adapters(name)
    together = adapter.generate(TEXTS, max_new_tokens=6)
    for text, (answer, probability, _) in zip(TEXTS, together, strict=True):
        alone = adapter.generate([text], max_new_tokens=6)[0]
        assert alone[0] == answer
        assert alone[1] == pytest.approx(probability, rel=1e-9)
        assert 0 < probability <= 1


@pytest.mark.parametrize("name", ["encoder-mean", "bert"])
def test_a_classifier_says_which_labels_it_has(adapters: Callable[[str], Adapter], name: str) -> None:
    with pytest.raises(ModelError, match=r"no label 'joyful': it has negative, neutral, positive"):
        adapters(name).encode(TEXTS[:1], ["joyful"])
    with pytest.raises(ModelError, match="cannot write"):
        adapters(name).generate(TEXTS[:1])
