"""What a terminal shows of attributions: the same with and without colours, and never what it would obey."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console, RenderableType

from understudy.attribution.comparison import COLUMNS, Comparison, Figure, MethodRow
from understudy.attribution.terminal import attribution_view, bracketed, comparison_view, marked, words_view
from understudy.schemas import Attribution, Faithfulness, TokenRow, Word

TEXT = "The plot 😭 is\tthin, but 这 fine."
SPANS = {"plot": 1.0, "thin": -0.3, "这": 0.3, "fine": 0.8}
WORDS = tuple(
    Word(text=text, start=TEXT.index(text), end=TEXT.index(text) + len(text), score=score)
    for text, score in SPANS.items()
)
FOUND = Attribution(
    id=None,
    prediction="good",
    probability=0.75,
    explained="good",
    words=WORDS,
    rationale=(WORDS[0], WORDS[3]),
    tokens=9,
)


def shown(view: RenderableType, width: int = 80, colours: bool = False) -> str:
    out = io.StringIO()
    system = "truecolor" if colours else None
    Console(file=out, width=width, force_terminal=colours, color_system=system).print(view)
    return out.getvalue()


def test_without_colours_the_rationale_stands_in_brackets() -> None:
    assert shown(attribution_view(TEXT, FOUND, colours=False)).splitlines()[0].split() == [
        *("The", "[plot]", "😭", "is", "thin,", "but", "这", "[fine]."),
    ]


def test_with_colours_the_rationale_is_bold_and_underlined_too() -> None:
    view = marked(TEXT, WORDS, lambda _: "red")
    assert [(TEXT[span.start : span.end], span.style) for span in view.spans] == [(word, "red") for word in SPANS]
    line = shown(attribution_view(TEXT, FOUND), colours=True).splitlines()[0]
    styled = {text: codes.split(";") for codes, text in re.findall(r"\x1b\[([\d;]+)m([^\x1b]+)\x1b\[0m", line)}
    assert styled.keys() == {"plot", "thin", "这", "fine"}
    for word in ("plot", "fine"):
        assert styled[word][:2] == ["1", "4"]
    assert len({tuple(styled[word]) for word in styled}) == 3  # both words of the rationale are among the strongest
    assert "[" not in re.sub(r"\x1b\[[\d;]+m", "", line)


def test_a_control_character_is_seen_and_not_obeyed() -> None:
    text = "a\x1b[2Jb\r\nc\x07 \x9bd"
    word = Word(text="b", start=5, end=6, score=1.0)
    for view in (marked(text, [word]).plain, bracketed(text, [word])):
        assert not set(view) & {"\x1b", "\r", "\x07", "\x9b"}
    assert marked(text, [word]).plain == "a\ufffd[2Jb \nc\ufffd \ufffdd"
    assert "[b]" in bracketed(text, [word])


def test_the_answer_and_what_is_explained_are_told() -> None:
    assert "explained" not in shown(attribution_view(TEXT, FOUND))
    other = FOUND.model_copy(update={"explained": "bad", "against": "good", "truncated": 7})
    lines = shown(attribution_view(TEXT, other)).splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["answer", "good", "75.0", "%"],
        ["explained", "why", "bad", "and", "not", "good"],
        ["rationale", "plot", "+1", "fine", "+0.8"],
        ["against", "it", "thin", "−0.3"],
        [*["cut", "the", "last", "7", "tokens", "did", "not", "fit", "the", "model's", "window"]],
    ]


def test_scores_without_signs_have_no_plus() -> None:
    plain = FOUND.model_copy(update={"words": WORDS[:1] + WORDS[2:]})
    text = shown(attribution_view(TEXT, plain))
    assert "plot 1  fine 0.8" in text
    assert "against it" not in text


def test_rows_and_faithfulness_are_shown_where_there_are_any() -> None:
    rows = (TokenRow(token=" go", scores=(0.1, -2.0, 0.0, 0.5)), TokenRow(token="od", scores=(1.0, 0.0, 0.0, 0.0)))
    figures = Faithfulness(
        comprehensiveness=0.31, sufficiency=-0.02, aopc_comprehensiveness=0.2, aopc_sufficiency=0.1, log_odds=-1.2
    )
    text = shown(attribution_view(TEXT, FOUND.model_copy(update={"rows": rows, "faithfulness": figures})))
    assert "token go      thin −2  fine +0.5" in text
    assert "token od      plot +1  " in text
    assert re.search(r"Comprehensiveness +0\.310 +Sufficiency +−0\.020", text)
    assert "Completeness" not in text


def test_an_empty_answer_and_a_blank_token_can_be_seen() -> None:
    rows = (TokenRow(token=" ", scores=(1.0, 0.0, 0.0, 0.0)),)
    text = shown(attribution_view(TEXT, FOUND.model_copy(update={"prediction": "", "rows": rows})))
    assert "(empty)  75.0 %" in text
    assert "token ' '  " in text


def test_a_text_without_words_is_no_error() -> None:
    empty = FOUND.model_copy(update={"words": (), "rationale": ()})
    assert "the text has no words" in shown(attribution_view("...", empty))


def test_words_are_listed_from_the_most_frequent() -> None:
    lines = shown(words_view({"good": {"b": 2, "a": 2, "c": 9}, "bad": {"d": 1}})).splitlines()
    assert [line.split() for line in lines] == [["bad", "d", "1"], ["good", "c", "9,", "a", "2,", "b", "2"]]


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_of_methods_fits(width: int) -> None:
    figures = {column.key: Figure(-0.123, -0.2, -0.1, 50) for column in COLUMNS}
    rows = tuple(MethodRow(name, {"n_steps": 50}, figures, 3.0, 50) for name in ("integrated_gradients", "random"))
    lines = shown(comparison_view(Comparison(50, 40, COLUMNS, rows)), width).splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "50 examples, 40 of them with highlights" in text
    assert text.count("−0.123") == 20
    assert text.count("*−0.123") == 9
    assert text.count("±0.050") == 20
    assert text.count("6.00") == 2
    assert "…" not in text
    for column in ("odds ↓", "error ↓", "AUPRC ↑", "with first", "per 100 ↓"):
        assert column in text
