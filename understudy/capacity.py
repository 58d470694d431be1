"""What a distillation of a given size takes: hours, disk, rows of the database, money. Arithmetic; asks nothing.

A model of N parameters costs 2 N floating-point operations a token to ask, 2 N more for the gradient of its inputs,
and 6 N to train (Kaplan et al. 2020, arXiv 2001.08361, section 2.1; attention's share, which grows with length, is left
out). What the orchestrator and the store take was measured: `measured.json`, made of the benchmarks' results. How much
of its peak a GPU gives to such work was not measured; it is an assumption that every answer repeats.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from understudy.errors import InvalidRequest

__all__ = ["GPUS", "Asked", "Capacity", "Measured", "Stage", "count", "measured", "plan", "shard_size"]

ASK, GRADIENT, TRAIN = 2, 4, 6
"""Floating-point operations a parameter and token: an answer, an answer and its map, a step of training."""

BYTES_PER_TOKEN = 4.5
"""Of an uploaded file: English text under a subword vocabulary of some ten thousand tokens."""

SAVED_BYTES = 12
"""A parameter in a checkpoint: the weight and Adam's two moments in float32."""

HELD_OUT = 0.2
"""The part of a file that is the test split where no test file is named."""

STATEMENTS_PER_SECOND = 5_000
"""What a database server of a few cores is taken to do."""

READ_AT_ONCE = 2_000_000
"""Test rows beyond which the report, which holds them in memory, wants more of it than a small machine has."""


class Gpu(BaseModel):
    """`flops` is the dense peak in bfloat16 that the maker's data sheet gives, `gib` its memory."""

    model_config = ConfigDict(frozen=True)

    flops: float
    gib: float


GPUS: Mapping[str, Gpu] = MappingProxyType(
    {
        "l4": Gpu(flops=121e12, gib=24),
        "l40s": Gpu(flops=362e12, gib=48),
        "a100": Gpu(flops=312e12, gib=80),
        "h100": Gpu(flops=989e12, gib=80),
        "h200": Gpu(flops=989e12, gib=141),
        "b200": Gpu(flops=2250e12, gib=180),
    }
)


class Measured(BaseModel):
    """Constants of the project's own benchmarks, on one machine whose processor is named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processor: str
    annotate_cpu_seconds_per_1000_rows: float
    validate_seconds_per_1000_rows: float
    statements_per_shard: float
    database_bytes_per_shard: float
    shard_rows: int
    dataset_bytes_per_text_byte: float
    shard_bytes_per_text_byte: float


class Asked(BaseModel):
    """What is to be planned. `examples` are rows to annotate, `tokens` an example's, with its answer.

    `tokens_per_second` is what one teacher was measured to explain, by the method that is meant; without it, `passes`
    of that method and `utilisation` of the GPU's peak are reckoned with. `trainings` are recipes and controls times
    seeds. `gpu_hour` and `cpu_hour` are prices.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    examples: int = Field(ge=1)
    teacher: int = Field(ge=1)
    student: int = Field(default=60_000_000, ge=1)
    tokens: int = Field(default=128, ge=1)
    gpu: str = "h100"
    gpus: int = Field(default=1, ge=1)
    utilisation: float = Field(default=0.3, gt=0, le=1)
    tokens_per_second: float | None = Field(default=None, gt=0)
    passes: int = Field(default=1, ge=1)
    annotators: int = Field(default=16, ge=1)
    trainings: int = Field(default=15, ge=1)
    epochs: float = Field(default=1, gt=0)
    test_rows: int | None = Field(default=None, ge=1)
    gpu_hour: float | None = Field(default=None, ge=0)
    cpu_hour: float | None = Field(default=None, ge=0)


class Stage(BaseModel):
    """One line of the plan: `hours` of wall time on `on`, which together are `machine_hours`."""

    model_config = ConfigDict(frozen=True)

    name: Literal["validate", "teacher", "orchestrate", "database", "train", "evaluate"]
    hours: float
    on: str
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0


