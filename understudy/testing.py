"""Tiny real models and fakes that obey the contracts, for tests and for trying things out. No downloads.

The models are real `transformers` models of width 16 with tokenizers trained on the sentences below: they answer
nonsense, fast and always the same. Torch is imported when a model is made, not before.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import unquote

import httpx
from pydantic import ValidationError

from understudy.attribution.rationale import top_words
from understudy.attribution.words import word_spans
from understudy.errors import InvalidRequest, ModelNotFound, NotFound, UnderstudyError
from understudy.schemas import (
    Attribution,
    AttributionExample,
    AttributionRequest,
    AttributionResponse,
    ModelInfo,
    Prediction,
    PredictionInput,
    PredictionRequest,
    PredictionResponse,
    TaskSpec,
    TokenProbabilities,
    Word,
)

if TYPE_CHECKING:
    from understudy.models.load import ModelCard

__all__ = ["LABELS", "SENTENCES", "TARGETS", "FakeTeacher", "tiny_causal", "tiny_classifier", "tiny_seq2seq"]

R = TypeVar("R", AttributionRequest, PredictionRequest)

LABELS = ("negative", "neutral", "positive")

SENTENCES = (
    "The plot is thin, but the acting is wonderful and the music is better still.",
    "A dull film: two hours of rain, one joke, and an ending that nobody wanted.",
    "Opens a socket and waits until the server answers or the timeout is over.",
    "Return the addr_spec of the address; it doesn't include the display name.",
    "The thread holds the lock until every waiting thread has been notified.",
    "It is a film about a teacher, a student and what the student never learned.",
    "Reads the next line from the file, or an empty string at the end of the file.",
    "I love the first half, I hate the second half, and I forgot the middle.",
    "Nothing happens for an hour and then everything happens at once.",
    "Parse the date in the given format and return the number of seconds.",
    "The best meal of my life, and the waiter remembered my name!",
    "The room was cold, the towels were wet and the window did not close.",
)
TARGETS = ("positive", "negative", "neutral", "negative", "neutral", "neutral") * 2


def tiny_seq2seq(
    folder: Path,
    *,
    template: str = "{input}",
    seed: int = 0,
    ref: str = "scratch:t5-1x16",
    pooling: Literal["mean", "gate"] = "mean",
) -> Path:
    """A gated-GELU T5 that writes text; with `pooling="gate"` a gate on its encoder's states."""
    return _publish(folder, ref, TaskSpec(template=template), seed, pooling)


def tiny_causal(
    folder: Path, *, template: str = "{input}", seed: int = 0, family: Literal["gpt2", "llama"] = "gpt2"
) -> Path:
    """A GPT-2, or a Llama (rotary positions, RMS norm) over the same byte-level tokenizer."""
    task = TaskSpec(template=template)
    if family == "gpt2":
        return _publish(folder, "scratch:gpt2-1x16", task, seed)
    return _publish_llama(folder, task, seed)


def tiny_classifier(
    folder: Path,
    *,
    labels: Sequence[str] = LABELS,
    template: str = "{input}",
    seed: int = 0,
    pooling: Literal["mean", "gate", "tags"] = "mean",
    kind: Literal["understudy", "bert"] = "understudy",
) -> Path:
    """An EncoderClassifier, or with `kind="bert"` the hub's own BertForSequenceClassification."""
    task = TaskSpec(kind="classification", labels=tuple(labels), template=template)
    if kind == "understudy":
        return _publish(folder, "scratch:bert-1x16", task, seed, pooling)
    return _publish_bert(folder, task, seed)


class FakeTeacher(httpx.BaseTransport):
    """A teacher service without a model: `TeacherClient(url, transport=FakeTeacher())`.

    It answers with the first candidate (the row's choices, else the labels) whose name stands in the text, else with
    the first one; a word scores its length, and ten more where it is part of the answer. `fail_next` makes the next
    requests for work fail; `requests` records them all.
    """

    def __init__(self, models: Sequence[str] = ("teacher",), *, fingerprint: str = "0123456789abcdef") -> None:
        self.models = tuple(models)
        self.fingerprint = fingerprint
        self.requests: list[AttributionRequest | PredictionRequest] = []
        self._failures: deque[UnderstudyError] = deque()

    def fail_next(self, *errors: UnderstudyError) -> None:
        self._failures.extend(errors)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return httpx.Response(200, json=self._answer(request.method, unquote(request.url.path), request.read()))
        except UnderstudyError as error:
            headers = {} if error.retry_after is None else {"Retry-After": f"{error.retry_after:.0f}"}
            return httpx.Response(error.status, json=error.body(), headers=headers)

    def _answer(self, method: str, path: str, body: bytes) -> object:
        if method == "GET" and path in ("/livez", "/readyz"):
            return {"status": "ok"}
        if method == "GET" and path == "/v1/models":
            return {"object": "list", "data": [self._info(model).model_dump(mode="json") for model in self.models]}
        if method == "GET" and path.startswith("/v1/models/"):
            return self._info(self._named(path.removeprefix("/v1/models/"))).model_dump(mode="json")
        if method == "POST" and path == "/v1/attributions":
            return self._attributions(_parsed(AttributionRequest, body)).model_dump(mode="json")
        if method == "POST" and path == "/v1/predictions":
            return self._predictions(_parsed(PredictionRequest, body)).model_dump(mode="json")
        raise NotFound("no such address")

    def _attributions(self, request: AttributionRequest) -> AttributionResponse:
        self._work(request)
        return AttributionResponse(
            model=self._named(request.model),
            fingerprint=self.fingerprint,
            method=request.method,
            target=request.target,
            precision="float32",
            results=tuple(_fake(i, example, request) for i, example in enumerate(request.examples)),
        )

    def _predictions(self, request: PredictionRequest) -> PredictionResponse:
        self._work(request)
        inputs = [PredictionInput(input=one) if isinstance(one, str) else one for one in request.inputs]
        answers = [_fake_answer(one.input, one.choices or request.labels or ()) for one in inputs]
        return PredictionResponse(
            model=self._named(request.model),
            reasons="saliency" if request.explain else None,
            predictions=tuple(
                Prediction(
                    id=one.id,
                    label=label,
                    probability=chances.get(label, 1.0),
                    probabilities=chances or None,
                    words=top_words(_fake_words(one.input, label), request.top_k) if request.explain else None,
                )
                for one, (label, chances) in zip(inputs, answers, strict=True)
            ),
        )

    def _work(self, request: AttributionRequest | PredictionRequest) -> None:
        self.requests.append(request)
        if self._failures:
            raise self._failures.popleft()

    def _named(self, ref: str | None) -> str:
        if ref is not None and ref not in self.models:
            raise ModelNotFound(f"no model '{ref}': there is {', '.join(self.models)}", param="model")
        return ref or self.models[0]

    def _info(self, ref: str) -> ModelInfo:
        return ModelInfo(
            id=ref,
            architecture="classifier",
            parameters=1_000,
            max_tokens=512,
            fingerprint=self.fingerprint,
            precision="float32",
            device="cpu",
        )


