"""What a model's tokenizer tells of targets before it is trained or loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.models.lengths import AROUND, targets
from understudy.models.load import create, load_adapter
from understudy.models.seq2seq import decoder_ids
from understudy.models.writer import Writer
from understudy.schemas import Example, TaskSpec
from understudy.testing import SENTENCES, tiny_causal, tiny_classifier, tiny_seq2seq

ROWS = [Example(id=str(i), input=text, output="a wonderful film") for i, text in enumerate(SENTENCES)]
TASK = TaskSpec(template="Review: {input} Sentiment:")


@pytest.mark.parametrize("tiny", [tiny_seq2seq, tiny_causal])
def test_targets_are_measured_as_the_model_writes_them(tmp_path: Path, tiny: object) -> None:
    folder = str(tiny(tmp_path))  # type: ignore[operator]
    adapter = load_adapter(folder, task=TASK)
    assert isinstance(adapter, Writer)
    found = targets(folder, SENTENCES, ROWS, TASK)
    assert found.tokens == tuple(len(adapter.written_ids(text, ended=True)) for text in SENTENCES)
    assert found.room == adapter.target_room - AROUND


def test_the_targets_of_a_model_that_does_not_write_take_no_room(tmp_path: Path) -> None:
    found = targets(str(tiny_classifier(tmp_path)), ["positive"], ROWS, TASK)
    assert (found.room, found.tokens) == (None, (0,))


def test_a_new_model_is_measured_with_the_tokenizer_that_the_rows_give_it() -> None:
    inputs, outputs = [row.input for row in ROWS], [row.output for row in ROWS]
    _, tokenizer = create("scratch:t5-1x16", store=None, task=TASK, texts=inputs, targets=outputs, seed=0)
    found = targets("scratch:t5-1x16", [*inputs, *outputs], ROWS, TASK)
    assert found.room == 512 - AROUND
    assert found.tokens == tuple(len(decoder_ids(tokenizer, text)) for text in (*inputs, *outputs))
