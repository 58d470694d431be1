"""The decoder adapter against transformers' own forward pass over prompt and target."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
)

from understudy.errors import ModelError
from understudy.models.base import Adapter, Written
from understudy.models.causal import CausalAdapter, prompt_template, target_ids
from understudy.models.load import load_adapter
from understudy.models.read_on import reads_on
from understudy.testing import SENTENCES


@pytest.fixture(scope="module", params=["causal", "llama"])
def adapter(request: pytest.FixtureRequest, folder_of: Callable[[str], Path]) -> Adapter:
    return load_adapter(str(folder_of(request.param)), dtype="float64")


def own_forward(adapter: Adapter, text: str, target: str) -> tuple[torch.Tensor, list[int]]:
    """The logits (S, V) that predict the target's tokens, and those tokens."""
    prompt = adapter.tokenizer(adapter.task.template.replace("{input}", text))["input_ids"]
    answer = adapter.tokenizer(" " + target, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = adapter.model(input_ids=torch.tensor([prompt + answer])).logits[0]
    return logits[len(prompt) - 1 : -1], answer


def test_the_last_token_of_the_prompt_predicts_the_first_of_the_target(adapter: Adapter) -> None:
    targets = ["positive", "the plot is thin", "negative"]
    batch = adapter.encode(SENTENCES[:3], targets)
    scores = adapter.score(adapter.embed(batch.ids), batch.mask, batch.labels)
    for i, target in enumerate(targets):
        logits, answer = own_forward(adapter, SENTENCES[i], target)
        expected = logits[range(len(answer)), answer].mean()
        assert scores[i].item() == pytest.approx(expected.item(), rel=1e-10)


def test_the_likelihood_of_a_candidate_includes_its_end(adapter: Adapter) -> None:
    end = adapter.tokenizer.eos_token
    logits, answer = own_forward(adapter, SENTENCES[0], "the plot" + end)
    assert answer[-1] == adapter.tokenizer.eos_token_id
    expected = logits.log_softmax(-1)[range(len(answer)), answer].sum()
    found = adapter.log_likelihoods(SENTENCES[:1], [["positive", "the plot"]])
    assert found[0][1] == pytest.approx(expected.item(), rel=1e-10)


def test_a_prompt_ends_where_its_target_begins(adapter: Adapter) -> None:
    """Prompts are padded on the left and targets on the right, so that one column of logits predicts all beginnings."""
    targets = ["positive", "the plot is thin"]
    batch = adapter.encode(SENTENCES[:2], targets)
    assert batch.mask[:, -1].all()
    assert batch.labels[:, 0].ne(-100).all()
    for labels, target in zip(batch.labels, targets, strict=True):
        assert labels[labels.ne(-100)].tolist() == target_ids(adapter.tokenizer, adapter.task.template, target)
    assert batch.text_tokens.shape == batch.ids.shape


def test_positions_follow_the_mask(adapter: Adapter) -> None:
    """Padding before the text may not shift what a decoder takes for a token's position."""
    batch = adapter.encode(SENTENCES[:1], ["positive"])
    ids, mask = (
        torch.nn.functional.pad(tensor, (5, 0), value=value)
        for tensor, value in ((batch.ids, adapter.neutral_id), (batch.mask, 0))
    )
    expected = adapter.score(adapter.embed(batch.ids), batch.mask, batch.labels)
    torch.testing.assert_close(adapter.score(adapter.embed(ids), mask, batch.labels), expected, rtol=1e-10, atol=1e-12)


def test_two_answers_are_scored_behind_the_same_prompt(adapter: Adapter) -> None:
    """The longer one cuts the prompt for both, or the contrast would compare two texts."""
    text, long = "dull film " * 100, "the plot is thin, but the acting is wonderful"
    batch = adapter.encode([text], ["positive"], [long])
    assert batch.against is not None
    assert batch.ids.shape[1] + batch.against.shape[1] == adapter.max_tokens


def test_the_prompt_is_cut_and_never_the_target(adapter: Adapter) -> None:
    target = "the plot is thin, but the acting is wonderful"
    batch = adapter.encode(["dull film " * 100], [target])
    assert batch.ids.shape[1] + batch.labels.shape[1] == adapter.max_tokens
    assert batch.labels[batch.labels.ne(-100)].tolist() == target_ids(adapter.tokenizer, adapter.task.template, target)
    with pytest.raises(ModelError, match="the target takes"):
        adapter.encode(["dull"], ["wonderful " * 200])


def test_all_candidates_of_a_text_follow_the_same_prompt(adapter: Adapter) -> None:
    """A long candidate cuts the prompt for the short one too, or the two would not be compared alike."""
    text, long = "dull film " * 100, "the plot is thin, but the acting is wonderful"
    alone = adapter.log_likelihoods([text], [["positive"]])[0][0]
    beside = adapter.log_likelihoods([text], [["positive", long]])[0][0]
    again = adapter.log_likelihoods([text, text], [["positive", long], ["positive"]])
    assert beside != alone
    assert [row[0] for row in again] == pytest.approx([beside, alone], rel=1e-10)


def test_a_prompt_is_read_once_for_all_its_targets(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers are those of each target alone behind its text, whatever the lengths of texts and targets."""
    names = ["positive", "the plot is thin", "negative", "the plot", "x"]
    texts, wanted = SENTENCES[:4], [names, names[:1], names[1:4], names[::-1]]
    alone = [
        [adapter.log_likelihoods([text], [[name]])[0][0] for name in row]
        for text, row in zip(texts, wanted, strict=True)
    ]
    read: list[tuple[int, ...]] = []
    forward = type(adapter.model).forward

    def counted(model: Any, *args: Any, **options: Any) -> Any:
        read.append(tuple(options["input_ids"].shape))
        return forward(model, *args, **options)

    monkeypatch.setattr(type(adapter.model), "forward", counted)
    found = adapter.log_likelihoods(texts, wanted)
    assert [len(row) for row in found] == [len(row) for row in wanted]
    for ours, theirs in zip(found, alone, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-10)
    longest = max(len(row.ids) for row in adapter.tokenize(texts))
    last = max(len(target_ids(adapter.tokenizer, adapter.task.template, name, ended=True)) for name in names) - 1
    assert read == [(len(texts), longest), (sum(map(len, wanted)), last)]


def test_a_batch_may_end_between_two_targets_of_a_text(adapter: Adapter) -> None:
    names = ["positive", "the plot is thin", "negative", "x"]
    whole = adapter.log_likelihoods(SENTENCES[:3], [names] * 3)
    narrow = copy.copy(adapter)
    narrow.max_padded_tokens = 3 * max(len(row.ids) for row in adapter.tokenize(SENTENCES[:3]))
    for ours, theirs in zip(narrow.log_likelihoods(SENTENCES[:3], [names] * 3), whole, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-10)


def test_a_model_that_keeps_nothing_of_what_it_read_is_asked_with_whole_texts(adapter: CausalAdapter) -> None:
    forgetful = copy.copy(adapter)
    forgetful.reads_on = False
    wanted = [["positive", "the plot is thin"]] * 2
    found, theirs = (one.log_likelihoods(SENTENCES[:2], wanted) for one in (forgetful, adapter))
    assert found[1] == pytest.approx(theirs[1], rel=1e-10)


SMALL: Any = {
    "vocab_size": 9,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
}


def test_a_recurrent_decoder_is_given_whole_texts() -> None:
    assert reads_on(LlamaForCausalLM(LlamaConfig(**SMALL)))
    assert not reads_on(Qwen3_5ForCausalLM(Qwen3_5TextConfig(**SMALL)))
    assert not reads_on(MambaForCausalLM(MambaConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1)))


def test_a_written_answer_has_the_probability_of_its_tokens(adapter: Adapter) -> None:
    _, probability, _ = adapter.generate(SENTENCES[:1], max_new_tokens=4)[0]
    ids = torch.tensor([adapter.tokenizer(adapter.task.template.replace("{input}", SENTENCES[0]))["input_ids"]])
    total = 0.0
    for _ in range(4):
        step = adapter.model(input_ids=ids).logits[0, -1].log_softmax(-1)
        total += step.max().item()
        ids = torch.cat([ids, step.argmax().view(1, 1)], dim=1)
        if step.argmax().item() == adapter.tokenizer.eos_token_id:
            break
    assert probability == pytest.approx(torch.tensor(total).exp().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("template", "suffix"),
    [("Q: {input} A: ", " A:"), ("Q: {input}\nA:", "\nA:"), ("{input}\n", "\n"), ("{input}", "")],
)
def test_a_prompt_does_not_end_in_the_targets_space(template: str, suffix: str) -> None:
    assert prompt_template(template).suffix == suffix


def test_a_target_is_tokenised_as_it_follows_the_prompt(adapter: Adapter) -> None:
    decode = adapter.tokenizer.decode
    assert decode(target_ids(adapter.tokenizer, "Q: {input} A: ", " positive ")) == " positive"
    assert decode(target_ids(adapter.tokenizer, "Q: {input} A:\n", "positive")) == "positive"
    assert decode(target_ids(adapter.tokenizer, "{input}", "你好 👍")) == " 你好 👍"


def test_an_empty_prompt_becomes_the_start_token(adapter: Adapter) -> None:
    bare = adapter.with_template("{input}")
    batch = bare.encode(["", "dull"], ["positive", "positive"])
    assert batch.ids[0, -1] == adapter.tokenizer.bos_token_id
    assert batch.mask[0].sum() == 1
    assert set(batch.offsets[0]) == {None}
    likelihoods = bare.likelihoods([bare.tokenize(["dull"])[0].without([(0, 4)])], [["positive"]])
    assert likelihoods == [pytest.approx(bare.log_likelihoods([""], [["positive"]])[0])]


def test_only_the_logits_that_are_needed_are_computed(adapter: Adapter) -> None:
    """A vocabulary of 150,000 over a whole prompt would take more memory than the model."""
    assert isinstance(adapter, CausalAdapter)
    seen: list[int] = []
    head = adapter.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda *call: seen.append(call[2].shape[1]))
    batch = adapter.encode(SENTENCES[:1], ["positive"])
    adapter.score(adapter.embed(batch.ids), batch.mask, batch.labels)
    hook.remove()
    assert seen == [int(batch.labels.ne(-100).sum()) + 1]


@pytest.mark.parametrize(("template", "window"), [("{input}", 4), ("{input}", 12), ("Q: {input}\nA:", 16)])
def test_what_was_written_fits_behind_the_text_it_answers(adapter: Adapter, template: str, window: int) -> None:
    """Half a letter is one token when it is written and three when it is read again."""
    narrow = adapter.with_template(template)
    narrow.max_tokens = window
    texts = [*SENTENCES, "", "a"]
    answers = [one.text for one in narrow.generate(texts)]
    assert any(answers)
    batch = narrow.encode(texts, answers)
    assert batch.ids.shape[1] + batch.labels.shape[1] <= window + max(map(len, batch.offsets))
    for i in range(len(texts)):
        assert int(batch.mask[i].sum() + narrow.own(batch.labels)[i].sum()) <= window
    likelihoods = narrow.log_likelihoods(texts, [[answer] for answer in answers])  # which has the end besides
    assert all(value < 0 for row in likelihoods for value in row)


def test_an_answer_that_reads_as_more_tokens_than_were_written_is_cut(adapter: Adapter) -> None:
    assert isinstance(adapter, CausalAdapter)
    narrow = adapter.with_template("{input}")
    narrow.max_tokens = 12
    prompt = narrow.tokenize(["dull"])[0]
    broken = "\N{REPLACEMENT CHARACTER}" * 8
    assert len(target_ids(adapter.tokenizer, "{input}", broken)) > 12
    cut, whole = (narrow._fitting(Written(text, 0.5), prompt) for text in (broken, "the plot"))
    assert 0 < len(cut.text) < 8
    assert cut.unfinished
    assert whole == Written("the plot", 0.5)
