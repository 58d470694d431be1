"""The models of the teacher service: loaded by reference, kept while there is room, asked one request at a time.

Runs on the model thread and nowhere else, but for `loaded` and `check`, which touch no model. Knows nothing of HTTP.
"""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import structlog
import torch

from services.teacher.settings import Settings
from understudy.artifacts import ArtifactStore
from understudy.attribution.attribute import as_prediction, attribute
from understudy.attribution.methods import METHODS, Saliency
from understudy.errors import ArtifactNotFound, InvalidRequest, ModelNotFound, PayloadTooLarge
from understudy.models.base import Adapter
from understudy.models.load import fingerprint, load_adapter
from understudy.schemas import (
    AttributionExample,
    AttributionRequest,
    AttributionResponse,
    ModelInfo,
    Prediction,
    PredictionInput,
    PredictionRequest,
    PredictionResponse,
)

__all__ = ["Engine"]

log = structlog.get_logger()


@dataclass(frozen=True)
class _Loaded:
    """`written` says what the folder looked like from which the model came; artifacts and hub names have none."""

    adapter: Adapter
    info: ModelInfo
    written: frozenset[tuple[str, int, int]]


class Engine:
    def __init__(self, settings: Settings, store: ArtifactStore | None = None) -> None:
        self.settings = settings
        self.store = store or ArtifactStore(settings.artifacts)
        self._models: OrderedDict[str, _Loaded] = OrderedDict()

    def loaded(self) -> list[ModelInfo]:
        """The models in memory, the one asked last at the end."""
        return [model.info for model in list(self._models.values())]

    def info(self, ref: str) -> ModelInfo:
        """Facts about a model, which is loaded if it has to be."""
        return self._model(ref).info.model_copy(update={"id": ref})

    def warm(self, ref: str) -> None:
        """Load a model and explain one text with it, so that the first request does not find out that it cannot."""
        adapter = self._model(ref).adapter
        answer = next(iter(adapter.task.labels), "yes")
        Saliency()(adapter, adapter.encode(["Is the model ready?"], [answer]))

    def is_loaded(self, ref: str) -> bool:
        """True when a reference's model is in memory. Raises ModelNotFound for one that is not offered here."""
        self._permit(ref)
        return self._key(ref) in self._models

    def unload(self, ref: str) -> None:
        """Put a model out of memory. Raises ModelNotFound where it is not there."""
        if not self.is_loaded(ref):
            listed = ", ".join(self._models) or "none"
            raise ModelNotFound(f"'{ref}' is not in memory: the models in memory are {listed}", param="model")
        self._put_out(self._key(ref))

    def check(self, request: AttributionRequest | PredictionRequest) -> None:
        """Refuse what needs no model to be refused, before it waits in the queue."""
        if isinstance(request, AttributionRequest):
            METHODS.get(request.method, param="method")
            field, items = "examples", [(example.choices or ()) for example in request.examples]
        else:
            field = "inputs"
            items = [(one.choices or ()) if isinstance(one, PredictionInput) else () for one in request.inputs]
        if len(items) > self.settings.max_examples:
            raise PayloadTooLarge(
                f"{len(items)} {field} in one request: at most {self.settings.max_examples}", param=field
            )
        named = [("labels", request.labels or ()), *((f"{field}[{i}].choices", row) for i, row in enumerate(items))]
        for param, names in named:
            if len(names) > self.settings.max_candidates:
                raise PayloadTooLarge(f"{param}: at most {self.settings.max_candidates}", param=param)
            if len(set(names)) < len(names):
                raise InvalidRequest(f"{param} names the same answer twice", param=param)

    def attribute(self, request: AttributionRequest) -> AttributionResponse:
        ref = self._named(request.model)
        model = self._model(ref)
        adapter = model.adapter.with_template(request.template)
        self._bound(adapter, [example.input for example in request.examples], "examples")
        results = attribute(
            adapter,
            request.examples,
            method=request.method,
            target=request.target,
            labels=request.labels,
            top_k=request.top_k,
            max_padded_tokens=self.settings.max_padded_tokens,
        )
        return AttributionResponse(
            model=ref,
            fingerprint=model.info.fingerprint,
            method=request.method,
            target=request.target,
            precision=model.info.precision,
            results=tuple(results),
        )

    def predict(self, request: PredictionRequest) -> PredictionResponse:
        ref = self._named(request.model)
        adapter = self._model(ref).adapter.with_template(request.template)
        inputs = [PredictionInput(input=one) if isinstance(one, str) else one for one in request.inputs]
        self._bound(adapter, [one.input for one in inputs], "inputs")
        answer = self._explained if request.explain else self._plain
        return PredictionResponse(
            model=ref,
            reasons="saliency" if request.explain else None,
            predictions=tuple(answer(adapter, inputs, request)),
        )

    def _explained(
        self, adapter: Adapter, inputs: Sequence[PredictionInput], request: PredictionRequest
    ) -> list[Prediction]:
        found = attribute(
            adapter,
            [AttributionExample(id=one.id, input=one.input, choices=one.choices) for one in inputs],
            target="predicted",
            labels=request.labels,
            top_k=request.top_k,
            max_padded_tokens=self.settings.max_padded_tokens,
            field="inputs",
        )
        return [as_prediction(one) for one in found]

    def _plain(
        self, adapter: Adapter, inputs: Sequence[PredictionInput], request: PredictionRequest
    ) -> list[Prediction]:
        texts = [one.input for one in inputs]
        answers = adapter.answers(texts, [one.choices for one in inputs], request.labels)
        return [
            Prediction(
                id=one.id,
                label=answer.text,
                probability=answer.probability,
                probabilities=answer.probabilities,
                truncated=row.truncated,
            )
            for one, answer, row in zip(inputs, answers, adapter.tokenize(texts), strict=True)
        ]

    def _named(self, ref: str | None) -> str:
        """The reference that a request means: its own, or the default."""
        if ref is None and self.settings.model is None:
            raise InvalidRequest("model is missing, and this service has no default model: name one", param="model")
        return ref or str(self.settings.model)

    def _model(self, ref: str) -> _Loaded:
        """The model behind a reference, from memory where it is there.

        An alias that has moved and a folder that was written to are loaded anew.
        """
        self._permit(ref)
        key = self._key(ref)
        written = _written(ref) if key == ref else frozenset()
        if key in self._models and self._models[key].written != written:
            del self._models[key]
        if key not in self._models:
            self._make_room()
            adapter = load_adapter(ref, store=self.store, device=self.settings.device, dtype=self.settings.precision)
            self._models[key] = _Loaded(adapter, _info(key, adapter), written)
            log.info("model_loaded", model=key, fingerprint=self._models[key].info.fingerprint)
        self._models.move_to_end(key)
        return self._models[key]

    def _key(self, ref: str) -> str:
        """The name under which a reference's model is kept: its artifact id, where it has one."""
        try:
            return self.store.resolve(ref)
        except ArtifactNotFound:
            return ref

    def _permit(self, ref: str) -> None:
        patterns = self.settings.allowed_models
        climbs = ".." in ref.split("/")  # a pattern such as `models/*` must not open what lies beside its folder
        if climbs or not any(fnmatchcase(ref, pattern) for pattern in patterns):
            raise ModelNotFound(
                f"no model '{ref}' is offered here: a reference matches one of {', '.join(patterns)} and has no '..'",
                param="model",
            )

    def _make_room(self) -> None:
        """Put models out before the next one is loaded: a device rarely has room for one more than it may keep."""
        while len(self._models) >= self.settings.max_models:
            self._put_out(next(iter(self._models)))

    def _put_out(self, key: str) -> None:
        del self._models[key]
        log.info("model_put_out", model=key)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _bound(self, adapter: Adapter, texts: Sequence[str], field: str) -> None:
        tokens, most = sum(adapter.lengths(texts)), self.settings.max_request_tokens
        if tokens > most:
            raise PayloadTooLarge(f"{field} take {tokens} tokens together: at most {most} in one request", param=field)


def _written(ref: str) -> frozenset[tuple[str, int, int]]:
    """The files of a model's folder with their times and sizes; nothing for a name that is no folder."""
    files = [path for path in Path(ref).expanduser().glob("*") if path.is_file()]
    return frozenset((path.name, stat.st_mtime_ns, stat.st_size) for path in files for stat in [path.stat()])


def _info(ref: str, adapter: Adapter) -> ModelInfo:
    return ModelInfo(
        id=ref,
        architecture=adapter.architecture,
        parameters=sum(parameter.numel() for parameter in adapter.model.parameters()),
        max_tokens=adapter.max_tokens,
        fingerprint=fingerprint(adapter),
        precision=adapter.precision,
        device=str(adapter.device),
        task=adapter.task,
    )
