"""The page of attributions: every text as it is, every score to be found, and no colour that hides what it marks."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from understudy.attribution import heatmap
from understudy.attribution.heatmap import MEASURES, pieces, to_html
from understudy.attribution.rationale import top_words
from understudy.attribution.words import word_spans
from understudy.schemas import Attribution, Faithfulness, TokenRow, Word

TEXTS = (
    "The plot is thin, but the music is better still.",
    "  def f(x):\n\n\treturn  x & y  # <b>keep</b> 'it' \"so\"  ",
    "I can't believe it 😭🤷‍♀️ cafe\u0301 👨‍👩‍👧‍👦!",
    "الخدمة كانت ممتازة، לא רע",
    "这部电影很好看。",
    "{{ title }} {% raw %}",
    "!!! ...",
)
FIGURES = Faithfulness(
    comprehensiveness=0.31,
    sufficiency=-0.0204,
    aopc_comprehensiveness=0.2,
    aopc_sufficiency=0.1,
    log_odds=-1.25,
)


def explained(text: str, scores: tuple[float, ...] = (), **fields: Any) -> Attribution:
    """A map of the text: the given scores in turn, and their two best words as the rationale."""
    spans = word_spans(text)
    turn = scores or (1.0, -0.5, 0.25, 2.0)
    words = tuple(
        Word(text=text[start:end], start=start, end=end, score=turn[i % len(turn)])
        for i, (start, end) in enumerate(spans)
    )
    known: dict[str, Any] = {"prediction": "good", "probability": 0.8731, "explained": "good", "tokens": 9, "id": None}
    return Attribution(words=words, rationale=top_words(words, 2), **(known | fields))


def page(*texts: str, **fields: Any) -> str:
    return to_html([explained(text, **fields) for text in texts], texts, title="Maps", facts={"Model": "tiny"})


class Reader(HTMLParser):
    """What a browser makes of a page: the text below each class or tag, and the attributes of each tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.found: list[tuple[list[tuple[str, str]], str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append((tag, dict(attrs).get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        self.found.append((list(self.open), data))

    def below(self, wanted: tuple[str, str]) -> str:
        return "".join(data for where, data in self.found if wanted in where)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_shown_to_the_letter(text: str) -> None:
    reader = Reader(page(text))
    assert reader.below(("p", "text")) == text
    assert reader.open == []
    assert "".join(piece.text for piece in pieces(text, explained(text))) == text


def test_every_example_has_its_own_text_in_order() -> None:
    assert Reader(page(*TEXTS)).below(("p", "text")) == "".join(TEXTS)


def test_nothing_that_came_from_data_is_markup() -> None:
    nasty = "<script>alert('x')</script> & \"q\""
    html = to_html(
        [
            explained(
                nasty,
                id=nasty,
                prediction=nasty,
                explained=nasty,
                against=nasty,
                probabilities={nasty: 1.0},
                rows=(TokenRow(token=nasty, scores=(0.1,) * len(word_spans(nasty))),),
            )
        ],
        [nasty],
        title=nasty,
        facts={nasty: nasty},
    )
    assert "<script" not in html
    assert "'x'" not in html
    reader = Reader(html)
    for where in (("h1", ""), ("title", ""), ("h2", ""), ("dt", ""), ("dd", ""), ("dd", "chances"), ("table", "rows")):
        assert nasty in reader.below(where), where


def test_the_page_fetches_nothing_and_runs_nothing() -> None:
    html = page(*TEXTS, faithfulness=FIGURES)
    assert not re.search(r"<script|<link|<img|<iframe|https?:|url\(|@import|\bsrc=|\bon\w+=", html)


def test_the_rationale_is_marked_and_each_word_has_its_score() -> None:
    text = "good old bad day"
    reader = Reader(page(text))
    words = [(tag, attrs) for tag, attrs in reader.tags if "title" in attrs and "style" in attrs]
    assert [tag for tag, _ in words] == ["mark", "span", "span", "mark"]
    assert [attrs["class"] for _, attrs in words] == ["pro", "con", "pro", "pro"]
    assert [attrs["title"] for _, attrs in words] == ["+1", "−0.5", "+0.25", "+2"]
    assert [attrs["style"] for _, attrs in words] == ["--s:0.5", "--s:0.25", "--s:0.125", "--s:1.0"]
    listed = reader.below(("table", "list"))
    assert listed.split() == ["WordScoreRationale", "good+1yes", "old−0.5", "bad+0.25", "day+2yes"]
    assert "text-decoration: underline solid" in html_rule(page(text), ".text mark, .sample mark")


def test_a_map_of_zeros_is_colourless() -> None:
    assert {piece.strength for piece in pieces("one two", explained("one two", (0.0,)))} == {0.0}


def test_the_legend_speaks_of_against_only_where_a_score_is_negative() -> None:
    assert "speaks against" in page("one two")
    assert "speaks against" not in page("one two", scores=(1.0, 2.0))
    rows = (TokenRow(token="a", scores=(0.1, -0.1)),)
    assert "speaks against" in page("one two", scores=(1.0, 2.0), rows=rows)


def test_prediction_and_explained_answers_are_told() -> None:
    reader = Reader(page("one two", explained="bad", against="good"))
    assert reader.below(("p", "answer")) == "Prediction good 87.3 %"
    assert "why bad and not good" in reader.below(("dd", ""))
    unasked = Reader(page("one two", prediction=None, probability=None))
    assert unasked.below(("p", "answer")) == "The model’s own answer was not asked for"


def test_an_empty_answer_and_a_blank_token_can_be_seen() -> None:
    reader = Reader(page("one", prediction="", explained=""))
    assert reader.below(("p", "answer")) == "Prediction (empty) 87.3 %"
    assert "why (empty)" in reader.below(("dd", ""))
    rows = (TokenRow(token="\n", scores=(1.0,)),)
    assert r"'\n'" in Reader(page("one", rows=rows)).below(("table", "rows"))


def test_what_the_model_did_not_read_is_told_apart() -> None:
    text = "one two three four five"
    found = explained(text)
    short = found.model_copy(update={"words": found.words[:3], "truncated": 2})
    reader = Reader(to_html([short], [text], title="Maps", facts={}))
    assert reader.below(("s", "cut")) == " four five"
    assert reader.below(("p", "text")) == text
    assert "The last 2 tokens did not fit" in reader.below(("dl", "notes"))
    assert "did not fit" not in page(text)
    assert Reader(page("one two.")).below(("s", "cut")) == ""


def test_probabilities_are_the_five_highest() -> None:
    chances = {f"label{i}": (i + 1) / 28 for i in range(7)}
    shown = Reader(page("one", probabilities=chances)).below(("dd", "chances"))
    assert re.findall(r"label\d", shown) == [f"label{i}" for i in (6, 5, 4, 3, 2)]
    assert "25.0 %" in shown
    assert "and 2 more" in shown


def test_rows_are_a_table_with_one_scale() -> None:
    rows = (TokenRow(token=" go", scores=(0.5, -2.0)), TokenRow(token="od", scores=(1.0, 0.0)))
    reader = Reader(page("one two", rows=rows))
    cells = [attrs["style"] for tag, attrs in reader.tags if tag == "td" and "style" in attrs]
    assert cells == ["--s:0.25", "--s:1.0", "--s:0.5", "--s:0.0"]
    assert reader.below(("table", "rows")).split() == ["onetwo", "go0.50−2.00", "od1.000.00"]
    assert ("table", "rows") not in [where for found in Reader(page("one two")).found for where in found[0]]


def test_faithfulness_is_shown_where_it_was_asked_for() -> None:
    shown = Reader(page("one two", faithfulness=FIGURES)).below(("dd", "figures"))
    assert "Comprehensiveness 0.310" in shown
    assert "Sufficiency −0.020" in shown
    assert "Completeness" not in shown
    complete = FIGURES.model_copy(update={"completeness_error": 0.012})
    assert "Completeness error 0.012" in Reader(page("one two", faithfulness=complete)).below(("dd", "figures"))
    assert "Comprehensiveness" not in page("one two")


def test_every_measure_is_a_field_of_the_wire_model_and_none_is_left_out() -> None:
    assert [measure.key for measure in MEASURES] == list(Faithfulness.model_fields)


def test_headings_name_the_results() -> None:
    results = [explained("one"), explained("two", id="row-7")]
    reader = Reader(to_html(results, ["one", "two"], title="Maps", facts={}))
    assert reader.below(("h2", "")) == "Example 1row-7"
    named = to_html(results, ["one", "two"], title="Maps", facts={}, headings=["saliency", "random"])
    assert Reader(named).below(("h2", "")) == "saliencyrandom"
    with pytest.raises(ValueError, match="shorter"):
        to_html(results, ["one"], title="Maps", facts={})


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0.0 %"), (1e-9, "under 0.1 %"), (0.25, "25.0 %"), (1.0, "100.0 %")]
)
def test_percentages(value: float, shown: str) -> None:
    assert heatmap.percent(value) == shown


def test_a_figure_that_rounds_to_nothing_has_no_sign() -> None:
    assert heatmap.figure(-0.0001) == "0.000"


def html_rule(html: str, selector: str) -> str:
    return html.partition(selector + " {")[2].partition("}")[0]


def _colours(css: str) -> dict[str, tuple[int, ...]]:
    """The colour variables of one scheme as red, green and blue."""
    hexes = {name: tuple(bytes.fromhex(value)) for name, value in re.findall(r"--([\w-]+): #(\w{6});", css)}
    return hexes | {name: tuple(map(int, value.split())) for name, value in re.findall(r"--(\w+): (\d+ \d+ \d+);", css)}


def _luminance(colour: tuple[float, ...]) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [part / 255 for part in colour]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read_on_every_strength_of_either_colour(scheme: str) -> None:
    light, _, dark = page("one").partition("@media (prefers-color-scheme: dark)")
    colours = _colours(light if scheme == "light" else dark.partition("* {")[0])
    card, ink = colours["card"], colours["ink"]
    for hue in ("pro", "con"):
        for strength in (0.0, 0.25, 0.5, 0.75, 1.0):
            mixed = tuple(strength * a + (1 - strength) * b for a, b in zip(colours[hue], card, strict=True))
            assert _contrast(ink, mixed) >= 4.5, (hue, strength)
        assert _contrast(colours[f"{hue}-ink"], card) >= 4.5
    for ground in ("card", "paper"):
        assert _contrast(colours["soft"], colours[ground]) >= 4.5
        assert _contrast(ink, colours[ground]) >= 4.5
