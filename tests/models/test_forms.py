"""Labels with reasons in one text: composed, split, asked for and scored, against the raw model's own numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from understudy.attribution.attribute import attribute
from understudy.errors import InvalidRequest, ModelError
from understudy.models.base import ANSWER_TOKENS, Written
from understudy.models.forms import FORMS, SEPARATORS, Form, compose, split
from understudy.models.load import ModelCard, fingerprint, load_adapter, load_task, save
from understudy.models.scratch import corpus, train_tokenizer
from understudy.models.writer import Writer
from understudy.schemas import AttributionExample, AttributionOptions, TaskSpec
from understudy.testing import LABELS, SENTENCES, TARGETS, tiny_causal, tiny_seq2seq

WITH_REASONS: tuple[Form, ...] = ("label_then_rationale", "rationale_then_label")
CHOICES = ["positive", "negative", "the plot is thin"]
HOSTILE = [
    "positive",
    "not good",
    "because",
    "because:",
    "answer:",
    "yes because: no",
    "the answer: 42",
    "answer: because: answer:",
    "because: x because:",
    "a:b",
    "entailment:",
]
WORDS: list[list[str]] = [[], ["great"], ["great", "fun"], ["because", "answer"], ["10:30", "don't", "os.path"]]


@pytest.fixture(scope="module", params=["seq2seq", "causal"])
def adapter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """Models that write something, in a window that cuts nothing."""
    folder = tmp_path_factory.mktemp("models") / "writer"
    place = tiny_seq2seq(folder, seed=3) if request.param == "seq2seq" else tiny_causal(folder)
    found = load_adapter(str(place), dtype="float64", max_tokens=512)
    assert isinstance(found, Writer)
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("label", HOSTILE)
@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_what_was_composed_is_split_into_the_same_parts(form: Form, label: str, words: list[str]) -> None:
    reasons = "" if form == "label" else " ".join(words)
    assert split(form, compose(form, label, words)) == (label, reasons)


@pytest.mark.parametrize(
    ("form", "written", "label", "reasons"),
    [
        ("label", " positive because: fun ", "positive because: fun", ""),
        ("label_then_rationale", "positive", "positive", ""),
        ("label_then_rationale", "because: fun", "", "fun"),
        ("label_then_rationale", "", "", ""),
        ("label_then_rationale", "it is abecause: fun", "it is abecause: fun", ""),
        ("rationale_then_label", "great fun", "", "great fun"),
        ("rationale_then_label", "great fun answer:", "", "great fun"),
        ("rationale_then_label", "answer:\tyes\n", "yes", ""),
    ],
)
def test_a_text_that_broke_off_has_the_parts_that_were_begun(
    form: Form, written: str, label: str, reasons: str
) -> None:
    assert split(form, written) == (label, reasons)


def tokenizers() -> dict[str, Callable[[], Any]]:
    def t5() -> Any:
        from transformers import AutoTokenizer

        place = Path(__file__).parents[3] / "shared" / "models" / "flan-t5-tokenizer"
        if not place.is_dir():
            pytest.skip("the real T5 tokenizer is not beside this checkout")
        return AutoTokenizer.from_pretrained(place)

    taught = corpus(SENTENCES, [*TARGETS, *SEPARATORS.values()], "{input}")
    return {"real T5": t5} | {family: lambda f=family: train_tokenizer(f, taught) for family in ("t5", "gpt2")}


@pytest.mark.parametrize("form", WITH_REASONS)
@pytest.mark.parametrize("name", sorted(tokenizers()))
def test_tokenizers_keep_what_separates_the_parts(name: str, form: Form) -> None:
    tokenizer = tokenizers()[name]()
    written = compose(form, "positive", ["wonderful", "acting"])
    ids = tokenizer(text_target=written)["input_ids"]
    assert split(form, tokenizer.decode(ids, skip_special_tokens=True)) == ("positive", "wonderful acting")
    # A beginning's tokens are the whole text's first ones: nothing melts into the separator.
    start = compose(form, "positive" if form == "label_then_rationale" else "", ["wonderful acting"][form[0] == "l" :])
    begun = [token for token in tokenizer(text_target=start)["input_ids"] if token not in tokenizer.all_special_ids]
    assert ids[: len(begun)] == begun


def raw(adapter: Writer, text: str, begun: str, rest: str, *, ended: bool) -> tuple[torch.Tensor, list[int]]:
    """Log-probabilities (S, V) of what follows `begun`, and the S tokens of `rest`: one text through the bare model."""
    tokenizer, model = adapter.tokenizer, adapter.model
    whole = f"{begun} {rest}".strip()
    end = [tokenizer.eos_token_id] if ended else []
    if adapter.architecture == "seq2seq":
        given, ids = (tokenizer(part, add_special_tokens=False)["input_ids"] if part else [] for part in (begun, whole))
        decoder = torch.tensor([[model.config.decoder_start_token_id, *ids]])
        logits = model(input_ids=tokenizer(text, return_tensors="pt")["input_ids"], decoder_input_ids=decoder).logits[0]
    else:
        prompt = adapter.task.template.replace("{input}", text)
        read = tokenizer(prompt)["input_ids"]
        given, ids = (
            tokenizer(f"{prompt} {part}" if part else prompt)["input_ids"][len(read) :] for part in (begun, whole)
        )
        logits = model(input_ids=torch.tensor([[*read, *ids]])).logits[0, len(read) - 1 :]
    assert ids[: len(given)] == given
    return logits[len(given) :].log_softmax(-1), [*ids[len(given) :], *end]


def log_probability(adapter: Writer, text: str, begun: str, rest: str, *, ended: bool) -> float:
    with torch.inference_mode():
        steps, tokens = raw(adapter, text, begun, rest, ended=ended)
    return float(sum(steps[place, token] for place, token in enumerate(tokens)))


def greedy(adapter: Writer, text: str, begun: str) -> str:
    """What the bare model writes behind a beginning, a token at a time."""
    tokenizer = adapter.tokenizer
    with torch.inference_mode():
        if adapter.architecture == "seq2seq":
            inputs = {"input_ids": tokenizer(text, return_tensors="pt")["input_ids"]}
            start = [adapter.model.config.decoder_start_token_id]
            start += tokenizer(begun, add_special_tokens=False)["input_ids"] if begun else []
            step = lambda ids: adapter.model(**inputs, decoder_input_ids=torch.tensor([ids])).logits[0, -1]  # noqa: E731
        else:
            prompt = adapter.task.template.replace("{input}", text)
            start = tokenizer(f"{prompt} {begun}" if begun else prompt)["input_ids"]
            step = lambda ids: adapter.model(input_ids=torch.tensor([ids])).logits[0, -1]  # noqa: E731
        ids = list(start)
        for _ in range(ANSWER_TOKENS):
            ids.append(int(step(ids).argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
    return str(tokenizer.decode(ids[len(start) :], skip_special_tokens=True)).strip()


def expected(values: Sequence[float]) -> list[float]:
    return torch.tensor(values, dtype=torch.float64).softmax(-1).tolist()


def test_a_label_that_comes_first_is_scored_as_the_beginning_of_a_text(adapter: Writer) -> None:
    """Its separator counts, and no end: `the plot` must not win over `the plot is thin` by stopping early."""
    student = adapter.with_form("label_then_rationale")
    for text, answer in zip(SENTENCES[:3], student.answers(SENTENCES[:3], [CHOICES] * 3), strict=True):
        values = [log_probability(adapter, text, "", f"{name} because:", ended=False) for name in CHOICES]
        assert student.log_likelihoods([text], [CHOICES])[0] == pytest.approx(values, rel=1e-9)
        assert list((answer.probabilities or {}).values()) == pytest.approx(expected(values), rel=1e-9)
        assert answer.reasons is None


def test_a_label_that_comes_last_is_scored_behind_the_reasons_that_were_written(adapter: Writer) -> None:
    student = adapter.with_form("rationale_then_label")
    for text, answer in zip(SENTENCES[:3], student.answers(SENTENCES[:3], [CHOICES] * 3), strict=True):
        reasons = (answer.reasons or Written("", 0)).text
        assert reasons == split("rationale_then_label", greedy(adapter, text, ""))[1]
        assert reasons
        # What was written can be other tokens when it is read again, and more of them than fit.
        (target,) = student._targets(student.tokenize([text]), [CHOICES[:1]], [Written(reasons, 1.0)])[0]
        begun = adapter.tokenizer.decode(target.ids[: target.given]).strip()
        assert begun.endswith(" answer:")
        assert reasons.startswith(begun.removesuffix(" answer:"))
        values = [log_probability(adapter, text, begun, name, ended=True) for name in CHOICES]
        found = student.log_likelihoods([text], [CHOICES])[0]
        assert list((answer.probabilities or {}).values()) == pytest.approx(expected(values), rel=1e-9)
        assert found == pytest.approx(values, rel=1e-9)


def test_a_label_alone_is_scored_with_its_end(adapter: Writer) -> None:
    values = [log_probability(adapter, SENTENCES[0], "", name, ended=True) for name in CHOICES]
    assert adapter.log_likelihoods(SENTENCES[:1], [CHOICES])[0] == pytest.approx(values, rel=1e-9)


def test_the_reasons_of_a_chosen_label_are_written_behind_it(adapter: Writer) -> None:
    student = adapter.with_form("label_then_rationale")
    texts = SENTENCES[:6]
    answers = student.answers(texts, [[LABELS[i % 3]] for i in range(6)])
    assert len({answer.text for answer in answers}) == 3
    for text, answer, (reasons, probability, _) in zip(texts, answers, student.reasons(texts, answers), strict=True):
        assert reasons == greedy(adapter, text, f"{answer.text} because:")
        assert 0 < probability < 1


@pytest.mark.parametrize("form", WITH_REASONS)
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
def test_an_answer_depends_on_its_own_input_only(adapter: Writer, form: Form, closed: bool) -> None:
    student = adapter.with_form(form)
    choices = [CHOICES] * 3 if closed else None
    together = student.answers(SENTENCES[:3], choices)
    reasons = student.reasons(SENTENCES[:3], together)
    for i, text in enumerate(SENTENCES[:3]):
        (alone,) = student.answers([text], [CHOICES] if closed else None)
        assert alone.text == together[i].text
        assert alone.probability == pytest.approx(together[i].probability, rel=1e-9)
        assert alone.probabilities == (together[i].probabilities and pytest.approx(together[i].probabilities, rel=1e-9))
        (again,) = student.reasons([text], [alone])
        assert again == (reasons[i].text, pytest.approx(reasons[i].probability, rel=1e-9), reasons[i].unfinished)


@pytest.mark.parametrize("form", WITH_REASONS)
def test_an_open_answer_is_told_from_its_reasons(adapter: Writer, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    student = adapter.with_form(form)
    written = Written(compose(form, "forty two", ["six", "seven"]), 0.25)
    monkeypatch.setattr(student, "write", lambda encoded, *_, **__: [written] * len(encoded))
    (answer,) = student.answers(SENTENCES[:1])
    assert (answer.text, answer.probability, answer.reasons) == ("forty two", 0.25, Written("six seven", 0.25))
    assert student.reasons(SENTENCES[:1], [answer]) == [Written("six seven", 0.25)]


@pytest.mark.parametrize(
    ("form", "written", "unfinished"),
    [
        ("label", "forty two", True),
        ("label_then_rationale", "forty two", True),
        ("label_then_rationale", "forty two because: six", False),
        ("rationale_then_label", "six answer: forty", True),
        ("rationale_then_label", "six seven", True),
    ],
)
def test_an_answer_broke_off_where_it_was_the_last_thing_written(
    adapter: Writer, form: Form, written: str, unfinished: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = adapter.with_form(form)
    for cut in (True, False):
        monkeypatch.setattr(student, "write", lambda encoded, *_, cut=cut: [Written(written, 0.5, cut)] * len(encoded))
        assert student.answers(SENTENCES[:1])[0].unfinished is (cut and unfinished)


def test_a_model_writes_as_many_tokens_as_it_may_and_says_where_that_was_too_few(adapter: Writer) -> None:
    assert adapter.answer_tokens == adapter.longest_answer == ANSWER_TOKENS
    long, short = (adapter.with_answer_tokens(most).answers(SENTENCES) for most in (90, 5))
    open_ones = [pair for pair in zip(long, short, strict=True) if pair[1].unfinished]
    assert open_ones
    for one, other in open_ones:
        assert one.text.startswith(other.text)
        assert one.probability < other.probability
    free = [one.text for one, _ in open_ones if one.unfinished]
    assert any(len(adapter.written_ids(text, ended=False)) > ANSWER_TOKENS for text in free)
    assert adapter.with_answer_tokens(10_000).longest_answer <= adapter.max_tokens
    prints = [fingerprint(adapter.with_answer_tokens(most)) for most in (ANSWER_TOKENS, 90)]
    assert prints[0] == fingerprint(adapter) != prints[1]


def test_an_answer_that_came_to_its_end_within_the_bound_is_finished(
    adapter: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound counts the token that ends an answer."""
    rows = adapter.tokenize(SENTENCES)
    for row in rows:
        ids, mask = adapter.stack([row])
        written = adapter.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4, min_new_tokens=4)[0, -4:]
        if int(written[3]) not in written[:3]:
            break
    monkeypatch.setattr(adapter.model.generation_config, "eos_token_id", int(written[3]))
    assert [adapter.write([row], most)[0].unfinished for most in (3, 4, 9)] == [True, False, False]


