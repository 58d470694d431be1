"""What the adapters of writing models share: how a form's answers are asked for, scored and told from their reasons.

Which text stands for a candidate follows from the form; how a text is written or scored is the architecture's, encoder-
decoder or decoder. Every answer depends on its own input only, the reasons that stand before it included.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

from understudy.models.base import ANSWER_TOKENS, Adapter, Answer, Batch, Written, likeliest
from understudy.models.forms import compose, split
from understudy.models.likelihood import counted, likeliest_tokens, sum_log_probabilities
from understudy.models.text import Encoded, fitting
from understudy.models.trie import MAX_LOGITS
from understudy.schemas import TokenProbabilities

__all__ = ["Read", "Target", "Writer"]

T = TypeVar("T")
_T_co = TypeVar("_T_co", covariant=True)

WHOLE = 2 * ANSWER_TOKENS
"""New tokens of an answer with its reasons, where no training has said more. So many have room beside any batch."""


@dataclass(frozen=True)
class Target:
    """Token ids that a model may write. The first `given` are taken as written: they count for nothing."""

    ids: list[int]
    given: int = 0


class Read(Protocol[_T_co]):
    """Makes something of each of a batch's targets: the logits that predict them, their labels, and they themselves."""

    def __call__(self, logits: Tensor, labels: Tensor, chunk: Sequence[Target], /) -> Sequence[_T_co]:
        """(B, S, V), (B, S) -> B."""
        ...


