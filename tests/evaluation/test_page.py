"""The page: whole, self-contained, safe, and readable by people and by machines that read to people."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from understudy.evaluation.figures import SERIES
from understudy.evaluation.page import Axis, render_html
from understudy.evaluation.report import RationaleHits, Report
from understudy.testing import LABELS

_VOID = {"meta", "br", "hr", "img", "link", "input", "wbr"}


class _Outline(HTMLParser):
    """Checks that tags are closed in order, and collects what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.text += " "

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data

    def count(self, name: str) -> int:
        return sum(tag == name for tag, _ in self.tags)


@pytest.fixture
def page(report: Report) -> str:
    return render_html(report)


def _said(page: str) -> str:
    return " ".join(_Outline(page).text.split())


def test_verdicts_numbers_and_caveats_are_there_to_read(page: str, report: Report) -> None:
    said = _said(page)
    for text in (
        report.headline,
        "DOES NOT BEAT",
        "+1.2 to +7.0",
        "66.0",
        "1.84",
        "Keep this in mind.",
        "always 'networking'",
        "634 test rows",
        "the teacher’s words include part of the answer",
        "in 60.0 % of those (45.0 to 74.0)",
        "Test CPU",
        "2.13.0",
        "any gain worth having is excluded",
    ):
        assert text.casefold() in said.casefold(), text


def test_every_part_of_the_report_is_on_the_page(page: str) -> None:
    said = _said(page)
    for text in (
        "also after Holm’s correction",
        "0.021 0.042 0.300, 0.004, < 0.001 +10.8 +0.09",  # p, corrected, McNemar of three seeds, errors gone, h
        "100 finetune 3 41.2 (38.2 to 44.2)",
        "+4.0 (−1.1 to +9.0)",
        "logit_kd 43.3 75 no",
        f"{LABELS[1]} {LABELS[0]} 30 100.0",  # of thirty rows of the second label all were given the first
        "as many random words beside",
        "comprehensiveness 40.0",
        "student against teacher",
        "teacher against person",
        "1 of 1,000 training rows, drawn by the hash",
        "2.28 times less time",
        "3 min 50 s more than fine-tuning one student",
        "repays after 97,500 answers",
        "18 models in 2 min 28 s",
        "teacher: words of the training rows 30 s 31,000",
    ):
        assert text in said, text


