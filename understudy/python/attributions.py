"""Which words decide a model's answers, in this process: `understudy.attribute` and `understudy.compare`.

The work is `explain`'s, as for the command line; what is here takes what people have in Python and shows what was
found, as a heat map in a notebook and in words elsewhere.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from rich.console import Group, RenderableType

from understudy import explain
from understudy.attribution.heatmap import to_html
from understudy.attribution.terminal import attribution_view, comparison_view
from understudy.attribution.verdict import sentences
from understudy.errors import InvalidRequest, NotFound, UnderstudyError, UnknownName
from understudy.explain import InProcess, Question, Source, Summary
from understudy.python.loaded import Loaded, Model, Precision, height_of, load
from understudy.python.notebook import as_html, as_text, counting, framed
from understudy.python.tables import Rows, rows_of
from understudy.schemas import Attribution, AttributionOptions, AttributionResponse

if TYPE_CHECKING:
    from understudy.attribution.comparison import Comparison
    from understudy.models.base import Adapter

__all__ = ["Attributions", "Compared", "Inputs", "attribute", "compare"]

Inputs: TypeAlias = Rows | Sequence[str]
"""A text, a file of rows (its path), several texts, dictionaries with `input`, or a table."""

Settings = Mapping[str, float | int | str]
Target = Literal["predicted", "gold", "label"]
Select = Literal["top_k", "top_share", "threshold", "span"]
Ignored = Literal["stop_words", "punctuation"]
Aggregation = Literal["sum", "mean", "max", "l1", "l2"]

SHOWN = 20
"""Maps that a notebook shows by itself; `save` writes all."""
PRINTED = 3
"""Maps that a terminal shows by itself."""
COMPARED_ROWS = 200
"""Rows that methods are compared on where nobody says how many, as on the command line."""
SHOWN_FROM = 32
"""Texts from which a bar is shown where nobody says whether."""


class Attributions(Sequence[Attribution]):
    """What was found for each text, in order: `found[0].rationale` are the words, `found[0].words` all with scores.

    `answer` is the same as the teacher service says it, `texts` what was explained, `rejected` the rows of a file that
    could not be read.
    """

    def __init__(self, source: Source, answer: AttributionResponse) -> None:
        self._source = source
        self.answer = answer

    @property
    def texts(self) -> list[str]:
        return [one.input for one in self._source.questions]

    @property
    def rationales(self) -> list[list[str]]:
        """The words of each rationale."""
        return [[word.text for word in one.rationale] for one in self]

    @property
    def rejected(self) -> tuple[str, ...]:
        return self._source.rejected

    @property
    def summary(self) -> Summary:
        """What all have in common: how many answers are right, the most frequent reasons, mean faithfulness."""
        found = Summary()
        found.add(self._source.questions, self.answer.results)
        return found

    @overload
    def __getitem__(self, index: int) -> Attribution: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Attribution]: ...
    def __getitem__(self, index: int | slice) -> Attribution | Sequence[Attribution]:
        return self.answer.results[index]

    def __len__(self) -> int:
        return len(self.answer.results)

    def to_json(self) -> str:
        """The teacher service's own answer."""
        return self.answer.model_dump_json()

    def to_html(self) -> str:
        """All maps as a page: no script, nothing fetched, for light and dark."""
        return self._page(len(self))

    def save(self, path: str | PathLike[str]) -> Path:
        """Write all of them: a page (`.html`), the service's answer (`.json`) or one attribution a line (`.jsonl`).

        The file is there when it is whole. Raises InvalidRequest for another ending, or where it cannot be written.
        """
        place = Path(path)
        written: Mapping[str, Callable[[], list[str]]] = {
            ".html": lambda: [self.to_html()],
            ".json": lambda: [self.to_json()],
            ".jsonl": lambda: [one.model_dump_json() for one in self],
        }
        if place.suffix not in written:
            raise UnknownName.among("file type", place.suffix or place.name, written, param="path")
        with explain.write_aside(place) as add:
            for line in written[place.suffix]():
                add(line)
        return place

    def __rich__(self) -> RenderableType:
        return self._view(len(self), colours=True)

    def __repr__(self) -> str:
        return as_text(self._view(PRINTED, colours=False))

    def _repr_html_(self) -> str:
        return framed(self._page(SHOWN), height_of(self.texts[:SHOWN]))

    def _view(self, most: int, *, colours: bool) -> RenderableType:
        shown = zip(self.texts[:most], self.answer.results[:most], strict=True)
        views: list[RenderableType] = []
        for text, one in shown:
            views += [*([""] if views else []), attribution_view(text, one, colours=colours)]
        return Group(*views, *([f"\n  and {len(self) - most:,} more"] if len(self) > most else []))

    def _page(self, most: int) -> str:
        more = f" (the first {most} of {len(self):,})" if len(self) > most else ""
        settings = ", ".join(f"{name} {value}" for name, value in self.answer.settings.items())
        facts = {
            "Model": self.answer.model,
            "Method": self.answer.method + (f" ({settings})" if settings else ""),
            "Explained answer": self.answer.target,
            "Precision": self.answer.precision,
            "Fingerprint": self.answer.fingerprint,
        }
        names = [_name(one, place) for place, one in enumerate(self._source.questions[:most])]
        title = f"What decides the model's answers{more}"
        return to_html(self.answer.results[:most], self.texts[:most], title=title, facts=facts, headings=names)