def test_what_may_be_written_counts_in_a_batch_where_it_is_much(adapter: Writer) -> None:
    rows = adapter.tokenize(SENTENCES[:2])
    read = [len(row.ids) for row in rows]
    assert adapter._read_and_written(rows, 2 * ANSWER_TOKENS) == read
    assert adapter._read_and_written(rows, 2 * ANSWER_TOKENS + 50) == [length + 50 for length in read]


def test_a_target_fits_where_it_can_be_scored(adapter: Writer) -> None:
    narrow = adapter.with_template("Q: {input} A:")
    narrow.max_tokens = 40
    words = next(n for n in range(1, 60) if not narrow.fits(" ".join(["rain"] * n)))
    longest, too_long = (" ".join(["rain"] * n) for n in (words - 1, words))
    assert narrow.log_likelihoods(SENTENCES[:1], [[longest]])[0][0] < 0
    with pytest.raises(ModelError):
        narrow.log_likelihoods(SENTENCES[:1], [[too_long]])
    assert narrow.target_room < 40 if adapter.architecture == "causal" else narrow.target_room == 40


@pytest.mark.parametrize("window", [16, 24, 40])
@pytest.mark.parametrize("form", WITH_REASONS)
def test_small_windows_leave_room_for_the_label(adapter: Writer, form: Form, window: int) -> None:
    student = adapter.with_form(form).with_template("{input}")
    student.max_tokens = window
    choices = [["positive", "negative"]] * len(SENTENCES)
    answers = student.answers(SENTENCES, choices)
    assert all(sum((answer.probabilities or {}).values()) == pytest.approx(1) for answer in answers)
    assert len(student.reasons(SENTENCES, answers)) == len(SENTENCES)