def test_every_drawing_has_a_name_and_a_table_beside_it(page: str) -> None:
    outline = _Outline(page)
    figures = [attrs for tag, attrs in outline.tags if tag == "figure"]
    assert len(figures) == outline.count("svg") == outline.count("figcaption") == 2
    assert all("below" in (attrs["aria-label"] or "") for attrs in figures)
    assert all(attrs["aria-hidden"] == "true" for tag, attrs in outline.tags if tag == "svg")
    ids = [attrs["id"] for _, attrs in outline.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_person_teacher_and_student_stand_side_by_side(page: str) -> None:
    sides = re.findall(r'<div class="(person|teacher-words|student-words)">(.*?)</div>', page, re.DOTALL)
    marks = {side: re.findall(r"<mark[^>]*>([^<]*)</mark>", text) for side, text in sides}
    assert marks == {"person": ["&lt;socket&gt;"], "teacher-words": ["a", "waits"], "student-words": ["waits"]}


def test_the_page_of_an_older_report_leaves_out_what_it_lacks(report: Report) -> None:
    lacking = dict.fromkeys(("curve", "searched", "slices", "calibration", "agreement", "words"), ())
    nothing = dict.fromkeys(("confusion", "teacher_map", "cost"))
    bare = [
        one.model_copy(update={"p": None, "p_holm": None, "mcnemar": (), "cohens_h": None, "error_reduction": None})
        for one in report.comparisons
    ]
    page = render_html(report.model_copy(update=lacking | nothing | {"comparisons": tuple(bare)}))
    outline = _Outline(page)
    assert outline.count("svg") == 0
    assert "Holm’s correction" not in " ".join(outline.text.split()).split("p asks whether")[0]
    assert "What each arm cost" in outline.text


def test_the_page_fetches_nothing_and_runs_nothing(page: str) -> None:
    outline = _Outline(page)
    assert {"script", "link", "iframe", "img", "object"} & {tag for tag, _ in outline.tags} == set()
    assert not re.search(r"https?://|@import|url\(|javascript:", page)
    assert not any(name.startswith("on") for _, attrs in outline.tags for name in attrs)


def test_what_came_from_data_is_escaped(report: Report) -> None:
    wicked = "<script>alert(1)</script>"
    example = report.examples[0].model_copy(update={"input": wicked, "given": wicked, "words": ()})
    changed = report.model_copy(update={"job_id": wicked, "examples": (example,), "caveats": (wicked,)})
    page = render_html(changed)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4


def test_every_table_has_a_caption_and_headers_with_a_scope(page: str) -> None:
    outline = _Outline(page)
    assert outline.count("table") == outline.count("caption") > 3
    assert all(attrs.get("scope") in ("row", "col") for tag, attrs in outline.tags if tag == "th")


def test_the_students_words_are_marked_in_the_text(page: str) -> None:
    assert re.findall(r"<mark[^>]*--s:([\d.]+)[^>]*>([^<]*)</mark>", page) == [
        *(("1.00", word) for word in ("&lt;socket&gt;", "a", "waits", "waits")),  # person, teacher, student
        ("0.50", "socket"),
        ("1.00", "server"),
    ]
    assert "Opens a <socket> & waits until the server answers." in _said(page)


def test_no_row_with_the_answer_in_its_input_is_said(report: Report) -> None:
    none = RationaleHits(rows=1000, with_answer_in_input=0, share=None, low=None, high=None, chance=None)
    assert "none of the 1,000 training rows" in _said(render_html(report.model_copy(update={"rationale": none})))


def test_a_job_of_one_arm_has_a_page_too(report: Report) -> None:
    plain = report.published.model_copy(update={"recipe": "finetune"})
    changed = report.model_copy(
        update={"arms": report.arms[:1], "comparisons": (), "examples": (), "caveats": (), "published": plain}
    )
    assert "there is nothing to compare" in _said(render_html(changed))


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _schemes(page: str) -> list[dict[str, str]]:
    blocks = re.findall(r":root \{(.*?)\}", page, re.DOTALL)
    return [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_enough_contrast_in_both_schemes(page: str, scheme: int) -> None:
    colours = _schemes(page)[scheme]
    pairs = [
        (ink, ground)
        for ink in ("ink", "soft", "student", "teacher", "control", *SERIES)
        for ground in ("paper", "card")
    ]
    pairs += [("soft", "wash"), ("good", "good-wash"), ("bad", "bad-wash"), ("open", "open-wash"), ("ink", "open-wash")]
    for ink, ground in pairs:
        darker, lighter = sorted((_luminance(colours[ink]), _luminance(colours[ground])))
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (ink, ground)


@pytest.mark.parametrize(
    "values", [(0.21, 0.89), (-0.05, 0.03), (0.5, 0.5), (0.0, 1.0), (-0.0001, 0.0001), (0.601, 0.659)]
)
def test_an_axis_holds_its_values_between_round_ticks(values: tuple[float, float]) -> None:
    axis = Axis.around(values)
    assert axis.low <= min(values)
    assert max(values) <= axis.high
    assert 2 <= len(axis.ticks) <= 9
    steps = {round(b - a, 9) for a, b in zip(axis.ticks, axis.ticks[1:], strict=False)}
    assert len(steps) == 1
    assert axis.place(axis.low) == 0
    assert axis.place(axis.high) == 100
    assert 0 <= axis.place(values[0]) <= axis.place(values[1]) <= 100


def test_a_search_in_rounds_is_shown_round_by_round(report: Report) -> None:
    once = render_html(report)
    assert "Trained in full" in once
    assert '<th scope="col">Round</th>' not in once
    last = report.searched[0].model_copy(update={"round": 2, "steps": 150})
    page = render_html(report.model_copy(update={"searched": (*report.searched, last)}))
    assert '<th scope="col">Round</th>' in page
    assert "after 2 rounds: each kept the better half" in " ".join(page.split())
    table = page.partition('id="searched"')[2]
    assert table.index("<td>1</td>") < table.index("<td>2</td>")
