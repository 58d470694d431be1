"""What is written is what is read, and a damaged shard says which one it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from understudy.data.parquet import (
    AnnotatedExample,
    read_annotated,
    read_examples,
    read_some_examples,
    write_annotated,
    write_examples,
)
from understudy.errors import ArtifactCorrupt, ArtifactNotFound
from understudy.schemas import Attribution, Example, TokenProbabilities, Word

EXAMPLES = [
    Example(id="plain", input="a", output="b"),
    Example(id="all", input="one two", output="one", choices=("one", "two"), rationale="", highlights=((0, 3), (4, 7))),
    Example(id="empty", input="x", output="y", choices=(), highlights=()),
    Example(id="unicode", input="नमस्ते 🎉\r\n\x00 ‮rtl", output="e\u0301"),
]


def attribution(name: str | None, probabilities: dict[str, float] | None) -> Attribution:
    words = (Word(text="one", start=0, end=3, score=0.1 + 0.2), Word(text="two", start=4, end=7, score=-1e-300))
    return Attribution(
        id=name,
        prediction="one",
        probability=1 / 3,
        probabilities=probabilities,
        explained="one",
        words=words,
        rationale=words[1:],
        tokens=4,
        truncated=2,
    )


ANNOTATED = [
    AnnotatedExample(example=EXAMPLES[1], attribution=attribution("all", {"one": 1 / 3, "two": 2 / 3})),
    AnnotatedExample(example=EXAMPLES[0], attribution=attribution(None, None)),
    AnnotatedExample(example=EXAMPLES[2], attribution=attribution("empty", {})),
]


@pytest.mark.parametrize("rows", [EXAMPLES, EXAMPLES[:1], [], EXAMPLES * 2000], ids=["all", "one", "none", "groups"])
def test_examples_come_back_as_they_were(tmp_path: Path, rows: list[Example]) -> None:
    assert write_examples(tmp_path / "shard.parquet", rows) == len(rows)
    assert read_examples(tmp_path / "shard.parquet") == rows


def test_annotated_examples_come_back_as_they_were(tmp_path: Path) -> None:
    write_annotated(tmp_path / "shard.parquet", ANNOTATED)
    assert read_annotated(tmp_path / "shard.parquet") == ANNOTATED


def test_what_a_teacher_expected_at_each_token_comes_back_in_its_order(tmp_path: Path) -> None:
    places = (
        TokenProbabilities(token="▁", probabilities={"▁two": 0.7, "b": 0.2, "▁": 0.05}, rest=0.05),
        TokenProbabilities(token="</s>", probabilities={}, rest=1.0),
    )
    row = ANNOTATED[0].model_copy(
        update={"attribution": ANNOTATED[0].attribution.model_copy(update={"token_probabilities": places})}
    )
    write_annotated(tmp_path / "shard.parquet", [row, ANNOTATED[1]])
    found = read_annotated(tmp_path / "shard.parquet")
    assert found == [row, ANNOTATED[1]]
    first, *_ = found[0].attribution.token_probabilities or ()
    assert list(first.probabilities) == ["▁two", "b", "▁"]


def test_a_shard_from_before_there_were_token_probabilities_is_read(tmp_path: Path) -> None:
    write_annotated(tmp_path / "new.parquet", ANNOTATED)
    table = pq.read_table(tmp_path / "new.parquet")
    attribution = table.schema.field("attribution").type
    older = pa.schema([table.schema.field("example"), ("attribution", pa.struct(list(attribution)[:-1]))])
    pq.write_table(
        pa.Table.from_pylist(table.to_pylist(maps_as_pydicts="strict"), schema=older), tmp_path / "old.parquet"
    )
    assert read_annotated(tmp_path / "old.parquet") == ANNOTATED


def test_several_shards_are_read_in_the_order_given(tmp_path: Path) -> None:
    first, second = tmp_path / "0.parquet", tmp_path / "1.parquet"
    write_examples(first, EXAMPLES[:2])
    write_examples(second, EXAMPLES[2:])
    assert read_examples(second, first) == EXAMPLES[2:] + EXAMPLES[:2]


def test_a_write_that_fails_leaves_the_old_shard_and_nothing_else(tmp_path: Path) -> None:
    shard = tmp_path / "shard.parquet"
    write_examples(shard, EXAMPLES)

    def broken() -> Iterator[Example]:
        yield EXAMPLES[0]
        raise RuntimeError("the teacher went away")

    with pytest.raises(RuntimeError):
        write_examples(shard, broken())
    assert read_examples(shard) == EXAMPLES
    assert list(tmp_path.iterdir()) == [shard]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFound, match=r"gone\.parquet"):
        read_examples(tmp_path / "gone.parquet")


def test_a_cut_off_shard_is_named(tmp_path: Path) -> None:
    shard = tmp_path / "shard.parquet"
    write_examples(shard, EXAMPLES)
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(ArtifactCorrupt, match=r"shard\.parquet"):
        read_examples(shard)


def test_plain_examples_are_not_annotated_ones(tmp_path: Path) -> None:
    write_examples(tmp_path / "shard.parquet", EXAMPLES)
    with pytest.raises(ArtifactCorrupt, match="no shard of AnnotatedExample: its columns are id, input"):
        read_annotated(tmp_path / "shard.parquet")


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 3), (4094, 4099), (4096, 4097), (8000, 8192), (9998, 10_050), (10_000, 10_001), (5, 5)]
)
def test_some_rows_are_those_of_the_whole_shard(tmp_path: Path, start: int, stop: int) -> None:
    rows = [Example(id=str(i), input=f"text {i}", output="x") for i in range(10_000)]
    write_examples(tmp_path / "train.parquet", rows)
    assert read_some_examples(tmp_path / "train.parquet", start, stop) == rows[start:stop]