class Capacity(BaseModel):
    """The plan. Stages in the order of a job; teacher, orchestrate and database happen at the same time.

    `first` is the stage that takes longest, and `change` what would make it shorter. `walls` are what would not work
    at all. `bytes` by kind. `cost` is in the currency of the prices given, None without any.
    """

    model_config = ConfigDict(frozen=True)

    stages: tuple[Stage, ...]
    hours: float
    gpu_hours: float
    cpu_hours: float
    bytes: dict[str, float]
    database_rows: int
    cost: float | None
    first: str
    change: str
    walls: tuple[str, ...]
    assumed: tuple[str, ...]


CHANGES: Mapping[str, str] = MappingProxyType(
    {
        "validate": "One process reads a file. Send the rows as several jobs: they are validated side by side.",
        "teacher": "More or faster GPUs, or a smaller teacher. Or fewer rows: a learning curve (--sizes) says what the "
        "last half of them brings.",
        "orchestrate": "More annotators: they share nothing but the database.",
        "database": "Larger shards (UNDERSTUDY_SHARD_SIZE): a shard costs the same however many rows it has.",
        "train": "Fewer recipes or seeds: choose on a sample, and train the winner on all rows.",
        "evaluate": "A smaller test file (--test): some ten thousand rows tell a point from chance.",
    }
)


MANY, LARGEST = 1000, 4


