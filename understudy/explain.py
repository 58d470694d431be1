"""What `understudy attribute` asks: a text or the rows of a file, explained in this process or by a teacher service.

Reads, asks and writes files; prints nothing. Torch is imported when a model is loaded, not before.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from understudy.artifacts import ArtifactStore
from understudy.client import TeacherClient
from understudy.data.read import FORMATS, read_rows
from understudy.data.rows import OUTPUT_NAMES, parse_row
from understudy.errors import InvalidRequest, NotFound, Overloaded, UnderstudyError
from understudy.schemas import (
    Attribution,
    AttributionExample,
    AttributionOptions,
    AttributionRequest,
    AttributionResponse,
    Faithfulness,
    Word,
)

if TYPE_CHECKING:
    from understudy.attribution.comparison import Comparison
    from understudy.models.base import Adapter

__all__ = [
    "Explainer",
    "InProcess",
    "Question",
    "Service",
    "Source",
    "Summary",
    "compare",
    "default_methods",
    "explain",
    "load",
    "options",
    "parse_method",
    "question",
    "read",
    "write_aside",
]

M = TypeVar("M", bound=BaseModel)

Settings = dict[str, float | int | str]

CHUNK = 64
"""Rows explained between two steps of a progress bar, and in one request to a service."""

PATIENCE = 60.0
"""Seconds for which a service may go on saying that it is busy."""

COMPARED = ("saliency", "input_x_gradient", "integrated_gradients", "smooth_grad", "gradient_shap", "occlusion")
"""The methods that are compared where nobody names any: all that need nothing of a model but its score."""

_POSITION = re.compile(r"examples(?:\[(\d+):\])?\[(\d+)\](?:\.|: |)")


# --- what is asked -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """A text to explain. `line` is where it stands among rows, 0 for one alone; `output` the answer it names."""

    input: str
    id: str | None = None
    output: str | None = None
    choices: tuple[str, ...] | None = None
    highlights: tuple[tuple[int, int], ...] | None = None
    line: int = 0

    @property
    def example(self) -> AttributionExample:
        return _checked(
            AttributionExample, {"id": self.id, "input": self.input, "output": self.output, "choices": self.choices}
        )


@dataclass(frozen=True)
class Source:
    """The questions of one call. `file` is None for a text; `rejected` says of a file's other rows what is wrong."""

    questions: tuple[Question, ...]
    file: Path | None = None
    rejected: tuple[str, ...] = ()


def read(source: str, limit: int | None = None) -> Source:
    """The rows of the file that `source` names, `limit` of them evenly spread over it; any other `source` is a text.

    Raises InvalidRequest for a text that cannot be explained and where no row of a file can, and NotFound for what
    looks like the name of a file that there is not.
    """
    if os.path.isfile(source):  # noqa: PTH113 - a long text is no path, and Path raises where this says no
        return _read_file(Path(source), limit)
    if Path(source).suffix in FORMATS and not re.search(r"\s", source):
        raise NotFound(f"there is no file '{source}'")
    text = Question(source)
    _ = text.example  # refused here, before a model is loaded
    return Source((text,))


