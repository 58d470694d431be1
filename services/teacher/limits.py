"""What a request may cost, and what it does cost: refused here before anything waits. Touches no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from services.teacher.settings import Settings
from understudy.attribution.attribute import check_rows
from understudy.attribution.methods import Method, make_method, settings_of
from understudy.attribution.words import word_spans
from understudy.errors import InvalidRequest, PayloadTooLarge
from understudy.schemas import (
    AttributionExample,
    AttributionOptions,
    AttributionRequest,
    ModelInfo,
    PredictionInput,
    PredictionRequest,
)

__all__ = ["Reading", "answer_work", "check", "check_method", "check_tokens", "work"]

_STEPS = ("n_steps", "n_samples")
_PROBABILITY = 8  # tokens' work: a request's answer stays within some 16 MB, as its body does
_FAITHFULNESS = 12  # forward passes: without the rationale, with it alone, and both for five shares of the words


def check(request: AttributionRequest | PredictionRequest, settings: Settings, *, chunk: int | None = None) -> None:
    """Raise PayloadTooLarge or InvalidRequest, which name the field, for what can be seen without a model.

    `chunk` is how many examples are under way at once where the answer is streamed.
    """
    field, items = _items(request)
    most = settings.max_examples if chunk is None else settings.max_stream_examples
    if len(items) > most:
        raise PayloadTooLarge(f"{len(items)} {field} in one request: at most {most}", param=field)
    # Every text is read in the template, and a batch that fails is tried in halves: with the labels again each time.
    together = len(items) if chunk is None else min(chunk, len(items))
    characters = together * _characters(_shared(request)) + sum(_characters(_own(one)) for one in items)
    if characters > settings.max_request_chars:
        raise PayloadTooLarge(
            f"{field} have {characters} characters together, each with the template and the answers that are named for "
            f"it: at most {settings.max_request_chars} in one request. Send fewer {field}, or a shorter template and "
            "fewer answers",
            param=field,
        )
    for param, names in _candidates(request, field, items):
        if len(names) > settings.max_candidates:
            raise PayloadTooLarge(f"{param}: at most {settings.max_candidates}", param=param)
        if len(set(names)) < len(names):
            raise InvalidRequest(f"{param} names the same answer twice", param=param)


def check_method(options: AttributionOptions, settings: Settings) -> Method:
    """The method that is asked for. Raises UnknownName, or InvalidRequest for settings that there are not or above
    what this service allows, and for rows that the method has not.
    """
    method = make_method(options.method, options.settings)
    check_rows(options, method)
    chosen, most = settings_of(method), settings.max_steps
    for name in _STEPS:
        if name in chosen and chosen[name] > most:
            raise InvalidRequest(f"settings.{name} is {chosen[name]}: at most {most} here", param=f"settings.{name}")
    return method


def check_tokens(field: str, lengths: Sequence[int], costs: Sequence[int], settings: Settings) -> None:
    """Raise PayloadTooLarge where a request has too many tokens, or too many times the passes that it asks for."""
    tokens, every_pass = sum(lengths), sum(costs)
    if tokens > settings.max_request_tokens:
        raise PayloadTooLarge(
            f"{field} take {tokens} tokens together: at most {settings.max_request_tokens} in one request", param=field
        )
    if every_pass > settings.max_request_work:
        raise PayloadTooLarge(
            f"{field} take {tokens} tokens and {every_pass} with every pass that they ask for: at most "
            f"{settings.max_request_work} in one request. Send fewer {field}, or fewer answers to choose from; of an "
            "explanation, ask for fewer steps, or leave out rows and faithfulness",
            param=field,
        )


@dataclass(frozen=True)
class Reading:
    """What of a model decides what an answer costs it: `tokens` counts those of an answer.

    `shared` are the tokens of a pass in which a decoder reads a prompt once for all of its answers; 1 where it reads it
    for each.
    """

    model: ModelInfo
    tokens: Callable[[str], int]
    shared: int

    def closed(self, item: AttributionExample | PredictionInput, labels: Sequence[str] | None) -> Sequence[str]:
        """The answers that are scored; none where the model writes its own."""
        return item.choices or labels or (self.model.task.labels if self.model.task else ())


def work(
    reading: Reading,
    options: AttributionOptions,
    method: Method,
    example: AttributionExample,
    length: int,
    *,
    contrast: bool,
) -> int:
    """Tokens that the model reads and writes to explain a text of `length` tokens, each counted for every pass, about.

    The map takes a method's steps, or a pass for each word; again for the answer that it is compared with, and for each
    token of the explained answer where each has its row. The model's own answer takes a pass, and faithfulness asks for
    it again without some of the words. The probabilities of tokens take a pass, and each of them room in the answer.
    """
    settings = settings_of(method)
    passes = max((int(settings[name]) for name in _STEPS if name in settings), default=1)
    if method.unit == "word":
        words = word_spans(example.input, punctuation="punctuation" not in options.ignore, most=length)
        passes = max(passes, len(words))
    target = _target(reading, options, example)
    rows = max(1, target) if options.rows else 0  # a label of a classifier has one, and no tokens
    other = length + reading.tokens(example.against or options.against or "") if contrast else 0
    asked = answer_work(reading, example, options.labels, length)
    again = asked if reading.closed(example, options.labels) else length + target
    places = target if options.token_probabilities else 0
    told = (length if places else 0) + places * (1 + _PROBABILITY * options.token_probabilities)
    return (
        passes * ((1 + rows) * (length + target) + other)
        + options.predict * asked
        + options.faithfulness * _FAITHFULNESS * again
        + told
    )


def answer_work(
    reading: Reading, item: AttributionExample | PredictionInput, labels: Sequence[str] | None, length: int
) -> int:
    """Tokens that the model reads and writes for its own answer to a text of `length` tokens, about.

    A classifier scores all labels at once. Models that write read each of them behind the text: an encoder-decoder
    reads the text once, a decoder once for those of them that share a pass.
    """
    closed = reading.closed(item, labels)
    if reading.model.architecture == "classifier":
        return length
    if not closed:
        return length + (reading.model.answer_tokens or 0)
    written = [reading.tokens(name) for name in closed]
    times = 1
    if reading.model.architecture == "causal":
        times = min(len(closed), 1 + len(closed) * (length + max(written)) // reading.shared)
    return times * length + sum(written)


def _target(reading: Reading, options: AttributionOptions, example: AttributionExample) -> int:
    """Tokens of the answer that is explained, or of the longest that the model may give where that is its own."""
    if options.target != "predicted":
        return reading.tokens((example.output if options.target == "gold" else options.label) or "")
    known = map(reading.tokens, reading.closed(example, options.labels))
    return max(known, default=reading.model.answer_tokens or 0)


def _characters(texts: Iterable[str | None]) -> int:
    return sum(len(text) for text in texts if text)


def _shared(request: AttributionRequest | PredictionRequest) -> list[str | None]:
    """What every text of a request is read with."""
    own = [request.label, request.against] if isinstance(request, AttributionRequest) else []
    return [request.template, *(request.labels or ()), *own]


def _own(item: AttributionExample | PredictionInput) -> list[str | None]:
    own = [item.output, item.against] if isinstance(item, AttributionExample) else []
    return [item.input, *(item.choices or ()), *own]


def _items(
    request: AttributionRequest | PredictionRequest,
) -> tuple[str, Sequence[AttributionExample | PredictionInput]]:
    if isinstance(request, AttributionRequest):
        return "examples", request.examples
    return "inputs", [PredictionInput(input=one) if isinstance(one, str) else one for one in request.inputs]


def _candidates(
    request: AttributionRequest | PredictionRequest, field: str, items: Sequence[AttributionExample | PredictionInput]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "labels", request.labels or ()
    for i, one in enumerate(items):
        yield f"{field}[{i}].choices", one.choices or ()
