"""Data sets of the hub, through a stand-in for the optional package: there is no network here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from understudy.data.validate import load_split
from understudy.errors import InvalidRequest


class DatasetsError(Exception):
    pass


class Labels:
    """As `datasets.ClassLabel`: the file holds numbers, the features hold their names."""

    def int2str(self, value: int) -> str:
        return ["negative", "positive"][value]


class Stream:
    features = {"sentence": object(), "label": Labels()}  # noqa: RUF012

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield {"sentence": "good", "label": 1}
        yield {"sentence": "hidden", "label": -1}
        yield {"sentence": "bad", "label": 0}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was asked of the package."""
    calls: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> Stream:
        calls.append((name, config, split, streaming))
        if name == "gone":
            raise DatasetsError("no such data set")
        return Stream()

    package = SimpleNamespace(load_dataset=load_dataset, exceptions=SimpleNamespace(DatasetsError=DatasetsError))
    monkeypatch.setitem(sys.modules, "datasets", package)  # type: ignore[arg-type]
    return calls


def test_a_hub_data_set_is_streamed_with_the_names_of_its_labels(asked: list[tuple[Any, ...]]) -> None:
    examples, rejected = load_split(Path("hf:org/films:small"), "validation")
    assert asked == [("org/films", "small", "validation", True)]
    assert [(example.input, example.output) for example in examples] == [("good", "positive"), ("bad", "negative")]
    assert [(row.line, row.param) for row in rejected] == [(2, "label")]


def test_a_name_without_a_configuration_takes_the_default_one(asked: list[tuple[Any, ...]]) -> None:
    load_split(Path("hf:films"), "train")
    assert asked == [("films", None, "train", True)]


@pytest.mark.parametrize(
    ("source", "complaint"), [("hf:gone", "no such data set"), ("hf:", "names no data set"), ("hf::a", "names no")]
)
@pytest.mark.usefixtures("asked")
def test_a_data_set_that_cannot_be_had_is_named(source: str, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        load_split(Path(source), "train")


def test_without_the_package_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=r"pip install 'understudy\[hub\]'"):
        load_split(Path("hf:org/films"), "train")