def test_a_form_shares_the_weights_and_leaves_its_adapter_as_it_was(adapter: Writer) -> None:
    before = adapter.answers(SENTENCES[:2], [CHOICES] * 2)
    student = adapter.with_form("rationale_then_label")
    assert student.model is adapter.model
    assert student.with_template("Q: {input}").form == student.with_task(TaskSpec()).form == "rationale_then_label"
    assert adapter.form == "label"
    assert adapter.answers(SENTENCES[:2], [CHOICES] * 2) == before
    assert len({fingerprint(adapter.with_form(form)) for form in FORMS}) == 3


def test_a_classifier_writes_in_no_form(folder_of: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match="a classifier cannot write"):
        load_adapter(str(folder_of("classifier"))).with_form("label_then_rationale")


def test_the_card_says_in_which_form_a_loaded_model_answers(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    place = folder_of("seq2seq")
    adapter, task = load_adapter(str(place)), load_task(place)
    assert adapter.form == "label"
    assert task is not None
    card = ModelCard(base_model="x", recipe="x", seed=0, form="label_then_rationale", max_tokens=64)
    save(adapter.model, adapter.tokenizer, task, card, tmp_path)
    again = load_adapter(str(tmp_path))
    assert again.form == "label_then_rationale"
    expected = adapter.with_form("label_then_rationale").answers(SENTENCES[:2], [CHOICES] * 2)
    assert again.answers(SENTENCES[:2], [CHOICES] * 2) == expected


def test_a_map_explains_the_label_where_it_stands_at_the_beginning(adapter: Writer) -> None:
    """What follows a label has no say in its logits: the label alone is explained as in the whole text."""
    target = "the plot is thin"
    batch = adapter.encode(SENTENCES[:1], [target])
    found = adapter.token_scores(adapter.embed(batch.ids), batch.mask, batch.labels)
    whole = adapter.encode(SENTENCES[:1], [compose("label_then_rationale", target, ["thin"])])
    there = adapter.token_scores(adapter.embed(whole.ids), whole.mask, whole.labels)
    own = int(adapter.own(batch.labels).sum())
    torch.testing.assert_close(found[:, :own], there[:, :own])


def test_no_map_is_made_of_an_answer_that_follows_written_reasons(adapter: Writer) -> None:
    examples, options = [AttributionExample(input=SENTENCES[0], output="positive")], AttributionOptions(target="gold")
    assert attribute(adapter.with_form("label_then_rationale"), examples, options)
    with pytest.raises(InvalidRequest, match="writes its reasons") as caught:
        attribute(adapter.with_form("rationale_then_label"), examples, options)
    assert caught.value.param == "model"
