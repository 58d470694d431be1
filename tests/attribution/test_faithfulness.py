"""A linear model over words says what each figure must be; real tiny models say that the figures are theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from understudy.attribution.faithfulness import SHARES, faithfulness
from understudy.attribution.rationale import top_words
from understudy.attribution.words import word_spans
from understudy.errors import ModelError
from understudy.models.base import Adapter
from understudy.models.load import load_adapter
from understudy.models.text import Encoded
from understudy.schemas import Faithfulness, Word
from understudy.testing import LABELS, SENTENCES, TARGETS, tiny_causal, tiny_classifier, tiny_seq2seq

WEIGHTS = {"awful": -2.0, "fine": 1.0, "great": 3.0, "so": 0.25, "a": 0.0}
VOCABULARY = {word: 10 + i for i, word in enumerate(WEIGHTS)}
BIAS = 0.5


class Linear:
    """A model whose logit of `yes` is a weighted sum over the words that it is given, and of `no` is zero."""

    def __init__(self) -> None:
        self.calls: list[list[list[int]]] = []

    def logit(self, words: Sequence[str]) -> float:
        return BIAS + sum(WEIGHTS[word] for word in words)

    def likelihoods(self, encoded: Sequence[Encoded], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        self.calls.append([row.ids for row in encoded])
        names = {token: word for word, token in VOCABULARY.items()}
        found = []
        for row, answers in zip(encoded, candidates, strict=True):
            assert row.ids[0] == 1  # the start token is never left out
            logit = self.logit([names[token] for token in row.ids[1:]])
            found.append([{"yes": logit, "no": 0.0}[answer] for answer in answers])
        return found


def example(text: str) -> tuple[Encoded, tuple[Word, ...]]:
    spans = word_spans(text)
    names = [text[start:end] for start, end in spans]
    words = tuple(
        Word(text=name, start=start, end=end, score=WEIGHTS[name])
        for name, (start, end) in zip(names, spans, strict=True)
    )
    return Encoded([1, *(VOCABULARY[name] for name in names)], [None, *spans]), words


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def ask(adapter: Any, text: str, k: int = 1, closed: Sequence[str] = ("no", "yes")) -> Faithfulness:
    encoded, words = example(text)
    return faithfulness(adapter, [encoded], [words], [top_words(words, k)], ["yes"], [closed])[0]


def test_figures_of_a_linear_model_are_those_worked_out_by_hand() -> None:
    found = ask(Linear(), "so great a fine awful", k=2)
    p = sigmoid(0.5 + 0.25 + 3 + 1 - 2)
    assert found.comprehensiveness == pytest.approx(p - sigmoid(0.5 + 0.25 - 2))
    assert found.sufficiency == pytest.approx(p - sigmoid(0.5 + 3 + 1))
    # of five words 1, 5, 10 and 20 % are the best one, and 50 % the best three
    without = [0.5 + 0.25 + 1 - 2] * 4 + [0.5 - 2]
    only = [0.5 + 3] * 4 + [0.5 + 3 + 1 + 0.25]
    assert found.aopc_comprehensiveness == pytest.approx(sum(p - sigmoid(logit) for logit in without) / 5)
    assert found.aopc_sufficiency == pytest.approx(sum(p - sigmoid(logit) for logit in only) / 5)
    assert found.log_odds == pytest.approx(sum(math.log(sigmoid(logit) / p) for logit in without) / 5)
    assert found.completeness_error is None


def test_shares_are_counted_in_words_and_rounded_up() -> None:
    model = Linear()
    ask(model, " ".join(["great"] * 30))
    lengths = {len(row) - 1 for row in model.calls[0]}
    assert lengths == {30, 29, 28, 27, 24, 15, 1, 2, 3, 6}


def test_equal_shares_weigh_as_often_as_they_come() -> None:
    found = ask(Linear(), "great awful")
    p = sigmoid(1.5)
    assert found.aopc_comprehensiveness == pytest.approx(p - sigmoid(-1.5))
    assert found.log_odds == pytest.approx(math.log(sigmoid(-1.5) / p))


def test_a_good_map_is_told_from_a_bad_one() -> None:
    encoded, words = example("so great a fine awful")
    upside_down = tuple(word.model_copy(update={"score": -word.score}) for word in words)
    good, bad = faithfulness(
        Linear(), [encoded] * 2, [words, upside_down], [top_words(words, 2), top_words(upside_down, 2)],
        ["yes"] * 2, [("no", "yes")] * 2,
    )  # fmt: skip
    assert good.comprehensiveness > 0 > bad.comprehensiveness
    assert good.sufficiency < 0 < bad.sufficiency
    assert good.aopc_comprehensiveness > bad.aopc_comprehensiveness
    assert good.aopc_sufficiency < bad.aopc_sufficiency
    assert good.log_odds < 0 < bad.log_odds


def test_without_a_closed_set_the_answers_own_likelihood_counts() -> None:
    class Open(Linear):
        def logit(self, words: Sequence[str]) -> float:
            return super().logit(words) - 10

    found = ask(Open(), "so great", closed=())
    assert found.comprehensiveness == pytest.approx(math.exp(0.5 + 0.25 + 3 - 10) - math.exp(0.5 + 0.25 - 10))
    assert found.log_odds == pytest.approx(-3)


def test_an_answer_outside_the_closed_set_is_compared_with_it() -> None:
    assert ask(Linear(), "so great", closed=("no",)) == ask(Linear(), "so great", closed=("yes", "no"))


def test_tiny_probabilities_have_log_odds() -> None:
    class Sure(Linear):
        def logit(self, words: Sequence[str]) -> float:
            return 2000.0 * ("great" in words) - 1500.0

    found = ask(Sure(), "so great")
    assert found.log_odds == pytest.approx(-1500)
    assert found.comprehensiveness == 1


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_an_error(poison: float) -> None:
    class Broken(Linear):
        def logit(self, words: Sequence[str]) -> float:
            return super().logit(words) if "great" in words else poison

    for closed in ((), ("no", "yes")):
        with pytest.raises(ModelError, match="not finite without some of the words"):
            ask(Broken(), "so great", closed=closed)


def test_each_input_is_put_to_the_model_once_and_all_of_them_together() -> None:
    model = Linear()
    texts = ["so great a fine awful", "so great", "great", "so great"]
    rows, words = zip(*map(example, texts), strict=True)
    rationales = [top_words(one, 1) for one in words]
    together = faithfulness(model, rows, words, rationales, ["yes"] * 4, [("no", "yes")] * 4)
    assert len(model.calls) == 1
    asked = [tuple(ids) for ids in model.calls[0]]
    assert len(asked) == len(set(asked)) == 5 + 3  # "so", "great" and nothing come with every text of these
    alone = [faithfulness(model, *[[part] for part in parts], ["yes"], [("no", "yes")])[0]
             for parts in zip(rows, words, rationales, strict=True)]  # fmt: skip
    assert together == alone


def test_one_input_with_two_sets_of_answers_is_two_questions() -> None:
    encoded, words = example("so great")
    both = faithfulness(Linear(), [encoded] * 2, [words] * 2, [words[1:]] * 2, ["yes"] * 2, [("no", "yes"), ("yes",)])
    assert both[0].comprehensiveness == pytest.approx(sigmoid(3.75) - sigmoid(0.75))
    assert both[1].comprehensiveness == pytest.approx(math.exp(3.75) - math.exp(0.75))


def test_a_text_without_words_changes_nothing_when_they_are_left_out() -> None:
    found = faithfulness(Linear(), [Encoded([1], [None])], [()], [()], ["yes"], [("no", "yes")])[0]
    assert set(found.model_dump(exclude={"completeness_error"}).values()) == {0}


def test_no_examples_is_no_error() -> None:
    assert faithfulness(Linear(), [], [], [], [], []) == []  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=[tiny_classifier, tiny_seq2seq, tiny_causal])
def adapter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    return load_adapter(str(request.param(tmp_path_factory.mktemp("model"))), dtype="float64")


def mapped(text: str) -> tuple[Word, ...]:
    """Any map will do: a word scores its length, and less at every place."""
    return tuple(
        Word(text=text[start:end], start=start, end=end, score=end - start - place / 100)
        for place, (start, end) in enumerate(word_spans(text))
    )


def test_real_models_are_asked_without_the_words_and_nothing_else(adapter: Adapter) -> None:
    texts = ["So dull, so slow!", *SENTENCES[:3]]
    encoded = adapter.tokenize(texts)
    words = [mapped(text) for text in texts]
    rationales = [top_words(one, 3) for one in words]
    found = faithfulness(adapter, encoded, words, rationales, [LABELS[0]] * 4, [LABELS] * 4)
    for row, rationale, one in zip(encoded, rationales, found, strict=True):
        spans = [(word.start, word.end) for word in rationale]
        inside = [bool(span and any(a < span[1] and span[0] < b for a, b in spans)) for span in row.offsets]
        text = [span is not None for span in row.offsets]
        gone = [not mark for mark in inside]
        alone = [mark or not own for mark, own in zip(inside, text, strict=True)]
        whole, without, only = (probability(adapter, kept(row, keep)) for keep in ([True] * len(text), gone, alone))
        assert 0 < sum(inside) < sum(text)
        assert one.comprehensiveness == pytest.approx(whole - without, rel=1e-9)
        assert one.sufficiency == pytest.approx(whole - only, rel=1e-9)


def kept(row: Encoded, keep: Sequence[bool]) -> Encoded:
    pairs = [pair for pair, mark in zip(zip(row.ids, row.offsets, strict=True), keep, strict=True) if mark]
    return Encoded([token for token, _ in pairs], [span for _, span in pairs])


def probability(adapter: Adapter, row: Encoded) -> float:
    values = [math.exp(value) for value in adapter.likelihoods([row], [LABELS])[0]]
    return values[0] / sum(values)


def test_neighbours_and_order_change_no_figure(adapter: Adapter) -> None:
    words = [mapped(text) for text in SENTENCES]
    parts = list(zip(adapter.tokenize(SENTENCES), words, [top_words(one, 3) for one in words], TARGETS, strict=True))

    def measure(some: list[Any]) -> list[list[float]]:
        found = faithfulness(adapter, *map(list, zip(*some, strict=True)), [LABELS] * len(some))  # type: ignore[call-arg]
        return [list(one.model_dump(exclude={"completeness_error"}).values()) for one in found]

    together = measure(parts)
    for one, turned, part in zip(together, measure(parts[::-1])[::-1], parts, strict=True):
        assert turned == pytest.approx(one, rel=1e-9, abs=1e-12)
        assert measure([part])[0] == pytest.approx(one, rel=1e-9, abs=1e-12)


def test_an_open_answer_of_a_real_model_has_its_own_probability(seq2seq: Adapter) -> None:
    words = [mapped(SENTENCES[0])]
    found = faithfulness(seq2seq, seq2seq.tokenize(SENTENCES[:1]), words, words, ["positive"], [()])[0]
    whole = seq2seq.log_likelihoods(SENTENCES[:1], [["positive"]])[0][0]
    assert found.sufficiency != 0  # punctuation is no word, so all words alone are not the whole text
    assert found.comprehensiveness < math.exp(whole)


def test_a_text_of_one_word_is_left_without_a_token(causal: Adapter) -> None:
    """The tiny causal model has neither a template nor a start token of its own."""
    words = [mapped("dull")]
    found = faithfulness(causal, causal.tokenize(["dull"]), words, words, [LABELS[0]], [LABELS])[0]
    assert found.sufficiency == 0
    assert found.comprehensiveness != 0


def test_the_shares_are_those_of_the_paper() -> None:
    assert SHARES == (0.01, 0.05, 0.1, 0.2, 0.5)
