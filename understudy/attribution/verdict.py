"""What a comparison of methods shows, in plain words: which one, if any, is clearly better than knowing nothing.

One method is clearly better than another where their intervals do not even touch: a cautious rule, because many methods
are compared at once. Knows no model; reads the finished table alone. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from understudy.attribution.comparison import Comparison, MethodRow

__all__ = ["best", "sentences"]


@dataclass(frozen=True)
class _Claim:
    """What methods are judged by: a figure for which no number of words has to be chosen. High is good in all."""

    key: str
    finds: str
    shown: str


_CLAIMS = (
    _Claim(
        "aopc_comprehensiveness",
        "the words that the model needs",
        "an answer loses {:.3f} of its probability without the best of them, {:.3f} without random words",
    ),
    _Claim("auprc", "the words that people highlighted", "AUPRC {:.3f}, random words {:.3f}"),
)

_CONTROLS = {"random": "random words", "first_words": "the first words"}


def best(comparison: Comparison) -> dict[str, MethodRow]:
    """The row with the best mean in each column that has a good end, controls among them."""
    found = {}
    for column in comparison.columns:
        if column.better is None:
            continue
        sign = 1 if column.better == "high" else -1
        rows = [row for row in comparison.rows if column.key in row.figures]
        found[column.key] = max(rows, key=lambda row: sign * row.figures[column.key].mean)
    return found


def sentences(comparison: Comparison) -> list[str]:
    """One sentence on what the model needs, and one on what people highlighted where the examples say that."""
    known = {column.key for column in comparison.columns}
    return [_judged(comparison, claim) for claim in _CLAIMS if claim.key in known]


def _judged(comparison: Comparison, claim: _Claim) -> str:
    rows = [row for row in comparison.rows if claim.key in row.figures]
    methods = [row for row in rows if not row.control]
    if not methods:
        return "Only the controls were compared: name a method."
    first = max(methods, key=lambda row: row.figures[claim.key].mean)
    level = [row for row in rows if row is not first and not _clear(first, row, claim.key)]
    unbeaten = [_CONTROLS[row.method] for row in level if row.control]
    if unbeaten:
        title = next(column.title for column in comparison.columns if column.key == claim.key)
        return (
            f"No method finds {claim.finds} clearly better than {_listed(unbeaten, 'or')} do: "
            f"the intervals of {title} overlap."
        )
    random = next(row for row in rows if row.method == "random")
    shown = claim.shown.format(first.figures[claim.key].mean, random.figures[claim.key].mean)
    others = f" {_listed([_name(row) for row in level], 'and')} cannot be told from it." if level else ""
    return f"{_name(first)} finds {claim.finds} best: {shown}.{others}"


def _clear(better: MethodRow, other: MethodRow, key: str) -> bool:
    return better.figures[key].low > other.figures[key].high


def _name(row: MethodRow) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in row.settings.items())
    return f"{row.method} ({settings})" if settings else row.method


def _listed(names: Sequence[str], last: str) -> str:
    """`a, b and c`."""
    return f" {last} ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