class Compared:
    """The table of methods: `table` has the figures, `sentences` what they show."""

    def __init__(self, model: str, table: Comparison) -> None:
        self.model = model
        self.table = table

    @property
    def sentences(self) -> list[str]:
        return sentences(self.table)

    def to_json(self) -> str:
        return json.dumps({"model": self.model, **dataclasses.asdict(self.table), "sentences": self.sentences})

    def __rich__(self) -> RenderableType:
        return comparison_view(self.table)

    def __repr__(self) -> str:
        return as_text(comparison_view(self.table))

    def _repr_html_(self) -> str:
        return as_html(comparison_view(self.table))


def attribute(
    inputs: Inputs,
    *,
    model: Model | Loaded | Adapter,
    method: str = "saliency",
    settings: Settings | None = None,
    target: Target | None = None,
    label: str | None = None,
    against: str | None = None,
    labels: Sequence[str] | None = None,
    template: str | None = None,
    select: Select = "top_k",
    top_k: int = 5,
    top_share: float = 0.2,
    threshold: float = 0.5,
    ignore: Sequence[Ignored] = ("punctuation",),
    aggregation: Aggregation = "sum",
    rows: bool = False,
    faithfulness: bool = False,
    limit: int | None = None,
    batch: int | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    home: str | PathLike[str] = ".understudy",
    progress: bool | None = None,
) -> Attributions:
    """Find the words that decide a model's answer to each text.

    `inputs` is a text, a file of rows (JSONL, CSV, Parquet), several texts, dictionaries with `input` (and `output` or
    `choices`), or a table of pandas, pyarrow, polars or datasets. `model` is a name, a folder, an artifact of `home`,
    or what `load` returned, so that many calls load it once.

    `method` is one of docs/attribution.md, with its `settings` (`{"n_steps": 50}`, or `integrated_gradients:n_steps=50`
    in one text). `target` is the answer that is explained: `predicted` the model's own, `gold` each row's `output`,
    `label` the one that `label` names; `against` asks why not that answer instead. `labels` are the answers that there
    are, where the model does not say.

    `select` chooses the words of the rationale: the `top_k` best, the best `top_share` of all, all that score
    `threshold` of the best, or the best `top_k` in a row (`span`); `ignore` leaves words out. `aggregation` makes a
    word's score of its tokens'. `rows` scores each token of the answer too, `faithfulness` asks the model again without
    the words. `limit` takes so many rows of a file, evenly spread. `batch` is the most tokens of one pass, padding
    counted (default: 2,048).
    `device` and `precision` are for models that are loaded here. `progress` shows a bar; by default for many texts.

    Raises InvalidRequest, UnknownName, NotFound or ModelNotFound; `param` is the name of the parameter at fault.
    """
    asked: dict[str, Any] = {
        "labels": None if labels is None else tuple(labels),
        "label": label,
        "target": target or ("label" if label is not None else "predicted"),
        "against": against,
        "template": template,
        "select": select,
        "top_k": top_k,
        "top_share": top_share,
        "threshold": threshold,
        "ignore": tuple(ignore),
        "aggregation": aggregation,
        "rows": rows,
        "faithfulness": faithfulness,
    }
    with _named_as_parameters():
        name, chosen = _method(method, settings)
        options = explain.options({**asked, "method": name, "settings": chosen})
        source = _source(inputs, limit)
        explainer = _explainer(model, home, device, precision, batch)
        with counting("explained", _shown(source, progress)) as step:
            answers = _answers(explainer, source, options, step)
    results = tuple(result for answer in answers for result in answer.results)
    return Attributions(source, answers[0].model_copy(update={"results": results}))


