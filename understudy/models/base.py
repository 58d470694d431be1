"""The adapter contract: the one seam between a model's architecture and everything that explains or scores it.

An attribution method sees only `embed`, `score` and `baseline`; it never learns which architecture it runs on. An
adapter never learns which method calls it. M methods and N adapters are therefore M + N files.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from understudy.errors import InvalidRequest, ModelError
from understudy.models.attention import Attention
from understudy.models.forms import Form
from understudy.models.text import Encoded, Template, tokenize
from understudy.models.trie import MAX_LOGITS
from understudy.schemas import TaskSpec, TokenProbabilities

__all__ = ["ANSWER_TOKENS", "Adapter", "Answer", "Batch", "Written", "likeliest"]

ANSWER_TOKENS = 64
"""New tokens of an answer, where no training has said how long answers are."""

Span = tuple[int, int]


class Written(NamedTuple):
    """A text that a model wrote, and its probability: the product over its tokens.

    `unfinished`: the most tokens that it may write were there before the one that ends a text.
    """

    text: str
    probability: float
    unfinished: bool = False


@dataclass(frozen=True)
class Batch:
    """B examples, tokenised and padded to T input tokens, and what is to be explained of each.

    `offsets[i][t]` is the character span of token t in the *user's* text i, or None where the token is no part of it
    (template, special and padding tokens). `truncated[i]` counts the tokens of text i that did not fit the window.
    The explained answer stands in `labels` as S tokens, the answer that it is compared with in `against`. `token` picks
    one token of the explained answer; None means all of them. `words[i]` are the word spans of text i, for methods that
    leave out whole words.
    """

    texts: tuple[str, ...]
    encoded: tuple[Encoded, ...]
    ids: Tensor  # (B, T)
    mask: Tensor  # (B, T), 1 where the model may look
    labels: Tensor  # (B, S), -100 behind a target's end; a classifier's label index has S = 1
    offsets: tuple[tuple[Span | None, ...], ...]
    against: Tensor | None = None  # like `labels`
    words: tuple[tuple[Span, ...], ...] = ()
    token: int | None = None

    @property
    def truncated(self) -> tuple[int, ...]:
        return tuple(row.truncated for row in self.encoded)

    @property
    def rows(self) -> tuple[Tensor, ...]:
        """What an objective takes beside the embeddings: tensors with B rows, as captum repeats nothing else."""
        return (self.mask, self.labels) if self.against is None else (self.mask, self.labels, self.against)

    @property
    def text_tokens(self) -> Tensor:
        """(B, T), true where a token is part of the user's text."""
        return torch.tensor([[span is not None for span in row] for row in self.offsets], device=self.ids.device)


@dataclass(frozen=True)
class Answer:
    """A model's answer to one text; `probabilities` over the label set or the row's choices, None for open tasks.

    An open answer's `probability` is that of all that was written. `reasons` is what the model wrote beside its answer,
    with the probability of all that it wrote; None where it was not asked to write. `unfinished`: the answer broke off.
    """

    text: str
    probability: float
    probabilities: dict[str, float] | None = None
    reasons: Written | None = None
    unfinished: bool = False


