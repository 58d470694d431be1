"""What every adapter promises, asked of each of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from understudy.errors import ModelError
from understudy.models.base import Adapter, Batch
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
    """At either end where positions are relative or follow the mask, behind the text where they are counted."""
    batch = adapter.encode([TEXTS[0]], [GOLD[0]])
    expected = adapter.score(adapter.embed(batch.ids), batch.mask, batch.labels)
    causal = adapter.architecture == "causal"
    either = causal or hasattr(adapter.model.config, "relative_attention_num_buckets")
    for sides in ((0, 2), (2, 0)) if either else ((0, 2),):
        ids = torch.nn.functional.pad(batch.ids, sides, value=adapter.neutral_id)
        mask = torch.nn.functional.pad(batch.mask, sides, value=0)
        torch.testing.assert_close(
            adapter.score(adapter.embed(ids), mask, batch.labels), expected, rtol=1e-9, atol=1e-12
        )


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
    assert batch.ids.shape[1] == adapter.max_tokens
    assert batch.truncated[0] > 0
    spans = [span for span in batch.offsets[0] if span]
    assert spans[0][0] == 0
    assert spans[-1][1] < len(text)
    suffix = adapter.task.template.partition("{input}")[2]
    ids = batch.ids[0][batch.labels[0].eq(-100)] if adapter.architecture == "causal" else batch.ids[0]
    assert adapter.tokenizer.decode(ids, skip_special_tokens=True).strip().lower().endswith(suffix.strip().lower())


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
        batch = adapter.encode([text], ["positive"])
        target = int(batch.labels.ne(-100).sum()) if adapter.architecture == "causal" else 0
        assert batch.ids.shape == (1, length + target)


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
    for text, (answer, probability) in zip(TEXTS, together, strict=True):
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