def compare(
    inputs: Inputs,
    *,
    model: Model | Loaded | Adapter,
    methods: Sequence[str] | None = None,
    target: Target = "predicted",
    labels: Sequence[str] | None = None,
    template: str | None = None,
    top_k: int = 5,
    limit: int | None = COMPARED_ROWS,
    batch: int | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    home: str | PathLike[str] = ".understudy",
    progress: bool | None = None,
) -> Compared:
    """Compare attribution methods on the same texts, always beside random words and the first words.

    `methods` are names, with settings as `integrated_gradients:n_steps=50`; by default all that fit any model. Rows
    with `highlights` are also judged against what people marked. The other parameters are `attribute`'s. Errors too.
    """
    asked: dict[str, Any] = {"target": target, "template": template, "top_k": top_k}
    with _named_as_parameters():
        chosen = [explain.parse_method(one) for one in methods] if methods else explain.default_methods()
        options = explain.options({**asked, "labels": None if labels is None else tuple(labels)})
        source = _source(inputs, limit)
        explainer = _explainer(model, home, device, precision, batch)
        with counting("explained", _shown(source, progress)) as step:
            found = explain.compare(explainer, source, chosen, options, step)
    return Compared(explainer.name, found)


def _answers(
    explainer: InProcess, source: Source, options: AttributionOptions, step: Callable[[int, int], None]
) -> list[AttributionResponse]:
    found: list[AttributionResponse] = []
    done = 0
    try:
        for part, answer in explain.explain(explainer, source, options):
            found.append(answer)
            done += len(part)
            step(done, len(source.questions))
    except InvalidRequest as error:
        error.param = error.param or "inputs"  # what is wrong with one of the rows
        raise
    return found


def _source(inputs: Inputs, limit: int | None) -> Source:
    if limit is not None and limit < 1:
        raise InvalidRequest(f"limit is at least 1, not {limit}", param="limit")
    if isinstance(inputs, PathLike) and not Path(inputs).is_file():
        raise NotFound(f"there is no file '{fspath(inputs)}'", param="inputs")
    if isinstance(inputs, str | PathLike):
        try:
            return explain.read(str(fspath(inputs)), limit)
        except UnderstudyError as error:
            error.param = "inputs"
            raise
    questions = tuple(_question(row, number) for number, row in enumerate(rows_of(inputs, "inputs"), start=1))
    if not questions:
        raise InvalidRequest("there are no texts", param="inputs")
    count = min(limit or len(questions), len(questions))
    return Source(tuple(questions[i * len(questions) // count] for i in range(count)))


def _question(row: Any, number: int) -> Question:
    """Rows that are given here are all meant: one that cannot be read is an error, and is not set aside."""
    if not isinstance(row, str | Mapping):
        raise InvalidRequest(
            f"row {number} is a {type(row).__name__}: give texts, or dictionaries with 'input'", param="inputs"
        )
    try:
        found = Question(row, line=number) if isinstance(row, str) else explain.question(row, number)
        _ = found.example
    except InvalidRequest as error:
        raise InvalidRequest(f"row {number}: {error.message}", param="inputs") from error
    return found


def _explainer(
    model: Model | Loaded | Adapter, home: str | PathLike[str], device: str, precision: Precision, batch: int | None
) -> InProcess:
    if batch is not None and batch < 1:
        raise InvalidRequest(f"batch is at least 1, not {batch}", param="batch")
    if isinstance(model, str | PathLike):
        model = load(model, home=home, device=device, precision=precision)
    name, adapter = (model.name, model.adapter) if isinstance(model, Loaded) else (type(model).__name__, model)
    if not hasattr(adapter, "tokenize"):
        raise InvalidRequest(f"a {name} is no model: give a name, a folder, or what `load` returned", param="model")
    if batch is not None:
        adapter.max_padded_tokens = batch
    return InProcess(adapter, name)


def _method(text: str, settings: Settings | None) -> tuple[str, dict[str, float | int | str]]:
    name, written = explain.parse_method(text)
    chosen = {**written, **(settings or {})}
    from understudy.attribution.methods import make_method

    make_method(name, chosen)
    return name, chosen


@contextmanager
def _named_as_parameters() -> Iterator[None]:
    """An error about a field of a request is one about the parameter that sets it."""
    try:
        yield
    except UnderstudyError as error:
        field = (error.param or "").partition(".")[0].partition("[")[0]
        error.param = {"input": "inputs", "examples": "inputs"}.get(field, field) or None
        raise


def _shown(source: Source, wanted: bool | None) -> bool:
    return len(source.questions) >= SHOWN_FROM if wanted is None else wanted


def _name(question: Question, place: int) -> str:
    return question.id or (f"Row {question.line}" if question.line else f"Example {place + 1}")