class Adapter(ABC):
    """One loaded model with its tokenizer and task; parameters are frozen and the model is in eval mode.

    `form` is what it writes, a label alone or with its reasons, and so what it has to be asked for.
    """

    architecture: ClassVar[str]  # "seq2seq", "causal" or "classifier"
    max_padded_tokens: int = 2048  # of one pass, wherever nobody else says how many; set it where a device takes more
    form: Form = "label"
    temperature: float = 1.0  # of probabilities over candidates: above 1 the model is less sure than its logits say
    answer_tokens: int = ANSWER_TOKENS  # the most that it writes for an answer

    def __init__(self, model: Any, tokenizer: Any, task: TaskSpec, max_tokens: int) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.task = task
        self.max_tokens = max_tokens

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def precision(self) -> str:
        """The dtype that the model computes in: `float32`, `bfloat16`."""
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")

    @property
    def end_ids(self) -> set[int]:
        """The tokens that end an answer; chat models have several."""
        ends = self.model.generation_config.eos_token_id
        return set(ends) if isinstance(ends, list) else {ends} - {None}

    def with_task(self, task: TaskSpec) -> Self:
        """The same model asked in another way: another template or another label set. Shares the weights."""
        other = copy.copy(self)
        other.task = task
        return other

    def with_form(self, form: Form) -> Self:
        """The same model, which writes its answer in another form. Shares the weights.

        Raises ModelError where it cannot write.
        """
        if form != "label" and self.architecture == "classifier":
            raise ModelError(f"a classifier cannot write, and its form is '{form}'", param="model")
        other = copy.copy(self)
        other.form = form
        return other

    def with_temperature(self, temperature: float) -> Self:
        """The same model, less sure of its answers the higher the temperature is. Shares the weights."""
        other = copy.copy(self)
        other.temperature = temperature
        return other

    def with_answer_tokens(self, most: int) -> Self:
        """The same model, which writes answers of so many tokens at most. Shares the weights."""
        other = copy.copy(self)
        other.answer_tokens = most
        return other

    def with_template(self, template: str | None) -> Self:
        """The same model and labels in another template; None keeps the task's own. Raises InvalidRequest."""
        if template is None or template == self.task.template:
            return self
        if template.count("{input}") != 1:
            raise InvalidRequest("template must contain {input} exactly once", param="template")
        return self.with_task(self.task.model_copy(update={"template": template}))

    def tokenize(self, texts: Sequence[str]) -> list[Encoded]:
        """Token ids of each text as the model reads it, and their place in the text."""
        return tokenize(self.tokenizer, Template.parse(self.task.template), texts, self.max_tokens)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens each text takes in a batch, template and special tokens counted, after truncation."""
        return [len(row.ids) for row in self.tokenize(texts)]

    def encode(self, texts: Sequence[str], targets: Sequence[str], against: Sequence[str] | None = None) -> Batch:
        """Tokenise the texts, in the task's template, and what is to be explained.

        Raises ModelError where a target cannot be expressed (a classifier that has no such label).
        """
        return self.collate(self.tokenize(texts), texts, targets, against)

    @abstractmethod
    def stack(self, encoded: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """Ids and mask of rows, padded to the longest: 2 x (B, T).

        The mask comes from the rows' lengths, because a text may hold the padding token itself.
        """

    @abstractmethod
    def collate(
        self,
        encoded: Sequence[Encoded],
        texts: Sequence[str],
        targets: Sequence[str],
        against: Sequence[str] | None = None,
    ) -> Batch:
        """A batch of texts that are tokenised already, whole or with some of their tokens left out."""

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings: (B, T) -> (B, T, D)."""

    @abstractmethod
    def token_scores(self, embeds: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """The logit of each of the target's own tokens: (B, T, D), (B, T), (B, S) -> (B, S), zero elsewhere."""

    @abstractmethod
    def own(self, labels: Tensor) -> Tensor:
        """(B, S), true for the tokens that say the answer: no padding, and no special token that only ends it."""

    @abstractmethod
    def target_tokens(self, batch: Batch) -> list[list[str]]:
        """The text of each target's own tokens, in the order of `token_scores`."""

    def score(self, embeds: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """The mean logit of each example's target tokens: (B, T, D), (B, T), (B, S) -> (B,).

        Sums nothing over the batch: an example's score and gradient do not depend on its neighbours. All arguments are
        tensors with B rows, because captum repeats tensors only when it expands a batch.
        """
        return self.token_scores(embeds, mask, labels).sum(-1) / self.own(labels).sum(-1)

    def objective(self, batch: Batch) -> Callable[..., Tensor]:
        """What is explained, as a function of the embeddings and of `batch.rows`: (B, T, D), ... -> (B,).

        The score; with `batch.token` that token's logit, zero for examples whose answer is shorter; with
        `batch.against` what the score is above that answer's.
        """

        def explained(embeds: Tensor, mask: Tensor, labels: Tensor, against: Tensor | None = None) -> Tensor:
            if batch.token is not None:
                return self.token_scores(embeds, mask, labels)[:, batch.token]
            score = self.score(embeds, mask, labels)
            return score if against is None else score - self.score(embeds, mask, against)

        return explained

    def answer_length(self, answer: str) -> int:  # noqa: ARG002
        """Tokens of an answer that a pass reads beside the text: none of a classifier, to which it is a number."""
        return 0

    def answer_width(self, batch: Batch) -> int:  # noqa: ARG002
        """The same of the longest answers of a batch."""
        return 0

    def most_rows(self, answer: int) -> int:  # noqa: ARG002
        """How many rows with answers of so many tokens may share a pass, whose logits are all in memory at once."""
        return MAX_LOGITS

    def rows_of_a_pass(self, batch: Batch) -> int:
        """How many rows as wide as a batch's share a pass."""
        answer = self.answer_width(batch)
        return max(1, min(self.max_padded_tokens // (batch.ids.shape[1] + answer), self.most_rows(answer)))

    @abstractmethod
    def attention(self, batch: Batch) -> Attention | None:
        """Where the model looks when it is asked for the batch's labels; None where it has no attention weights."""

    @property
    @abstractmethod
    def neutral_id(self) -> int:
        """The token that says nothing: padding for T5, mask or padding for encoders, padding or end for decoders."""

    def baseline(self, batch: Batch) -> Tensor:
        """Embeddings of an input that says nothing, for methods that compare with one: (B, T, D).

        Text tokens become the architecture's neutral token; template and special tokens stay as they are.
        """
        return self.embed(batch.ids.masked_fill(batch.text_tokens, self.neutral_id))

    def log_likelihoods(self, texts: Sequence[str], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        """Log-probability of each candidate answer of each text: one row per text, as long as its candidates.

        Of an answer where the model's form puts it: alone, with the end of the text; before its reasons, with what
        separates them and without an end; or behind the reasons that the model writes first, which count for nothing.
        """
        return self.likelihoods(self.tokenize(texts), candidates)

    @abstractmethod
    def likelihoods(self, encoded: Sequence[Encoded], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        """The same of texts that are tokenised already, whole or with some of their tokens left out."""

    def token_probabilities(
        self,
        encoded: Sequence[Encoded],  # noqa: ARG002
        targets: Sequence[str],  # noqa: ARG002
        most: int,  # noqa: ARG002
    ) -> list[tuple[TokenProbabilities, ...]]:
        """What is expected at each place of each text's target: the `most` likeliest tokens, with their probabilities.

        Raises InvalidRequest for a model that does not write.
        """
        raise InvalidRequest(
            f"a {self.architecture} picks a label and writes no tokens: leave token_probabilities out, and read the "
            "labels' probabilities",
            param="token_probabilities",
        )

    @property
    def longest_answer(self) -> int | None:
        """The most tokens of an answer, the one that ends it among them; None for a model that does not write."""
        return None

    @property
    def target_room(self) -> int | None:
        """The most tokens of a target, the one that ends it among them; None for a model that does not write."""
        return None

    def fits(self, target: str) -> bool:  # noqa: ARG002
        """Whether a text can be taught and scored as a target; a label of a model that does not write takes no room."""
        return True

    def reaches(self, answer: str) -> bool:  # noqa: ARG002
        """Whether the model may write an answer to its end; one that does not write picks it."""
        return True

    @abstractmethod
    def generate(
        self, texts: Sequence[str], max_new_tokens: int | None = None, template: str | None = None
    ) -> list[Written]:
        """Greedy answers with their probability (product over the answer's tokens).

        They have `answer_tokens` at most, or as many as are asked for. `template` replaces the task's for this call.
        Raises ModelError for a model that cannot write (a classifier).
        An answer that would not fit into the window as a target is cut, so that each answer can be explained.
        """

    def answers(
        self,
        texts: Sequence[str],
        choices: Sequence[Sequence[str] | None] | None = None,
        labels: Sequence[str] | None = None,
    ) -> list[Answer]:
        """Answer each text: from its own `choices`, else from `labels` (default: the task's), else freely.

        Probabilities are normalised over the candidates, so they sum to 1.
        """
        closed = list(labels or self.task.labels)
        rows = [list(own) if own else closed for own in (choices or [None] * len(texts))]
        scored = [i for i, row in enumerate(rows) if row]
        free = [i for i, row in enumerate(rows) if not row]
        found: dict[int, Answer] = {}
        if scored:
            chosen = self._choose(self.tokenize([texts[i] for i in scored]), [rows[i] for i in scored])
            found |= zip(scored, chosen, strict=True)
        if free:
            found |= zip(free, self._compose([texts[i] for i in free]), strict=True)
        return [found[i] for i in range(len(texts))]

    def _choose(self, encoded: Sequence[Encoded], candidates: Sequence[Sequence[str]]) -> list[Answer]:
        """The likeliest candidate of each text."""
        found = zip(candidates, self.likelihoods(encoded, candidates), strict=True)
        return [likeliest(*row, temperature=self.temperature) for row in found]

    def _compose(self, texts: Sequence[str]) -> list[Answer]:
        """Answers in the model's own words."""
        return [Answer(one.text, one.probability, unfinished=one.unfinished) for one in self.generate(texts)]


def likeliest(names: Sequence[str], likelihoods: Sequence[float], temperature: float = 1.0) -> Answer:
    """The candidate with the highest log-probability; probabilities are normalised over the candidates.

    The temperature changes probabilities, and never which candidate it is (Guo et al. 2017, arXiv 1706.04599).
    """
    probabilities = (torch.tensor(likelihoods, dtype=torch.float64) / temperature).softmax(-1).tolist()
    best = max(range(len(names)), key=likelihoods.__getitem__)
    return Answer(names[best], probabilities[best], dict(zip(names, probabilities, strict=True)))
