"""A model in this process: `understudy.load`, which answers and whose answers can be explained.

Torch is imported when a model is loaded, not before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from pydantic import ValidationError
from rich.console import Group, RenderableType

from understudy.artifacts import ArtifactStore
from understudy.attribution.heatmap import to_html
from understudy.display import prediction_view
from understudy.errors import InvalidRequest, ModelNotFound, UnderstudyError
from understudy.explain import Question, question
from understudy.python.notebook import as_text, framed, no_widgets
from understudy.python.tables import rows_of
from understudy.schemas import Attribution, Prediction, PredictionInput, Reasons, TaskSpec

if TYPE_CHECKING:
    from understudy.models.base import Adapter
    from understudy.serving.hf import HFEngine

__all__ = ["Loaded", "Model", "Precision", "Predictions", "height_of", "load"]

Model = str | PathLike[str]
"""A hub name, a folder, an artifact id or an alias."""

Precision = Literal["float32", "bfloat16", "float16", "float64"]

SHOWN = 20
"""Predictions that are shown by themselves."""


class Loaded:
    """A model in memory: `model.predict(texts)`, and `attribute(texts, model=model)`.

    `name` is what it was asked for by, `task` the answers that it gives, `reasons` where the words behind its answers
    come from (`gate` and `generated` were learned, `saliency` is computed). Not for several threads at once.
    """

    def __init__(self, name: str, engine: HFEngine, *, exact: bool) -> None:
        self.name = name
        self._engine = engine
        self._exact = exact

    @property
    def adapter(self) -> Adapter:
        """The model as the library's other functions take it. Raises InvalidRequest for an exported engine."""
        if not self._exact:
            raise InvalidRequest(
                f"'{self.name}' was loaded on an engine that has no gradients: load it with engine='hf'", param="model"
            )
        return self._engine.adapter

    @property
    def task(self) -> TaskSpec:
        return self._engine.adapter.task

    @property
    def reasons(self) -> Reasons:
        return self._engine.reasons

    def predict(
        self,
        texts: str | Sequence[str] | Sequence[Mapping[str, Any]],
        *,
        explain: bool = False,
        top_k: int = 5,
        labels: Sequence[str] | None = None,
    ) -> Predictions:
        """The model's answer to each text, in order; with `explain` also the `top_k` words behind it.

        A row may be a dictionary with `input` and `choices`, one of which is the answer. `labels` replaces the answers
        that the model may give. Raises InvalidRequest, whose `param` is `texts`, `top_k` or `labels`.
        """
        rows = [texts] if isinstance(texts, str) else list(rows_of(texts, "texts"))
        inputs = [_input(row, number) for number, row in enumerate(rows, start=1)]
        if not 1 <= top_k <= 100:
            raise InvalidRequest(f"top_k is between 1 and 100, not {top_k}", param="top_k")
        if labels is not None and len(set(labels)) < 2:
            raise InvalidRequest("labels needs two different ones", param="labels")
        try:
            found = self._engine.predict(inputs, explain=explain, top_k=top_k, labels=labels)
        except UnderstudyError as error:
            if not (error.param or "").startswith("inputs["):
                raise
            raise type(error)(error.message.replace("inputs[", "texts["), param="texts") from error
        return Predictions(tuple(one.input for one in inputs), tuple(found), self.name, self.reasons)

    def __repr__(self) -> str:
        info = self._engine.info()
        answers = f", answers {', '.join(self.task.labels)}" if self.task.labels else ""
        return f"<{self.name}: {info.architecture}, {info.parameters:,} parameters, on {info.device}{answers}>"


def _input(row: Any, number: int) -> PredictionInput:
    if not isinstance(row, str | Mapping):
        raise InvalidRequest(f"row {number} is a {type(row).__name__}: give a text or a dictionary", param="texts")
    asked = Question(row) if isinstance(row, str) else question(row, number)
    try:
        return PredictionInput(id=asked.id, input=asked.input, choices=asked.choices)
    except ValidationError as error:
        raise InvalidRequest(f"row {number}: {error.errors()[0]['msg']}", param="texts") from error


