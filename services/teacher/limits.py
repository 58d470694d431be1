"""What a request may cost, and what it does cost: refused here before anything waits. Touches no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from services.teacher.settings import Settings
from understudy.attribution.attribute import check_rows
from understudy.attribution.methods import Method, make_method, settings_of
from understudy.errors import InvalidRequest, PayloadTooLarge
from understudy.schemas import (
    AttributionExample,
    AttributionOptions,
    AttributionRequest,
    ModelInfo,
    PredictionInput,
    PredictionRequest,
)

__all__ = ["check", "check_method", "check_tokens", "work"]

_STEPS = ("n_steps", "n_samples")
_PROBABILITY = 8  # tokens' work: a request's answer stays within some 16 MB, as its body does
_LONGEST_ANSWER = 64  # tokens that a model writes of its own accord
_FAITHFULNESS = 12  # forward passes: without the rationale, with it alone, and both for five shares of the words


def check(request: AttributionRequest | PredictionRequest, settings: Settings, *, streamed: bool = False) -> None:
    """Raise PayloadTooLarge or InvalidRequest, which name the field, for what can be seen without a model."""
    field, items = _items(request)
    most = settings.max_stream_examples if streamed else settings.max_examples
    if len(items) > most:
        raise PayloadTooLarge(f"{len(items)} {field} in one request: at most {most}", param=field)
    characters = sum(len(one.input) for one in items)
    if characters > settings.max_request_chars:
        raise PayloadTooLarge(
            f"{field} have {characters} characters together: at most {settings.max_request_chars} in one request",
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
            f"{settings.max_request_work} in one request. Ask for fewer steps, leave out rows and faithfulness, or "
            f"send fewer {field}",
            param=field,
        )


def work(
    model: ModelInfo,
    options: AttributionOptions,
    method: Method,
    example: AttributionExample,
    length: int,
    *,
    contrast: bool,
) -> int:
    """Tokens that the model reads to explain one text of `length` tokens, each counted for every pass, about.

    The map takes a method's steps, or a pass for each word; again for the answer that it is compared with, and for each
    token of the explained answer where each has its row. The model's own answer takes a pass, and faithfulness asks for
    it again without some of the words. The probabilities of tokens take a pass, and each of them room in the answer.
    """
    settings = settings_of(method)
    steps = max((int(settings[name]) for name in _STEPS if name in settings), default=1)
    words = len(example.input.split()) if method.unit == "word" else 1
    answer = example.output if options.target == "gold" else options.label
    rows = _tokens(answer or "") if options.rows else 0
    places = (_LONGEST_ANSWER if answer is None else _tokens(answer)) if options.token_probabilities else 0
    told = (length if places else 0) + places * (1 + _PROBABILITY * options.token_probabilities)
    asked = options.predict + _FAITHFULNESS * options.faithfulness
    closed = example.choices or options.labels or (model.task.labels if model.task else ())
    return length * max(steps, words) * (1 + contrast + rows) + asked * _answer(model, length, closed) + told


def _answer(model: ModelInfo, length: int, closed: Sequence[str]) -> int:
    """Tokens read for one answer: a classifier scores all labels at once, a decoder reads the text anew for each."""
    if not closed or model.architecture == "classifier":
        return length
    readings = len(closed) if model.architecture == "causal" else 1
    return readings * length + sum(map(_tokens, closed))


def _tokens(text: str) -> int:
    """About how many a text takes, without a tokenizer."""
    return 1 + len(text) // 4


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
