"""A published folder in another engine's format: `export` writes it, `open_exported` makes an engine of it.

Only weights change their form. The tokenizer, the task and the card stay those of the folder, so that a text becomes
the same tokens for every engine. Knows no services; whether an engine is good enough is for `parity` to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from understudy.attribution.attribute import attribute
from understudy.errors import ModelError
from understudy.models.base import Adapter
from understudy.models.load import ModelCard, as_trained, fingerprint, load_adapter, load_card, load_task, window
from understudy.models.source import Source
from understudy.schemas import AttributionExample, AttributionOptions, Prediction, PredictionInput
from understudy.serving.hf import HFEngine
from understudy.serving.published import EngineName, folder_of, missing, parse, size_of

__all__ = ["ExportedEngine", "export", "fits", "open_exported"]

FACTS = "engine.json"
_ARCHITECTURES = {"seq2seq": "ct2", "classifier": "ort"}


class _Facts(BaseModel):
    """What the weights of the folder were when an engine was made of them: `engine.json` beside the engine's files."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    parameters: int
    fingerprint: str


def fits(adapter: Adapter, name: str) -> bool:
    """Whether an engine is for models of this architecture at all; `export` says what else may be in its way."""
    return _ARCHITECTURES.get(adapter.architecture) == parse(name)[0]


def export(folder: Path, name: str, *, out: Path | None = None, adapter: Adapter | None = None) -> Path:
    """Write a model folder's engine into `out/engines/` (default: into the folder itself) and return where it lies.

    `adapter` is the loaded folder, for callers that have it; it is left as it was. Raises ModelError for a model that
    the engine is not for, and where a package is missing; what exporters raise by themselves comes through.
    """
    engine, precision = parse(name)
    if absent := missing(name, export=True):
        raise ModelError(f"{' and '.join(absent)} is not installed here: pip install 'understudy[engines]'")
    adapter = adapter or load_adapter(str(folder), device="cpu")
    library = _library(engine)
    if problem := library.problem(adapter):
        raise ModelError(problem, param="engine")
    if load_task(folder) is None:
        raise ModelError(f"'{folder.name}' says nothing of its task: there is no task.json in it", param="model")
    target = folder_of(out or folder, name)
    library.convert(adapter, target, precision)
    facts = _Facts(
        name=name,
        parameters=sum(weights.numel() for weights in adapter.model.parameters()),
        fingerprint=_fingerprint(fingerprint(adapter), name, target),
    )
    (target / FACTS).write_text(facts.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return target


def open_exported(
    folder: Path, name: str, *, label: str | None = None, out: Path | None = None, reference: HFEngine | None = None
) -> ExportedEngine:
    """Load a folder's engine and let it answer once; `label` is how its answers call it.

    A model whose reasons are computed from gradients needs the reference beside it: `reference` where the caller has
    it, else it is loaded. Raises ModelError.
    """
    engine, precision = parse(name)
    place = folder_of(out or folder, name)
    facts, task = _facts(place), load_task(folder)
    if task is None:
        raise ModelError(f"'{folder.name}' says nothing of its task: there is no task.json in it", param="model")
    source = Source.find(str(folder), None)
    config, tokenizer = source.config(), source.tokenizer()
    card = load_card(folder) or ModelCard(base_model=folder.name, recipe="none", seed=0)
    library = _library(engine)
    model = library.Model(place, config, precision, torch.get_num_threads())
    adapter = library.Adapted(model, tokenizer, task, window(config, tokenizer, card.max_tokens))
    if card.reasons == "saliency" and reference is None:
        reference = HFEngine(folder.name, load_adapter(str(folder), device="cpu"), card)
    named, size = label or folder.name, size_of(out or folder, name)
    exported = ExportedEngine(named, as_trained(adapter, card), card, facts, size, reference)
    exported.warm_up()
    return exported


class ExportedEngine(HFEngine):
    """A student on another engine. Its answers, and reasons that it gives in passing or writes, are the engine's own.

    Reasons that are gradients are the reference's, for the answer that this engine gave. `size` is that of the engine's
    files.
    """

    def __init__(
        self, name: str, adapter: Adapter, card: ModelCard, facts: _Facts, size: int, reference: HFEngine | None = None
    ) -> None:
        super().__init__(name, adapter, card)
        self.facts = facts
        self.size = size
        self.reference = reference if card.reasons == "saliency" else None

    @property
    def engine(self) -> str:
        """`ct2:int8`, ..."""
        return self.facts.name

    @property
    def parameters(self) -> int:
        return self.facts.parameters

    @property
    def bytes(self) -> int:
        """An int8 model has more than a byte for each parameter: embeddings may stay float32."""
        return self.size + (self.reference.bytes if self.reference else 0)

    @property
    def fingerprint(self) -> str:
        return self.facts.fingerprint

    def bound(self, max_padded_tokens: int) -> None:
        super().bound(max_padded_tokens)
        if self.reference is not None:
            self.reference.bound(max_padded_tokens)

    def predict(
        self,
        inputs: Sequence[PredictionInput],
        *,
        explain: bool,
        top_k: int,
        labels: Sequence[str] | None = None,
        template: str | None = None,
    ) -> list[Prediction]:
        """See `Engine.predict`."""
        if not explain or self.reference is None:
            return super().predict(inputs, explain=explain, top_k=top_k, labels=labels, template=template)
        found = super().predict(inputs, explain=False, top_k=top_k, labels=labels, template=template)
        # An empty answer has no logit whose gradient could be taken.
        said = [i for i, prediction in enumerate(found) if prediction.label.strip()]
        examples = [
            AttributionExample(id=inputs[i].id, input=inputs[i].input, choices=inputs[i].choices, output=found[i].label)
            for i in said
        ]
        options = AttributionOptions(target="gold", predict=False, top_k=top_k)
        maps = attribute(self.reference._asked(labels, template), examples, options, field="inputs")
        words = dict(zip(said, (one.rationale for one in maps), strict=True))
        return [one.model_copy(update={"words": words.get(i, ())}) for i, one in enumerate(found)]


def _library(engine: EngineName) -> ModuleType:
    """The module of an engine, imported where it is needed: its package is not installed everywhere."""
    if engine == "ct2":
        from understudy.serving import ct2

        return ct2
    from understudy.serving import ort

    return ort


def _facts(place: Path) -> _Facts:
    path = place / FACTS
    try:
        return _Facts.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ModelError(
            f"the engine {place.name} cannot be read: {FACTS} is missing or wrong", param="model"
        ) from error


def _fingerprint(reference: str, name: str, place: Path) -> str:
    """What the engine's answers depend on: the reference, in this form."""
    digest = hashlib.sha256(f"{reference}\n{name}\n".encode())
    for path in sorted(path for path in place.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(place).as_posix()} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
