from __future__ import annotations

from typing import Any

import pytest

from understudy.errors import ModelNotFound
from understudy.models import source
from understudy.models.source import Source


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def unreachable(url: str, **_: Any) -> None:
        asked.append(url)
        raise ConnectionError("no route to host")

    monkeypatch.setattr(source, "get_hf_file_metadata", unreachable)
    monkeypatch.setattr(source.AutoConfig, "from_pretrained", lambda *_, **__: pytest.fail("it would try for long"))
    with pytest.raises(ModelNotFound, match="no route to host"):
        Source.find("somebody/model", None).config()
    assert len(asked) == 1
