"""Answers of a student to many texts, a few at a time: of a model folder in this process, or of a running service.

Reads rows from a file or from standard input and never holds more than a few; prints nothing. Torch is imported when a
model is loaded, not before.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from understudy.artifacts import ArtifactStore
from understudy.client import StudentClient
from understudy.data.read import read_rows
from understudy.data.rows import parse_input
from understudy.errors import (
    ArtifactNotFound,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    PayloadTooLarge,
    UnderstudyError,
)
from understudy.schemas import Prediction, PredictionInput, PredictionRequest, TaskSpec

if TYPE_CHECKING:
    from understudy.serving.base import Engine

__all__ = [
    "CHUNK",
    "Asked",
    "InProcess",
    "Service",
    "Student",
    "ask",
    "count_rows",
    "load",
    "read_inputs",
    "read_lines",
]

CHUNK = 64
"""Rows that are asked at once: what is held in memory, and what one request to a service has."""

PATIENCE = 60.0
"""Seconds for which a service may go on saying that it is busy."""

_POSITION = re.compile(r"inputs\[(\d+)\](?:\.(\w+))?(?: is |: )?")


class Student(Protocol):
    """Who answers; `task` is None where it does not say."""

    @property
    def name(self) -> str: ...
    @property
    def task(self) -> TaskSpec | None: ...
    def predict(self, inputs: Sequence[PredictionInput], *, explain: bool, top_k: int) -> Sequence[Prediction]: ...


class InProcess:
    """A published model in this process, by the engine that the student service would take."""

    def __init__(self, engine: Engine) -> None:
        info = engine.info()
        self.engine = engine
        self.name = info.id
        self.task = info.task

    def predict(self, inputs: Sequence[PredictionInput], *, explain: bool, top_k: int) -> Sequence[Prediction]:
        return self.engine.predict(inputs, explain=explain, top_k=top_k)


class Service:
    """A student service; `model` is a name that it knows, None its default. Waits where it is busy."""

    def __init__(self, client: StudentClient, model: str | None) -> None:
        self._client = client
        self._model = model
        self.name = model or client.base_url
        self._known: TaskSpec | None = None

    @property
    def task(self) -> TaskSpec | None:
        """Of the model that answers, once it is in the service's memory, as it is behind its first answer."""
        if self._known is None:
            found = [one for one in self._client.models() if self._is_meant(one)]
            self._known = TaskSpec.model_validate(found[0]["task"]) if found and found[0].get("task") else None
        return self._known

    def _is_meant(self, model: Mapping[str, Any]) -> bool:
        return self.name in (model["id"], *model.get("aliases", ()))

    def predict(self, inputs: Sequence[PredictionInput], *, explain: bool, top_k: int) -> Sequence[Prediction]:
        request = PredictionRequest(model=self._model, inputs=tuple(inputs), explain=explain, top_k=top_k)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = self._client.predict(request)
            except PayloadTooLarge:
                if len(inputs) == 1:
                    raise
                half = len(inputs) // 2
                parts = (inputs[:half], inputs[half:])
                return [one for part in parts for one in self.predict(part, explain=explain, top_k=top_k)]
            except Overloaded as busy:
                pause = busy.retry_after or 1.0
                if time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)
            else:
                self.name = answer.artifact or answer.model
                return answer.predictions


def load(ref: str, *, store: str, device: str = "auto", engine: str = "auto") -> InProcess:
    """The model in a folder, or behind an artifact's id or an alias of the store.

    Raises ModelNotFound, UnknownName for an engine, and ModelError for a model that cannot be read.
    """
    from understudy.serving.engines import load_engine

    if (Path(ref) / "config.json").is_file():
        return InProcess(load_engine(Path(ref), device, engine=engine))
    try:
        artifacts = ArtifactStore(store)
        artifact = artifacts.resolve(ref)
        folder = artifacts.folder(artifact)
    except ArtifactNotFound as error:
        raise ModelNotFound(
            f"no folder '{ref}' has a model in it, and in the store {store} {error.message}", param="model"
        ) from error
    if not artifact.startswith("model-"):
        raise ModelNotFound(f"'{ref}' is no model but a {artifact.partition('-')[0]}", param="model")
    return InProcess(load_engine(folder, device, artifact, engine=engine))


