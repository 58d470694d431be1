"""Make `understudy/measured.json`, what `understudy plan` reckons with, of the benchmarks' results.

    python benchmarks/constants.py

Figures of time and of the database are those of `results/fanout.json`. Bytes are counted here, of the docstring texts
as the pipeline stores them. Run it whenever a result file is new; a test holds the two together.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

from understudy.attribution.words import word_spans
from understudy.capacity import Measured
from understudy.data.docstrings import docstring_examples
from understudy.data.parquet import AnnotatedExample, write_annotated, write_examples
from understudy.schemas import Attribution, Example, Word

RESULTS = Path(__file__).parent / "results"
TARGET = Path(__file__).parents[1] / "understudy" / "measured.json"
SHARD = 128  # rows, as the orchestrator's setting has it and the benchmark ran with


def main() -> None:
    made = json.dumps(constants(), indent=1) + "\n"
    TARGET.write_text(made, encoding="utf-8")
    print(made, end="")


def constants() -> dict[str, Any]:
    fanout = json.loads((RESULTS / "fanout.json").read_text(encoding="utf-8"))
    median = {name: spread["median"] for name, spread in fanout["ratios"].items()}
    data, shard = _bytes_of(docstring_examples())
    return Measured(
        processor=fanout["machine"]["cpu"],
        annotate_cpu_seconds_per_1000_rows=median["cpu_seconds_per_1000_rows"],
        validate_seconds_per_1000_rows=median["validate_seconds_per_1000_rows"],
        statements_per_shard=median["statements_per_shard"],
        database_bytes_per_shard=median["database_bytes_per_shard"],
        shard_rows=SHARD,
        dataset_bytes_per_text_byte=round(data, 2),
        shard_bytes_per_text_byte=round(shard, 2),
    ).model_dump()


def _bytes_of(rows: list[Example]) -> tuple[float, float]:
    """Bytes of a stored data set, and of stored shards, over those of the texts."""
    chance = random.Random(0)
    text = sum(len(row.input.encode()) for row in rows)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_examples(folder / "data.parquet", rows)
        for start in range(0, len(rows), SHARD):
            told = [
                AnnotatedExample(example=row, attribution=_told(row, chance)) for row in rows[start : start + SHARD]
            ]
            write_annotated(folder / f"shard-{start}.parquet", told)
        shards = sum(file.stat().st_size for file in folder.glob("shard-*"))
        return (folder / "data.parquet").stat().st_size / text, shards / text


def _told(row: Example, chance: random.Random) -> Attribution:
    """A map of random scores: real ones compress no better."""
    spans = word_spans(row.input)
    words = tuple(Word(text=row.input[a:b], start=a, end=b, score=chance.random()) for a, b in spans)
    best = tuple(sorted(words, key=lambda word: word.score, reverse=True)[:5])
    return Attribution(
        id=row.id,
        prediction=row.output,
        probability=chance.random(),
        explained=row.output,
        words=words,
        rationale=best,
        tokens=len(words),
    )


if __name__ == "__main__":
    main()
