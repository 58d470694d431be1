"""The reference engine: a published folder, run by `transformers`. What a folder holds is in `models/load`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from understudy.errors import InvalidRequest, ModelError, ModelNotFound, UnknownName
from understudy.models.base import Adapter
from understudy.models.load import ModelCard, fingerprint, load_adapter, load_card
from understudy.schemas import ModelInfo, Prediction, PredictionInput, Reasons, TaskSpec
from understudy.serving.reasons import REASONS, answer

__all__ = ["HFEngine"]


class HFEngine:
    """One loaded student. `name` is how its answers call it."""

    def __init__(self, name: str, adapter: Adapter, card: ModelCard) -> None:
        self.name = name
        self.adapter = adapter
        self.card = card

    @classmethod
    def load(cls, folder: Path, device: str = "auto", name: str | None = None) -> HFEngine:
        """Load a folder and let it answer once, so that a model that cannot is never swapped in.

        Raises ModelNotFound or ModelError.
        """
        if not (folder / "config.json").is_file():
            raise ModelNotFound(f"'{folder.name}' holds no model: there is no config.json in it", param="model")
        adapter = load_adapter(str(folder), device=device)
        card = load_card(folder) or ModelCard(base_model=folder.name, recipe="none", seed=0)
        engine = cls(name or folder.name, adapter, card)
        engine.warm_up()
        return engine

    @property
    def reasons(self) -> Reasons:
        return self.card.reasons

    @property
    def parameters(self) -> int:
        return sum(weights.numel() for weights in self.adapter.model.parameters())

    @property
    def bytes(self) -> int:
        return sum(weights.nbytes for weights in self.adapter.model.parameters())

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.adapter)

    def info(self) -> ModelInfo:
        return ModelInfo(
            id=self.name,
            architecture=self.adapter.architecture,
            parameters=self.parameters,
            max_tokens=self.adapter.max_tokens,
            answer_tokens=self.adapter.longest_answer,
            fingerprint=self.fingerprint,
            precision=self.adapter.precision,
            device=str(self.adapter.device),
            task=self.adapter.task,
        )

    def bound(self, max_padded_tokens: int) -> None:
        """From now on no pass has more tokens, padding counted."""
        self.adapter.max_padded_tokens = max_padded_tokens

    def warm_up(self) -> None:
        """One forward pass on every path that a request can take, and the fingerprint, which reads every weight."""
        choices = ("yes", "no") if self.adapter.task.kind == "choice" else None
        row = PredictionInput(input="Is this a warm-up?", choices=choices)
        for explain in (False, True):
            self.predict([row], explain=explain, top_k=1)
        self.info()

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
        adapter = self._asked(labels, template)
        _check(inputs, adapter)
        if not inputs:
            return []
        found = REASONS.get(self.reasons)(adapter, self.card, inputs, top_k) if explain else answer(adapter, inputs)
        for i, prediction in enumerate(found):
            if not math.isfinite(prediction.probability):
                raise ModelError(f"inputs[{i}]: the model's numbers are not finite", param=f"inputs[{i}]")
        return found

    def _asked(self, labels: Sequence[str] | None, template: str | None) -> Adapter:
        task = self.adapter.task
        if template is not None and template.count("{input}") != 1:
            raise InvalidRequest("template must contain {input} exactly once", param="template")
        if labels is not None:
            task = TaskSpec(kind="classification", labels=tuple(dict.fromkeys(labels)), template=task.template)
        return (self.adapter if labels is None else self.adapter.with_task(task)).with_template(template)


def _check(inputs: Sequence[PredictionInput], adapter: Adapter) -> None:
    """Refuse what this model cannot answer before it works on any of it."""
    classes: dict[str, int] | None = getattr(adapter, "label_ids", None)
    for i, row in enumerate(inputs):
        if not row.input.strip():
            raise InvalidRequest(f"inputs[{i}] is blank", param=f"inputs[{i}]")
        param = f"inputs[{i}].choices"
        if row.choices is None and adapter.task.kind == "choice":
            raise InvalidRequest(f"{param} is missing: this model picks one of an input's own choices", param=param)
        unknown = [name for name in row.choices or () if classes is not None and name not in classes]
        if unknown:
            raise UnknownName.among("class of this model", unknown[0], classes or (), param=param)