# --- what is asked -------------------------------------------------------------------------------------------------


def read_inputs(path: Path) -> Iterator[tuple[int, PredictionInput | InvalidRequest]]:
    """Each row of a data file by its line, as far as it can be asked about. Outputs are not looked at."""
    for line, row in read_rows(path, answered=False):
        yield line, _parsed(row, line)


def read_lines(file: IO[str]) -> Iterator[tuple[int, PredictionInput | InvalidRequest]]:
    """Each line that is not blank: a text, or where the first one is a JSON object, a row each."""
    lines = ((number, line.rstrip("\r\n")) for number, line in enumerate(file, start=1) if line.strip())
    first = next(lines, None)
    if first is None:
        raise InvalidRequest("standard input is empty: give it a text a line, or a JSON object a line")
    rows = first[1].lstrip().startswith("{")
    for number, line in chain([first], lines):
        yield number, _parsed(_object(line) if rows else {"input": line}, number)


def count_rows(path: Path) -> int | None:
    """About how many rows a file has, for a progress bar: its lines, which for CSV may be more."""
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        return int(pq.read_metadata(path).num_rows)
    with path.open("rb") as file:
        lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    return max(1, lines - (path.suffix.lower() in (".csv", ".tsv")))


def _object(line: str) -> dict[str, Any] | InvalidRequest:
    try:
        value = json.loads(line)
    except ValueError as error:
        return InvalidRequest(f"not valid JSON: {error}")
    return value if isinstance(value, dict) else InvalidRequest("a row must be a JSON object")


def _parsed(row: dict[str, Any] | InvalidRequest, line: int) -> PredictionInput | InvalidRequest:
    try:
        return row if isinstance(row, InvalidRequest) else parse_input(row, line)
    except InvalidRequest as error:
        return error


# --- asking --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A row and its answer, or why there is none. `line` is 0 for a text of its own."""

    line: int
    input: PredictionInput | None
    prediction: Prediction | None = None
    problem: str | None = None

    def json(self) -> dict[str, Any]:
        """One line of the answers' file; a row as data files have them, with the answer as its `label`."""
        row: dict[str, Any] = {"line": self.line} if self.line else {}
        row |= {"id": self.input.id, "input": self.input.input} if self.input else {}
        if self.prediction is None:
            return row | {"error": self.problem}
        answer = self.prediction.model_dump(mode="json", exclude={"id"}, exclude_none=True)
        return row | answer


def ask(
    student: Student,
    rows: Iterable[tuple[int, PredictionInput | InvalidRequest]],
    *,
    explain: bool = False,
    top_k: int = 5,
    step: Callable[[int], None] = lambda _: None,
) -> Iterator[Asked]:
    """Every row with its answer, in order; a row that cannot be read has its problem instead.

    `step` is told how many are done. Raises what the student says is wrong with a row, by its line.
    """
    done = 0
    stream = iter(rows)
    while part := list(islice(stream, CHUNK)):
        good = [(line, row) for line, row in part if not isinstance(row, InvalidRequest)]
        with _lines_named([line for line, _ in good]):
            answers = iter(student.predict([row for _, row in good], explain=explain, top_k=top_k) if good else ())
        for line, row in part:
            if isinstance(row, InvalidRequest):
                yield Asked(line, None, problem=row.message)
            else:
                yield Asked(line, row, next(answers))
        done += len(part)
        step(done)


class _lines_named:
    """An error about an input is one about a line of the file, or about the text."""

    def __init__(self, lines: Sequence[int]) -> None:
        self._lines = lines

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, UnderstudyError) or not (found := _POSITION.search(error.param or "")):
            return
        line = self._lines[int(found[1])]
        message = _POSITION.sub("", error.message, count=1).strip() or error.message
        where = f"line {line}" if line else "the text"
        raise type(error)(f"{where}: {message}") from error