def shard_size(rows: int, least: int) -> int:
    """Rows of a shard of a job with so many: a very large one has larger shards, so that its work items stay few."""
    return max(least, min(LARGEST * least, rows // MANY))


@lru_cache(maxsize=1)
def measured() -> Measured:
    return Measured.model_validate(json.loads((files("understudy") / "measured.json").read_text(encoding="utf-8")))


def count(text: str) -> int:
    """A number with an optional k, m, b or t: `3b`, `1e9`, `780M`. Raises InvalidRequest for anything else."""
    powers = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
    body = text.strip().lower().replace(",", "").replace("_", "")
    factor = powers.get(body[-1:], 1.0)
    try:
        value = float(body[:-1] if factor != 1 else body) * factor
    except ValueError:
        value = math.nan
    if not 1 <= value < 1e18:
        raise InvalidRequest(f"'{text}' is no count: write it as 250000, 1e9, 780m or 3b")
    return round(value)


def plan(asked: Asked, constants: Measured | None = None) -> Capacity:
    """The arithmetic. Raises InvalidRequest for a GPU that is not in the table."""
    if asked.gpu not in GPUS:
        raise InvalidRequest(f"'{asked.gpu}' is none of {', '.join(GPUS)}", param="--gpu")
    known = constants or measured()
    stages = tuple(_stages(asked, known))
    together = max(stage.hours for stage in stages if stage.name in ("teacher", "orchestrate", "database"))
    alone = sum(stage.hours for stage in stages if stage.name in ("validate", "train", "evaluate"))
    gpu_hours, cpu_hours = (sum(getattr(stage, kind) for stage in stages) for kind in ("gpu_hours", "cpu_hours"))
    longest = max(stages, key=lambda stage: stage.hours)
    shards = math.ceil(asked.examples / shard_size(asked.examples, known.shard_rows))
    priced = asked.gpu_hour is not None or asked.cpu_hour is not None
    return Capacity(
        stages=stages,
        hours=together + alone,
        gpu_hours=gpu_hours,
        cpu_hours=cpu_hours,
        bytes=_bytes(asked, known),
        database_rows=asked.examples + shards,
        cost=gpu_hours * (asked.gpu_hour or 0) + cpu_hours * (asked.cpu_hour or 0) if priced else None,
        first=longest.name,
        change=CHANGES[longest.name],
        walls=tuple(_walls(asked)),
        assumed=tuple(_assumed(asked, known)),
    )


def _stages(asked: Asked, known: Measured) -> Iterator[Stage]:
    rows, tokens, test = asked.examples, asked.examples * asked.tokens, _test_rows(asked)
    speed = GPUS[asked.gpu].flops * asked.utilisation  # operations a second that one GPU does
    reading = known.validate_seconds_per_1000_rows * (rows + test) / 1000 / 3600
    yield Stage(name="validate", hours=reading, on="1 process", cpu_hours=reading)
    if asked.tokens_per_second is not None:
        asking = tokens / asked.tokens_per_second / 3600
    else:
        asking = GRADIENT * asked.teacher * tokens * asked.passes / speed / 3600
    yield Stage(name="teacher", hours=asking / asked.gpus, on=_gpus(asked.gpus), gpu_hours=asking)
    working = known.annotate_cpu_seconds_per_1000_rows * rows / 1000 / 3600
    yield Stage(name="orchestrate", hours=working / asked.annotators, on=f"{asked.annotators} cores", cpu_hours=working)
    statements = known.statements_per_shard * math.ceil(rows / shard_size(rows, known.shard_rows))
    yield Stage(name="database", hours=statements / STATEMENTS_PER_SECOND / 3600, on="1 server")
    training = TRAIN * asked.student * tokens * asked.epochs / speed / 3600
    waves = math.ceil(asked.trainings / asked.gpus)
    yield Stage(
        name="train",
        hours=training * waves,
        on=_gpus(min(asked.gpus, asked.trainings)),
        gpu_hours=training * asked.trainings,
    )
    scoring = ASK * (asked.student * asked.trainings + asked.teacher) * test * asked.tokens / speed / 3600
    yield Stage(name="evaluate", hours=scoring, on=_gpus(1), gpu_hours=scoring)


def _bytes(asked: Asked, known: Measured) -> dict[str, float]:
    taught = asked.examples * asked.tokens * BYTES_PER_TOKEN
    text = taught + _test_rows(asked) * asked.tokens * BYTES_PER_TOKEN
    return {
        "uploaded files": text,
        "data set": text * known.dataset_bytes_per_text_byte,
        "shards": taught * known.shard_bytes_per_text_byte,
        "database": asked.examples / known.shard_rows * known.database_bytes_per_shard,  # nearly all of it is rows'
        "students": float(asked.trainings * asked.student * SAVED_BYTES),
    }


def _walls(asked: Asked) -> Iterator[str]:
    gpu = GPUS[asked.gpu]
    needed = 2 * asked.teacher / 1024**3
    if needed > 0.8 * gpu.gib:
        yield (
            f"The teacher's weights take {needed:,.0f} GiB in bfloat16, and one {asked.gpu} has {gpu.gib:.0f}: a "
            "teacher is kept on one GPU. Choose a larger one, or a smaller teacher."
        )
    if _test_rows(asked) > READ_AT_ONCE:
        yield (
            f"{_test_rows(asked):,} test rows: the report reads them all at once. Name a test file of some ten "
            "thousand rows (--test-rows here, --test in `understudy distill`)."
        )


def _assumed(asked: Asked, known: Measured) -> Iterator[str]:
    if asked.tokens_per_second is None:
        yield (
            f"One {asked.gpu} gives {asked.utilisation:.0%} of the {GPUS[asked.gpu].flops / 1e12:,.0f} TFLOP/s of its "
            "data sheet. That is not measured here: give the teacher's own --tokens-per-second."
        )
    yield f"A database server does {STATEMENTS_PER_SECOND:,} statements a second."
    yield f"A core is as fast as one of the benchmarks' ({known.processor})."
    if asked.test_rows is None:
        yield f"A {HELD_OUT:.0%} test split comes on top of the examples, as where no test file is named."
    yield (
        f"A training reads every row {asked.epochs:g} times, on one GPU."
        if asked.epochs != 1
        else ("A training reads every row once, on one GPU.")
    )


def _test_rows(asked: Asked) -> int:
    return asked.test_rows if asked.test_rows is not None else round(asked.examples * HELD_OUT / (1 - HELD_OUT))


def _gpus(number: int) -> str:
    return f"{number} GPU{'s' if number > 1 else ''}"
