"""One model: where it is, what it takes, how it is loaded, and what it is asked. Plain functions of a thread.

Knows nothing of requests, queues and which models are in memory.
"""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import structlog
import torch

from services.teacher.settings import Settings
from understudy.artifacts import ArtifactStore
from understudy.attribution.attribute import attribute
from understudy.attribution.methods import Saliency
from understudy.errors import ArtifactNotFound, ModelNotFound
from understudy.models.base import Adapter
from understudy.models.load import fingerprint, load_adapter
from understudy.models.sizes import parameters
from understudy.models.source import Source, local_path
from understudy.schemas import (
    Attribution,
    AttributionExample,
    AttributionOptions,
    ModelInfo,
    Prediction,
    PredictionInput,
)

__all__ = ["Engine", "Model", "Place"]

log = structlog.get_logger()

_ITEM_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Place:
    """What a reference names now: an artifact, or a folder as it was written last, or a hub name."""

    key: str
    written: frozenset[tuple[str, int, int]]


@dataclass(frozen=True, eq=False)
class Model:
    """A model in memory. `bytes` are its parameters'."""

    place: Place
    adapter: Adapter
    info: ModelInfo
    bytes: int
    _meter: Adapter
    _measuring: threading.Lock = field(default_factory=threading.Lock)

    def lengths(self, texts: Sequence[str], template: str | None) -> list[int]:
        """Tokens that each text takes, counted on any thread: a tokenizer is for one at a time, and this has its own.

        Raises InvalidRequest for a template that is none, and ModelError for one that leaves no room for a text.
        """
        with self._measuring:
            meter = self._meter.with_template(template)
            if template is not None:
                meter.lengths(["x"])  # one that leaves no room is found out before every text is read in it
            return meter.lengths(texts)

    def answer_length(self, answer: str) -> int:
        """Tokens that an answer takes behind a text, counted on any thread."""
        with self._measuring:
            return self._meter.answer_length(answer)


class Engine:
    def __init__(self, settings: Settings, store: ArtifactStore | None = None) -> None:
        self.settings = settings
        self.store = store or ArtifactStore(settings.artifacts)

    def permit(self, ref: str) -> None:
        """Raise ModelNotFound for a reference that is not offered here."""
        patterns = self.settings.allowed_models
        climbs = ".." in ref.split("/")  # a pattern such as `models/*` must not open what lies beside its folder
        if climbs or not any(fnmatchcase(ref, pattern) for pattern in patterns):
            raise ModelNotFound(
                f"no model '{ref}' is offered here: a reference matches one of {', '.join(patterns)} and has no '..'",
                param="model",
            )

    def find(self, ref: str) -> Place:
        """What a reference names now: an alias that has moved and a folder that was written to are other places."""
        try:
            return Place(self.store.resolve(ref), frozenset())
        except ArtifactNotFound:
            return Place(ref, _written(ref))

    def size(self, place: Place) -> int | None:
        """Bytes that a model's parameters will take in memory, before it is loaded; None where it has no folder yet.

        Raises ModelNotFound where there is none, and ModelError where it has no safetensors files.
        """
        folder = Path(Source.find(place.key, self.store).place)
        if not folder.is_dir():
            return None
        return parameters(folder) * _ITEM_BYTES[self.settings.precision]

    def load(self, place: Place) -> Model:
        """Load a model and let it explain one text, so that the first request does not find out that it cannot."""
        adapter = load_adapter(place.key, store=self.store, device=self.settings.device, dtype=self.settings.precision)
        adapter.max_padded_tokens = self.settings.max_padded_tokens
        answer = next(iter(adapter.task.labels), "yes")
        Saliency()(adapter, adapter.encode(["Is the model ready?"], [answer]))
        meter = copy.copy(adapter)
        meter.tokenizer = copy.deepcopy(adapter.tokenizer)
        size = sum(parameter.nbytes for parameter in adapter.model.parameters())
        return Model(place, adapter, _info(place.key, adapter), size, meter)

    def free(self) -> None:
        """Give back the memory of models that nobody holds any more."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def explain(
        self, model: Model, options: AttributionOptions, examples: Sequence[AttributionExample]
    ) -> list[Attribution]:
        return attribute(model.adapter, examples, options)

    def answer(
        self, model: Model, labels: Sequence[str] | None, template: str | None, inputs: Sequence[PredictionInput]
    ) -> list[Prediction]:
        adapter = model.adapter.with_template(template)
        texts = [one.input for one in inputs]
        answers = adapter.answers(texts, [one.choices for one in inputs], labels)
        return [
            Prediction(
                id=one.id,
                label=answer.text,
                probability=answer.probability,
                probabilities=answer.probabilities,
                truncated=row.truncated,
                unfinished=answer.unfinished,
            )
            for one, answer, row in zip(inputs, answers, adapter.tokenize(texts), strict=True)
        ]


def _written(ref: str) -> frozenset[tuple[str, int, int]]:
    """The files of a model's folder with their times and sizes; nothing for a name that is no folder."""
    files = [path for path in local_path(ref).glob("*") if path.is_file()]
    return frozenset((path.name, stat.st_mtime_ns, stat.st_size) for path in files for stat in [path.stat()])


def _info(ref: str, adapter: Adapter) -> ModelInfo:
    return ModelInfo(
        id=ref,
        architecture=adapter.architecture,
        parameters=sum(parameter.numel() for parameter in adapter.model.parameters()),
        max_tokens=adapter.max_tokens,
        answer_tokens=adapter.longest_answer,
        fingerprint=fingerprint(adapter),
        precision=adapter.precision,
        device=str(adapter.device),
        task=adapter.task,
    )
