"""The encoder-decoder adapter against transformers' own forward pass with `labels`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from understudy.errors import ModelError
from understudy.models.base import Adapter
from understudy.models.load import load_adapter
from understudy.testing import SENTENCES


@pytest.fixture(scope="module")
def adapter(folder_of: Callable[[str], Path]) -> Adapter:
    return load_adapter(str(folder_of("seq2seq")), dtype="float64")


def own_forward(adapter: Adapter, text: str, target: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (S, V) and labels (S,), end of sequence included, as anyone would compute them for one text."""
    ids = adapter.tokenizer(text, return_tensors="pt")["input_ids"]
    labels = adapter.tokenizer(text_target=target, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return adapter.model(input_ids=ids, labels=labels).logits[0], labels[0]


def test_the_score_is_the_mean_logit_of_the_targets_own_tokens(adapter: Adapter) -> None:
    targets = ["positive", "the plot is thin", "negative"]
    batch = adapter.encode(SENTENCES[:3], targets)
    scores = adapter.score(adapter.embed(batch.ids), batch.mask, batch.labels)
    for i, target in enumerate(targets):
        logits, labels = own_forward(adapter, SENTENCES[i], target)
        expected = logits[range(len(labels) - 1), labels[:-1]].mean()  # without </s>
        assert scores[i].item() == pytest.approx(expected.item(), rel=1e-10)


def test_a_blank_target_is_scored_at_its_end(adapter: Adapter) -> None:
    batch = adapter.encode(SENTENCES[:1], [" "])
    logits, labels = own_forward(adapter, SENTENCES[0], " ")
    assert labels.tolist() == [adapter.tokenizer.eos_token_id]
    score = adapter.score(adapter.embed(batch.ids), batch.mask, batch.labels)
    assert score.item() == pytest.approx(logits[0, labels[0]].item())


def test_the_likelihood_of_a_candidate_includes_its_end(adapter: Adapter) -> None:
    logits, labels = own_forward(adapter, SENTENCES[0], "the plot is thin")
    expected = logits.log_softmax(-1)[range(len(labels)), labels].sum()
    found = adapter.log_likelihoods(SENTENCES[:1], [["positive", "the plot is thin"]])
    assert found[0][1] == pytest.approx(expected.item(), rel=1e-10)


def test_candidates_are_split_over_passes_without_a_trace(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [["positive", "negative", "the plot is thin"], ["neutral"], [], ["positive"]]
    whole = adapter.log_likelihoods(SENTENCES[:4], rows)
    monkeypatch.setattr("understudy.models.seq2seq.MAX_LOGITS", 1)
    assert [pytest.approx(row, rel=1e-10) for row in adapter.log_likelihoods(SENTENCES[:4], rows)] == whole


def test_a_written_answer_has_the_probability_of_its_tokens(adapter: Adapter) -> None:
    answer, probability, _ = adapter.generate(SENTENCES[:1], max_new_tokens=4)[0]
    ids = adapter.tokenizer(SENTENCES[0], return_tensors="pt")["input_ids"]
    decoder = torch.tensor([[adapter.model.config.decoder_start_token_id]])
    total = 0.0
    for _ in range(4):
        step = adapter.model(input_ids=ids, decoder_input_ids=decoder).logits[0, -1].log_softmax(-1)
        total += step.max().item()
        decoder = torch.cat([decoder, step.argmax().view(1, 1)], dim=1)
        if step.argmax().item() == adapter.tokenizer.eos_token_id:
            break
    assert answer == adapter.tokenizer.decode(decoder[0], skip_special_tokens=True).strip()
    assert probability == pytest.approx(torch.tensor(total).exp().item(), rel=1e-5)


def test_another_template_for_one_call(adapter: Adapter) -> None:
    framed = adapter.with_template("explain: {input}")
    assert adapter.generate(SENTENCES[:2], 3, template="explain: {input}") == framed.generate(SENTENCES[:2], 3)
    assert adapter.task.template == "{input}"


def test_a_target_longer_than_the_window_is_refused(adapter: Adapter) -> None:
    with pytest.raises(ModelError, match="the target takes"):
        adapter.encode(SENTENCES[:1], ["wonderful " * 200])


def test_the_real_t5_tokenizer_gives_the_spans_of_words() -> None:
    from transformers import AutoTokenizer

    from understudy.models.text import Template, tokenize

    place = Path(__file__).parents[3] / "shared" / "models" / "flan-t5-tokenizer"
    if not place.is_dir():
        pytest.skip("the real T5 tokenizer is not beside this checkout")
    tokenizer = AutoTokenizer.from_pretrained(place)
    text = "don't merge ﬁne ½ 👩‍👩‍👧 addr_spec"
    row = tokenize(tokenizer, Template.parse("Q: {input} A:"), [text], 512)[0]
    covered = {i for span in row.offsets if span for i in range(*span)}
    missing = {letter for i, letter in enumerate(text) if i not in covered}
    assert missing <= {" ", "\u200d"}  # its normaliser takes the joiners of an emoji for spaces
    assert row.offsets[-1] is None


@pytest.mark.parametrize("window", [3, 5, 16])
def test_what_was_written_fits_the_window_it_is_explained_in(adapter: Adapter, window: int) -> None:
    """64 tokens are written, of letters that are more tokens when they are read again, into the smallest windows."""
    narrow = adapter.with_task(adapter.task)
    narrow.max_tokens = window
    answers = [one.text for one in narrow.generate(SENTENCES)]
    assert any(answers)
    assert narrow.encode(SENTENCES, answers).labels.shape[1] <= window
    free = [one.text for one in adapter.generate(SENTENCES)]
    assert any(len(adapter.tokenizer(answer)["input_ids"]) > window for answer in free)
