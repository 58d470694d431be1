"""Do the teacher's words include the answer itself, where the answer stands in the input? No torch.

The paper that Understudy follows (arXiv 2409.12586) reports this for 68 % of such examples. The share means little
without what random words would get, which is computed exactly beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from understudy.attribution.words import word_spans
from understudy.data.parquet import AnnotatedExample
from understudy.evaluation.metrics import chance_of_a_hit, wilson
from understudy.evaluation.report import RationaleHits
from understudy.schemas import Word

__all__ = ["answer_places", "rationale_hits"]


def rationale_hits(rows: Iterable[AnnotatedExample]) -> RationaleHits:
    """A row is a hit when any of the teacher's words stands in an occurrence of the answer's text."""
    total = 0
    hits: list[bool] = []
    chances: list[float] = []
    for row in rows:
        total += 1
        words, rationale = row.attribution.words, row.attribution.rationale
        places = answer_places(words, row.example.output)
        if not places or not rationale:
            continue
        starts = {words[place].start for place in places}
        hits.append(any(word.start in starts for word in rationale))
        chances.append(chance_of_a_hit(len(words), len(places), len(rationale)))
    if not hits:
        return RationaleHits(rows=total, with_answer_in_input=0, share=None, low=None, high=None, chance=None)
    low, high = wilson(sum(hits), len(hits))
    return RationaleHits(
        rows=total,
        with_answer_in_input=len(hits),
        share=sum(hits) / len(hits),
        low=low,
        high=high,
        chance=sum(chances) / len(chances),
    )


def answer_places(words: Sequence[Word], answer: str) -> set[int]:
    """The positions of the words that spell the answer, wherever it occurs; case does not matter."""
    wanted = [answer[start:end].casefold() for start, end in word_spans(answer)]
    read = [word.text.casefold() for word in words]
    if not wanted:
        return set()
    starts = (start for start in range(len(read) - len(wanted) + 1) if read[start : start + len(wanted)] == wanted)
    return {place for start in starts for place in range(start, start + len(wanted))}
