"""What one model has answered while it was in memory: counts of all of it, and its last answers for drift.

Knows no model and no metric.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass

from understudy.drift import Profile, Shift, shift
from understudy.schemas import Prediction

__all__ = ["OTHER", "Record"]

OTHER = "(other)"
"""Any answer that is none of the task's own labels, or of those beyond the bound."""

_MOST_LABELS = 100


@dataclass(frozen=True)
class _Seen:
    label: str
    found: int
    dropped: int


class Record:
    """`window` holds the last answers, `size` at most; `profile` is what they are compared with."""

    def __init__(self, labels: Collection[str], profile: Profile | None, size: int) -> None:
        self.profile = profile
        self.window: deque[_Seen] = deque(maxlen=size)
        self.labels: Counter[str] = Counter()
        self.words_found = self.words_dropped = self.truncated = 0
        self._known = frozenset(list(labels)[:_MOST_LABELS])

    def add(self, one: Prediction, *, asked: int) -> None:
        """Count an answer, and its words where some were `asked` for, so many at the most.

        The window has those of requests for as many as the profile is of, which is what they are compared with.
        """
        label = one.label if one.label in self._known else OTHER
        found = len(one.words or ()) if asked else 0
        self.labels[label] += 1
        self.words_found += found
        self.words_dropped += one.dropped_words
        self.truncated += one.truncated > 0
        alike = self.profile is None or self.profile.top_k in (None, asked)
        self.window.append(_Seen(label, found, one.dropped_words) if alike else _Seen(label, 0, 0))

    @property
    def mix(self) -> dict[str, int]:
        """The labels of the last answers."""
        return dict(Counter(one.label for one in self.window))

    @property
    def words(self) -> dict[str, int]:
        """The words named in the last answers that the profile can be compared with, in the input and not in it."""
        return {
            "found": sum(one.found for one in self.window),
            "dropped": sum(one.dropped for one in self.window),
        }

    def drift(self) -> list[tuple[str, Shift]]:
        """How far the last answers are from the profile, as far as it says something: of `labels` and of `words`."""
        if self.profile is None:
            return []
        kept = Counter[str]()
        for label, count in self.profile.labels.items():
            kept[label if label in self._known else OTHER] += count
        pairs = {"labels": (dict(kept), self.mix), "words": (self.profile.words, self.words)}
        return [(name, shift(before, after)) for name, (before, after) in pairs.items() if sum(before.values())]