def _read_file(path: Path, limit: int | None) -> Source:
    questions: list[Question] = []
    rejected: list[str] = []
    for line, row in read_rows(path, answered=False):
        try:
            if isinstance(row, InvalidRequest):
                raise row
            questions.append(question(row, line))
        except InvalidRequest as error:
            rejected.append(f"line {line}: {error.message}")
    if not questions:
        raise InvalidRequest(f"no row of '{path.name}' can be read: {'; '.join(rejected[:3]) or 'it has no rows'}")
    count = min(limit or len(questions), len(questions))
    chosen = tuple(questions[i * len(questions) // count] for i in range(count))
    return Source(chosen, path, tuple(rejected))


def question(fields: Mapping[str, Any], line: int) -> Question:
    """A row as a data set has it, or one without an answer: a model can be asked about that too.

    Raises InvalidRequest for a row that cannot be read.
    """
    answered = any(name in fields for name in (*OUTPUT_NAMES, "messages"))
    choices = fields.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else "none"
    row = parse_row(fields if answered else {**fields, OUTPUT_NAMES[0]: first}, line)
    return Question(row.input, row.id, row.output if answered else None, row.choices, row.highlights, line)


def options(given: Mapping[str, Any]) -> AttributionOptions:
    """The options that were given, the others as they are by default. Raises InvalidRequest, which names the option."""
    return _checked(AttributionOptions, {name: value for name, value in given.items() if value is not None})


def parse_method(text: str) -> tuple[str, Settings]:
    """A method and its settings from `name` or `name:setting=value,setting=value`.

    Raises UnknownName, and InvalidRequest for settings that the method does not have.
    """
    from understudy.attribution.methods import make_method

    name, _, listed = text.partition(":")
    settings: Settings = {}
    for part in filter(None, listed.split(",")):
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise InvalidRequest(f"'{text}' is not of the form name:setting=value,setting=value", param="method")
        settings[key.strip()] = _number(value.strip())
    make_method(name, settings)
    return name, settings


def default_methods() -> list[tuple[str, Settings]]:
    """What `--compare` compares where nobody names a method."""
    from understudy.attribution.methods import METHODS

    return [(name, {}) for name in COMPARED if name in METHODS]


def _number(value: str) -> float | int | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _checked(kind: type[M], fields: Mapping[str, Any]) -> M:
    try:
        return kind(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(map(str, first["loc"]))
        raise InvalidRequest(first["msg"].removeprefix("Value error, "), param=param or None) from error


# --- who answers ---------------------------------------------------------------------------------------------------


class Explainer(Protocol):
    """Explains examples: a model in this process, or a service that has one."""

    def explain(self, examples: Sequence[AttributionExample], options: AttributionOptions) -> AttributionResponse: ...


@dataclass(frozen=True)
class InProcess:
    """A model in this process; `name` is what it is called in answers."""

    adapter: Adapter
    name: str

    def explain(self, examples: Sequence[AttributionExample], options: AttributionOptions) -> AttributionResponse:
        from understudy.attribution.attribute import attribute
        from understudy.attribution.methods import make_method, settings_of
        from understudy.models.fingerprint import fingerprint

        adapter = self.adapter.with_template(options.template)
        return AttributionResponse(
            model=self.name,
            fingerprint=fingerprint(adapter),
            method=options.method,
            settings=settings_of(make_method(options.method, options.settings)),
            target=options.target,
            precision=adapter.precision,
            results=tuple(attribute(adapter, examples, options)),
        )


@dataclass(frozen=True)
class Service:
    """A teacher service; `model` is a name that it knows, None its default. Waits where it is busy."""

    client: TeacherClient
    model: str | None

    def explain(self, examples: Sequence[AttributionExample], options: AttributionOptions) -> AttributionResponse:
        request = AttributionRequest(model=self.model, examples=tuple(examples), **options.model_dump())
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self.client.attribute(request)
            except Overloaded as busy:
                pause = busy.retry_after or 1.0
                if time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)


def load(ref: str, *, store: Path, device: str, dtype: str, batch: int) -> InProcess:
    """The model behind a reference, which may be an artifact id or an alias where `store` is a folder of artifacts.

    Raises ModelNotFound, ModelError, and InvalidRequest for a device that is not there.
    """
    from understudy.models.load import load_adapter

    artifacts = ArtifactStore(store) if store.is_dir() else None
    adapter = load_adapter(ref, store=artifacts, device=device, dtype=dtype)
    adapter.max_padded_tokens = batch
    return InProcess(adapter, ref)


# --- asking --------------------------------------------------------------------------------------------------------


def explain(
    explainer: Explainer, source: Source, options: AttributionOptions
) -> Iterator[tuple[Sequence[Question], AttributionResponse]]:
    """The answers to some questions at a time, in order. Errors name the line of the file that is at fault."""
    for start in range(0, len(source.questions), CHUNK):
        part = source.questions[start : start + CHUNK]
        with _lines_named(source, start):
            answer = explainer.explain([question.example for question in part], options)
        yield part, answer


def compare(
    model: InProcess,
    source: Source,
    methods: Sequence[tuple[str, Settings]],
    options: AttributionOptions,
    progress: Callable[[int, int], None],
) -> Comparison:
    """The table of methods for these questions, controls included."""
    from understudy.attribution.comparison import compare

    with _lines_named(source):
        return compare(model.adapter, source.questions, methods, options, progress=progress)


@contextmanager
def _lines_named(source: Source, start: int = 0) -> Iterator[None]:
    """An error about an example is one about a line of the file, or about the text."""

    def line(found: re.Match[str]) -> str:
        position = start + int(found[1] or 0) + int(found[2])
        number = source.questions[position].line
        return f"{'line' if source.file else 'row'} {number}: " if number else "the text: "

    try:
        yield
    except UnderstudyError as error:
        if not _POSITION.search(error.message):
            raise
        param = None if _POSITION.match(error.param or "") else error.param
        raise type(error)(_POSITION.sub(line, error.message), param=param) from error


@dataclass
class Summary:
    """What many attributions have in common. `right` of the `judged` predictions are the answers that the rows name."""

    explained: int = 0
    truncated: int = 0
    judged: int = 0
    right: int = 0
    words: dict[str, Counter[str]] = field(default_factory=dict)
    _sums: Counter[str] = field(default_factory=Counter)
    _counts: Counter[str] = field(default_factory=Counter)

    def add(self, questions: Sequence[Question], results: Sequence[Attribution]) -> None:
        for question, found in zip(questions, results, strict=True):
            self.explained += 1
            self.truncated += found.truncated > 0
            if question.output is not None and found.prediction is not None:
                self.judged += 1
                self.right += found.prediction == question.output
            self.words.setdefault(found.explained, Counter()).update(_folded(found.rationale))
            for name, value in (found.faithfulness.model_dump() if found.faithfulness else {}).items():
                if value is not None:
                    self._sums[name] += value
                    self._counts[name] += 1

    @property
    def faithfulness(self) -> Faithfulness | None:
        """The mean of each figure over the examples that have it."""
        means = {name: self._sums[name] / count for name, count in self._counts.items()}
        return Faithfulness(**means) if means else None


def _folded(words: Sequence[Word]) -> set[str]:
    return {word.text.casefold() for word in words}


@contextmanager
def write_aside(path: Path) -> Iterator[Callable[[str], None]]:
    """A function that adds a line to the file; the file has its name only when all lines are there.

    Raises InvalidRequest where it cannot be written.
    """
    aside = path.with_name(f"{path.name}.part")
    try:
        with _writing(path):
            file = aside.open("w", encoding="utf-8")

        def add(line: str) -> None:
            with _writing(path):
                print(line, file=file)

        with file:
            yield add
        with _writing(path):
            os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidRequest(f"'{path}' cannot be written: {error.strerror}") from error
