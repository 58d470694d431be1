"""What the adapters of writing models share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from understudy.models.load import load_adapter
from understudy.testing import LABELS, SENTENCES


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_an_answer_that_every_text_may_have_is_tokenised_once(
    kind: str, folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = load_adapter(str(folder_of(kind)))
    alone = [adapter.answers([text], labels=LABELS)[0] for text in SENTENCES]
    asked: list[str] = []
    tokenised = type(adapter).written_ids  # type: ignore[attr-defined]

    def counted(self: Any, text: str, *, ended: bool) -> list[int]:
        asked.append(text)
        return tokenised(self, text, ended=ended)

    monkeypatch.setattr(type(adapter), "written_ids", counted)
    together = adapter.answers(SENTENCES, labels=LABELS)
    assert sorted(asked) == sorted(LABELS)
    assert [answer.text for answer in together] == [answer.text for answer in alone]
