"""A model as it is served: its engine, what is known of it without asking it again, and how long a text is to it.

Knows no request and no queue.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from services.student.record import Record
from understudy.models.text import Template, tokenize
from understudy.schemas import ModelInfo, Reasons, TaskSpec
from understudy.serving.base import Engine

__all__ = ["Pace", "Served"]

_BYTES_A_TOKEN = 3
"""Bytes of UTF-8 in a token, about and rather too few: English has 4, most scripts of three bytes a letter 3."""


@dataclass(eq=False)
class Pace:
    """What passes have cost: inputs, and the seconds that they took. One thread adds, others read."""

    inputs: int = 0
    seconds: float = 0.0

    def add(self, inputs: int, seconds: float) -> None:
        self.inputs += inputs
        self.seconds += seconds

    def since(self, earlier: Pace) -> float | None:
        """Seconds an input, of those after `earlier`; None where there are none."""
        count = self.inputs - earlier.inputs
        return (self.seconds - earlier.seconds) / count if count else None


@dataclass(frozen=True, eq=False)
class Served:
    """A loaded model. `created` is when its artifact was published, in seconds since 1970.

    `tokenizer` is a copy for counting, since the engine's own is used by the model's thread. `record` is what the model
    has answered so far, `pace` what that took. `turn` is held by the thread that asks the engine.
    """

    info: ModelInfo
    created: int
    engine: Engine
    tokenizer: Any
    record: Record
    pace: Pace = field(default_factory=Pace)
    turn: threading.Lock = field(default_factory=threading.Lock)
    _counting: threading.Lock = field(default_factory=threading.Lock)

    @property
    def artifact(self) -> str:
        return self.info.id

    @cached_property
    def bytes(self) -> int:
        """What its engine keeps in memory."""
        return self.engine.bytes

    @property
    def reasons(self) -> Reasons:
        return self.engine.reasons

    @property
    def task(self) -> TaskSpec:
        return self.info.task or TaskSpec()

    def lengths(self, texts: Sequence[str], template: str | None) -> list[int]:
        """Tokens that each text takes, estimated from its bytes: enough to share batches and to bound the queue.

        Counting them would be done twice and on the event loop; engines count exactly, and split what is too large.
        """
        around = len((template or self.task.template).encode()) // _BYTES_A_TOKEN
        sizes = (around + len(text.encode("utf-8", "replace")) // _BYTES_A_TOKEN + 2 for text in texts)
        return [min(self.info.max_tokens, size) for size in sizes]

    def counts(self, texts: Sequence[str], template: str | None) -> list[int]:
        """Tokens that the model reads of each text, template and special tokens included, after truncation."""
        parsed = Template.parse(template or self.task.template)
        with self._counting:
            return [len(row.ids) for row in tokenize(self.tokenizer, parsed, texts, self.info.max_tokens)]

    def written(self, text: str) -> int:
        """Tokens of an answer."""
        with self._counting:
            return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def work(self, length: int, candidates: int, explain: bool) -> int:
        """Tokens that the model reads of a text of `length` tokens in all its passes, and may write, about.

        A model that writes scores each candidate on its own, and writes an answer where there is none. Saliency goes
        back through the model, which costs twice the way there; generated reasons are written once more.
        """
        answers = 1 if self.info.architecture == "classifier" else max(1, candidates)
        passes = answers + ({"gate": 0, "generated": 1, "saliency": 2}[self.reasons] if explain else 0)
        texts = (not candidates) + (explain and self.reasons == "generated")
        return length * passes + texts * (self.info.answer_tokens or 0)
