"""Do the student's words agree with the teacher's, and either's with a person's? And did the teacher need its own?

Each figure stands beside that of as many random words of the same texts, which is computed exactly. No torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from understudy.attribution.plausibility import highlighted
from understudy.data.parquet import AnnotatedExample
from understudy.evaluation.compare import mean_interval
from understudy.evaluation.details import Agreement, Estimate, MapRow, TeacherMap, WordsRow
from understudy.evaluation.spec import MapFaithfulness
from understudy.schemas import Example, Faithfulness, Word

__all__ = ["SAMPLE", "agreements", "draw", "sample", "side_by_side", "teacher_map"]

SAMPLE = 200
"""Rows whose words are compared: a share is then known to about seven points either way, or better."""

SHOWN = 4
READABLE = 500  # characters; a longer text is no example for a page


def sample(rows: Sequence[AnnotatedExample], size: int = SAMPLE) -> list[AnnotatedExample]:
    """Rows with words of the teacher's, drawn by hash and not by eye: the same rows for every arm and every job."""
    return sorted((row for row in rows if row.attribution.rationale), key=lambda row: draw(row.example))[:size]


def draw(example: Example) -> bytes:
    """What rows are put in order by, so that a sample is drawn by hash and not by eye."""
    return hashlib.sha256(example.input.encode("utf-8", "backslashreplace")).digest()


def agreements(rows: Sequence[AnnotatedExample], student: Sequence[Sequence[Word]]) -> tuple[Agreement, ...]:
    """Student against teacher, then teacher and student against the person where rows have highlights.

    `student` are the words that it names in each row. A word of the one side is a word of the other when it begins at
    the same character. Pairs that have no row in common are left out.
    """
    teacher = [{word.start for word in row.attribution.rationale} for row in rows]
    named = [{word.start for word in words} for words in student]
    people = [_highlighted(row) for row in rows]
    sides = [("student", "teacher", named, teacher), ("teacher", "person", teacher, people)]
    sides.append(("student", "person", named, people))
    found = [_agreement(one, other, rows, ours, theirs) for one, other, ours, theirs in sides]
    return tuple(one for one in found if one)


def _highlighted(row: AnnotatedExample) -> set[int]:
    words = row.attribution.words
    marked = highlighted(words, row.example.highlights or ())
    return {word.start for word, inside in zip(words, marked, strict=True) if inside}


def _agreement(
    named: str, reference: str, rows: Sequence[AnnotatedExample], ours: Sequence[set[int]], theirs: Sequence[set[int]]
) -> Agreement | None:
    """Mean over the rows where the reference names any word: F1 = 2 |A and B| / (|A| + |B|), overlap = |A and B| / |B|.

    As many random words as |A| of n would share |A| |B| / n with B in the mean, and both figures are linear in that.
    """
    judged = [(a, b, len(row.attribution.words)) for row, a, b in zip(rows, ours, theirs, strict=True) if b]
    if not judged:
        return None
    chances = [min(len(a), n) * len(b) / n for a, b, n in judged]
    return Agreement(
        named=named,
        reference=reference,
        rows=len(judged),
        f1=_mean([2 * len(a & b) / (len(a) + len(b)) for a, b, _ in judged]),
        overlap=_mean([len(a & b) / len(b) for a, b, _ in judged]),
        f1_random=sum(2 * c / (len(a) + len(b)) for c, (a, b, _) in zip(chances, judged, strict=True)) / len(judged),
        overlap_random=sum(c / len(b) for c, (_, b, _) in zip(chances, judged, strict=True)) / len(judged),
    )


def side_by_side(rows: Sequence[AnnotatedExample], student: Sequence[Sequence[Word]]) -> tuple[WordsRow, ...]:
    """The first rows that are short enough to read, those that a person marked before the others."""
    pairs = [pair for pair in zip(rows, student, strict=True) if len(pair[0].example.input) <= READABLE]
    pairs.sort(key=lambda pair: not pair[0].example.highlights)  # stable: the draw decides within each kind
    return tuple(
        WordsRow(
            input=row.example.input,
            expected=row.example.output,
            person=row.example.highlights,
            teacher=row.attribution.rationale,
            student=tuple(words),
        )
        for row, words in pairs[:SHOWN]
    )


_MEASURES: tuple[tuple[str, bool, Callable[[Faithfulness], float]], ...] = (
    ("comprehensiveness", True, lambda one: one.comprehensiveness),
    ("sufficiency", False, lambda one: one.sufficiency),
    ("comprehensiveness, best 1 to 50 % of words", True, lambda one: one.aopc_comprehensiveness),
    ("sufficiency, best 1 to 50 % of words", False, lambda one: one.aopc_sufficiency),
)


def teacher_map(measured: MapFaithfulness) -> TeacherMap:
    """The mean of each measure with its interval over the rows, of the method and of random words, and their gap."""
    rows = []
    for measure, higher, figure in _MEASURES:
        words, random = [figure(one) for one in measured.found], [figure(one) for one in measured.random]
        gaps = [a - b for a, b in zip(words, random, strict=True)]
        rows.append(
            MapRow(
                measure=measure,
                higher_is_better=higher,
                words=_mean(words, (-1.0, 1.0)),
                random=_mean(random, (-1.0, 1.0)),
                difference=_mean(gaps, (-1.0, 1.0)),
            )
        )
    return TeacherMap(method=measured.method, rows=len(measured.found), split=measured.split, measures=tuple(rows))


def _mean(values: Sequence[float], ends: tuple[float, float] = (0.0, 1.0)) -> Estimate:
    value, low, high = mean_interval({0: values}, imagined=ends)
    return Estimate(value=value, low=low, high=high)