class Writer(Adapter):
    """An adapter of a model that writes."""

    @abstractmethod
    def written_ids(self, text: str, *, ended: bool) -> list[int]:
        """A text's tokens as the model writes it behind its input, with the token that ends it or without."""

    @abstractmethod
    def room(self, row: Encoded) -> int:
        """The most tokens that can be written behind this text."""

    @property
    @abstractmethod
    def target_room(self) -> int:
        """See `Adapter.target_room`: all of the window but what must be left to the text."""

    @abstractmethod
    def over_targets(
        self, encoded: Sequence[Encoded], targets: Sequence[Sequence[Target]], read: Read[T]
    ) -> list[list[T]]:
        """What `read` makes of each text's targets. Raises ModelError for a target longer than the window."""

    @abstractmethod
    def _write(self, encoded: Sequence[Encoded], begins: Sequence[list[int]], max_new_tokens: int) -> Sequence[Written]:
        """What the model writes greedily behind beginnings of equally many tokens, which may be none."""

    @property
    def longest_answer(self) -> int:
        return min(self.answer_tokens, self.room(self.tokenize([""])[0]))

    def fits(self, target: str) -> bool:
        return self._taken(target) <= self.target_room

    def reaches(self, answer: str) -> bool:
        return self._taken(answer) <= self.longest_answer

    def answer_length(self, answer: str) -> int:
        return self._taken(answer)

    def answer_width(self, batch: Batch) -> int:
        return sum(labels.shape[1] for labels in batch.rows[1:])

    def most_rows(self, answer: int) -> int:
        return max(1, MAX_LOGITS // (max(1, answer) * self.model.config.get_text_config().vocab_size))

    def _taken(self, text: str) -> int:
        """Tokens of a text and the one that ends it."""
        return len(self.written_ids(text, ended=False)) + 1

    def target_likelihoods(self, encoded: Sequence[Encoded], targets: Sequence[Sequence[Target]]) -> list[list[float]]:
        """The log-probability of each text's targets. Raises ModelError for a target longer than the window."""

        def read(logits: Tensor, labels: Tensor, chunk: Sequence[Target]) -> list[float]:
            return sum_log_probabilities(logits, counted(labels, [target.given for target in chunk])).tolist()

        return self.over_targets(encoded, targets, read)

    def token_probabilities(
        self, encoded: Sequence[Encoded], targets: Sequence[str], most: int
    ) -> list[tuple[TokenProbabilities, ...]]:
        """The token that ends an answer is one of its places where the form ends with the answer."""

        def read(logits: Tensor, _: Tensor, chunk: Sequence[Target]) -> list[tuple[TokenProbabilities, ...]]:
            values, ids = likeliest_tokens(logits, most)
            places = zip(chunk, values.tolist(), ids.tolist(), strict=True)
            return [tuple(map(self._expected, target.ids, *row)) for target, *row in places]

        wanted = [[Target(self.written_ids(target, ended=self.form == "label"))] for target in targets]
        return [row[0] for row in self.over_targets(encoded, wanted, read)]

    def _expected(self, token: int, values: Sequence[float], ids: Sequence[int]) -> TokenProbabilities:
        """Of one place. What a model's table has beyond its tokenizer's vocabulary has no name and goes to the rest."""
        pieces = self.tokenizer.convert_ids_to_tokens(list(ids))
        known = {piece: _short(value) for piece, value in zip(pieces, values, strict=True) if piece is not None}
        return TokenProbabilities(
            token=self.tokenizer.convert_ids_to_tokens(token),
            probabilities=known,
            rest=_short(max(0.0, 1.0 - sum(known.values()))),
        )

    def write(
        self, encoded: Sequence[Encoded], max_new_tokens: int | None = None, begun: Sequence[str] | None = None
    ) -> list[Written]:
        """What the model writes greedily, or how it goes on behind texts that it is taken to have `begun` with.

        Of `answer_tokens`, where no other bound is asked for.
        """
        most = self.answer_tokens if max_new_tokens is None else max_new_tokens
        begins = [self.written_ids(text, ended=False) if text else [] for text in begun or [""] * len(encoded)]
        found: dict[int, Written] = {}
        # A decoder has no padding between what was begun and what it writes: a batch begins with as many tokens.
        for length in sorted(set(map(len, begins))):
            places = [i for i, begin in enumerate(begins) if len(begin) == length]
            written = self._write([encoded[i] for i in places], [begins[i] for i in places], most)
            found |= zip(places, written, strict=True)
        return [found[i] for i in range(len(encoded))]

    def generate(
        self, texts: Sequence[str], max_new_tokens: int | None = None, template: str | None = None
    ) -> list[Written]:
        adapter = self.with_template(template)
        return adapter.write(adapter.tokenize(texts), max_new_tokens)

    def _read_and_written(self, rows: Sequence[Encoded], max_new_tokens: int) -> list[int]:
        """What each text takes of a batch: the states of what is written stay in memory, as those of the text do."""
        return [len(row.ids) + max(0, max_new_tokens - WHOLE) for row in rows]

    def likelihoods(self, encoded: Sequence[Encoded], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        before = self._reasons_before(encoded) if self.form == "rationale_then_label" else None
        return self.target_likelihoods(encoded, self._targets(encoded, candidates, before))

    def reasons(self, texts: Sequence[str], answers: Sequence[Answer]) -> list[Written]:
        """What the model writes for reasons of each answer; where it chose among candidates, behind the chosen one."""
        missing = [i for i, answer in enumerate(answers) if answer.reasons is None]
        found: dict[int, Written] = {}
        if missing:
            begun = [compose(self.form, answers[i].text, []) for i in missing]
            written = self.write(self.tokenize([texts[i] for i in missing]), begun=begun)
            found |= zip(missing, written, strict=True)
        return [answer.reasons or found[i] for i, answer in enumerate(answers)]

    def _choose(self, encoded: Sequence[Encoded], candidates: Sequence[Sequence[str]]) -> list[Answer]:
        if self.form != "rationale_then_label":
            return super()._choose(encoded, candidates)
        before = self._reasons_before(encoded)
        likelihoods = self.target_likelihoods(encoded, self._targets(encoded, candidates, before))
        return [
            Answer(found.text, found.probability, found.probabilities, reasons)
            for names, row, reasons in zip(candidates, likelihoods, before, strict=True)
            for found in [likeliest(names, row, self.temperature)]
        ]

    def _compose(self, texts: Sequence[str]) -> list[Answer]:
        if self.form == "label":
            return super()._compose(texts)
        return [self._parted(written) for written in self.generate(texts, max(WHOLE, self.answer_tokens))]

    def _parted(self, written: Written) -> Answer:
        """The answer in a text with reasons, which is whole where they stand behind it and the text broke off there."""
        label, reasons = split(self.form, written.text)
        begun = self.form == "rationale_then_label" or label == written.text.strip()
        return Answer(
            label,
            written.probability,
            reasons=written._replace(text=reasons),
            unfinished=written.unfinished and begun,
        )

    def _reasons_before(self, encoded: Sequence[Encoded]) -> list[Written]:
        return [one._replace(text=split(self.form, one.text)[1]) for one in self.write(encoded)]

    def _targets(
        self,
        encoded: Sequence[Encoded],
        candidates: Sequence[Sequence[str]],
        before: Sequence[Written] | None,
    ) -> list[list[Target]]:
        """What stands for each candidate: itself, its text's beginning, or itself behind its row's reasons."""
        if before is not None:
            return [self._behind(*row) for row in zip(encoded, candidates, [one.text for one in before], strict=True)]
        known = {
            name: Target(self.written_ids(compose(self.form, name, []), ended=self.form == "label"))
            for name in dict.fromkeys(name for row in candidates for name in row)
        }
        return [[known[name] for name in row] for row in candidates]

    def _behind(self, row: Encoded, names: Sequence[str], reasons: str) -> list[Target]:
        """One cut of the reasons for all candidates, so that they are compared behind the same words."""
        longest = max(names, key=lambda name: len(self.written_ids(name, ended=True)), default="")
        said = fitting(
            reasons,
            lambda text: len(self.written_ids(compose(self.form, longest, [text]), ended=True)),
            self.room(row),
        )
        given = len(self.written_ids(compose(self.form, "", [said]), ended=False))
        return [Target(self.written_ids(compose(self.form, name, [said]), ended=True), given) for name in names]


def _short(probability: float) -> float:
    """Six digits: a float32 has no more, and they are sent by the thousand."""
    return float(f"{probability:.6g}")
