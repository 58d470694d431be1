"""The learning curve: what each recipe gets from fewer labelled rows. No torch.

Reasons are said to matter most where labels are few. The points are for looking at: they carry intervals and no
verdicts, and take no part in Holm's correction.
"""

from __future__ import annotations

from collections.abc import Sequence

from understudy.evaluation.answered import Answered, accuracy, by_recipe, right_of
from understudy.evaluation.compare import compare
from understudy.evaluation.details import CurvePoint, Estimate

__all__ = ["curve"]


def curve(answered: Sequence[Answered], rows: int) -> tuple[CurvePoint, ...]:
    """Every recipe at every size, smallest first; the runs on all `rows` close it. Empty where only those were made.

    A size of all rows or more is the same training as without a size, and is left to that.
    """
    sized = {one.arm.size for one in answered if one.arm.size is not None and one.arm.size < rows}
    if not sized:
        return ()
    found: list[CurvePoint] = []
    for size in (*sorted(sized), None):
        found += _points([one for one in answered if one.arm.size == size], rows if size is None else size, rows)
    return tuple(found)


def _points(answered: Sequence[Answered], size: int, rows: int) -> list[CurvePoint]:
    right = {recipe: right_of(runs) for recipe, runs in by_recipe(answered).items()}
    candidate = {one.arm.recipe: one.arm.candidate for one in answered}
    plain = right.get("finetune", {})
    points = []
    for recipe, seeds in right.items():
        difference = None
        if recipe != "finetune" and set(seeds) & set(plain):
            gap = compare(seeds, plain)
            difference = Estimate(value=gap.difference, low=gap.low, high=gap.high)
        points.append(
            CurvePoint(
                recipe=recipe,
                size=size,
                seeds=len(seeds),
                accuracy=accuracy(seeds),
                difference=difference,
                candidate=candidate[recipe],
                whole=size == rows,
            )
        )
    return points