def _parsed(kind: type[R], body: bytes) -> R:
    try:
        return kind.model_validate(json.loads(body))
    except ValidationError as error:
        raise InvalidRequest(error.errors()[0]["msg"], param=".".join(map(str, error.errors()[0]["loc"]))) from error


def _fake(i: int, example: AttributionExample, request: AttributionRequest) -> Attribution:
    prediction, chances = _fake_answer(example.input, example.choices or request.labels or ())
    if request.target == "gold" and example.output is None:
        raise InvalidRequest("the target 'gold' needs an output", param=f"examples[{i}].output")
    explained = {"gold": str(example.output), "label": str(request.label)}.get(request.target, prediction)
    words = _fake_words(example.input, explained)
    return Attribution(
        id=example.id,
        prediction=prediction,
        probability=chances.get(prediction, 1.0),
        probabilities=chances or None,
        explained=explained,
        words=words,
        rationale=top_words(words, request.top_k),
        token_probabilities=_fake_tokens(explained) if request.token_probabilities else None,
        tokens=len(words) + 1,
    )


def _fake_tokens(answer: str) -> tuple[TokenProbabilities, ...]:
    """As a model whose tokens are words, and which is rather sure of each."""
    return tuple(
        TokenProbabilities(token=word, probabilities={word: 0.9}, rest=0.1) for word in [*answer.split(), "</s>"]
    )


def _fake_answer(text: str, candidates: Sequence[str]) -> tuple[str, dict[str, float]]:
    """An answer and its probabilities, which favour it and sum to 1."""
    if not candidates:
        return text.split()[0] if text.split() else "", {}
    best = next((name for name in candidates if name.lower() in text.lower()), candidates[0])
    weights = {name: 1.0 + (name == best) for name in candidates}
    return best, {name: weight / sum(weights.values()) for name, weight in weights.items()}


def _fake_words(text: str, answer: str) -> tuple[Word, ...]:
    spans = word_spans(text)
    return tuple(
        Word(text=text[a:b], start=a, end=b, score=float(b - a + 10 * (text[a:b].lower() in answer.lower())))
        for a, b in spans
    )


def _card(ref: str, seed: int, reasons: Literal["gate", "saliency"] = "saliency") -> ModelCard:
    from understudy.models.load import ModelCard

    return ModelCard(base_model=ref, recipe="finetune", seed=seed, reasons=reasons, max_tokens=64)


def _publish(
    folder: Path, ref: str, task: TaskSpec, seed: int, pooling: Literal["mean", "gate", "tags"] = "mean"
) -> Path:
    import torch

    from understudy.models.load import create, save

    targets = task.labels or TARGETS
    model, tokenizer = create(ref, store=None, task=task, texts=SENTENCES, targets=targets, seed=seed, pooling=pooling)
    if (
        task.kind == "classification" and pooling != "mean"
    ):  # as one that has learned: a fresh gate is half open for all
        torch.nn.init.normal_(model.gate.weight, generator=torch.Generator().manual_seed(seed))
    save(model, tokenizer, task, _card(ref, seed, "saliency" if pooling == "mean" else "gate"), folder)
    return folder


def _publish_llama(folder: Path, task: TaskSpec, seed: int) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from understudy.models.load import save
    from understudy.models.scratch import corpus, train_tokenizer

    tokenizer = train_tokenizer("gpt2", corpus(SENTENCES, TARGETS, task.template))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    save(model, tokenizer, task, _card("tiny-llama", seed), folder)
    return folder


def _publish_bert(folder: Path, task: TaskSpec, seed: int) -> Path:
    import torch
    from transformers import BertForSequenceClassification

    from understudy.models.load import save
    from understudy.models.scratch import build_config, corpus, parse_scratch, train_tokenizer

    tokenizer = train_tokenizer("bert", corpus(SENTENCES, task.labels, task.template))
    config = build_config(parse_scratch("scratch:bert-1x16"), tokenizer)
    config.id2label = dict(enumerate(task.labels))
    config.label2id = {label: index for index, label in config.id2label.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(config)
    save(model, tokenizer, task, _card("tiny-bert", seed), folder)
    return folder