class Predictions(Sequence[Prediction]):
    """Answers in the order of their texts: each has `label`, `probability`, and `words` where they were asked for."""

    def __init__(self, texts: tuple[str, ...], found: tuple[Prediction, ...], model: str, reasons: Reasons) -> None:
        self.texts = texts
        self._found = found
        self._model = model
        self._reasons = reasons

    @property
    def labels(self) -> list[str]:
        """The answers alone."""
        return [one.label for one in self._found]

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Prediction]: ...
    def __getitem__(self, index: int | slice) -> Prediction | Sequence[Prediction]:
        return self._found[index]

    def __len__(self) -> int:
        return len(self._found)

    def __rich__(self) -> RenderableType:
        return self._view(colours=True)

    def __repr__(self) -> str:
        return as_text(self._view(colours=False))

    def _view(self, *, colours: bool) -> RenderableType:
        shown = zip(self.texts[:SHOWN], self._found[:SHOWN], strict=True)
        views: Iterator[RenderableType] = (prediction_view(text, one, colours=colours) for text, one in shown)
        more = [f"  and {len(self) - SHOWN:,} more"] if len(self) > SHOWN else []
        return Group(*views, *more)

    def _repr_html_(self) -> str | None:
        """The words behind each answer as a heat map; None without words, which shows the plain text."""
        if not self._found or any(one.words is None for one in self._found):
            return None
        found = [_as_attribution(one) for one in self._found[:SHOWN]]
        facts = {"Model": self._model, "Words": self._reasons}
        page = to_html(found, self.texts[:SHOWN], title="The words behind the answers", facts=facts)
        return framed(page, height_of(self.texts[:SHOWN]))


def _as_attribution(found: Prediction) -> Attribution:
    words = found.words or ()
    fields = found.model_dump(include={"id", "probability", "probabilities", "truncated"})
    return Attribution(**fields, prediction=found.label, explained=found.label, words=words, rationale=words, tokens=0)


def height_of(texts: Sequence[str], each: int = 190) -> int:
    """Pixels that a page of maps takes, about; a frame scrolls and can be drawn larger."""
    lines = sum(1 + len(text) // 95 + text.count("\n") for text in texts)
    return min(900, 190 + each * len(texts) + 30 * lines)


def load(
    model: Model,
    *,
    home: str | PathLike[str] = ".understudy",
    device: str = "auto",
    precision: Precision = "float32",
    engine: str = "hf",
) -> Loaded:
    """Load a model once, for many calls: `load("production").predict("a text")`.

    `model` is a hub name, a folder, or the id or alias of an artifact in `home`, the folder that a stack or `distill`
    wrote to. `device` is `cpu`, `cuda` or `cuda:1`; `auto` takes cuda where there is one. `engine` is `hf`, the
    reference, which alone can be explained; `auto` takes the fastest engine that the student was published with
    (docs/engines.md). Raises ModelNotFound, ModelError, UnknownName, and InvalidRequest for a device that is not there.
    """
    name = fspath(model)
    if not isinstance(name, str) or not name:
        raise InvalidRequest("name the model: a folder, an artifact, an alias or a hub name", param="model")
    artifacts = Path(home) / "artifacts"
    store = ArtifactStore(artifacts) if artifacts.is_dir() else None
    no_widgets()
    from understudy.models.load import ModelCard, load_adapter, load_card
    from understudy.models.source import Source
    from understudy.serving.engines import load_engine
    from understudy.serving.hf import HFEngine

    if engine != "hf":
        folder = Path(Source.find(name, store).place)
        if not (folder / "config.json").is_file():
            raise ModelNotFound(f"'{name}' was not published here: only such models have engines", param="model")
        found = load_engine(folder, device, name, engine=engine)
        return Loaded(name, found, exact=type(found) is HFEngine)
    adapter = load_adapter(name, store=store, device=device, dtype=precision)
    card = load_card(Path(Source.find(name, store).place)) or ModelCard(base_model=name, recipe="none", seed=0)
    return Loaded(name, HFEngine(name, adapter, card), exact=True)
