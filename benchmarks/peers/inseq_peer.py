"""inseq explaining the same texts and answers, where it is installed."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from understudy.schemas import AttributionExample

__all__ = ["Inseq", "is_installed"]


def is_installed() -> bool:
    return importlib.util.find_spec("inseq") is not None


class Inseq:
    """One method of inseq. It has no less than a row for each token of the answer, the one that ends it too."""

    def __init__(self, folder: Path, method: str, examples: Sequence[AttributionExample]) -> None:
        import inseq

        logging.getLogger("inseq").setLevel(logging.ERROR)
        self._texts = [example.input for example in examples]
        self._targets = [str(example.output) for example in examples]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._model = inseq.load_model(str(folder), method, device="cpu")

    def explain(self, batch_size: int, count: int | None = None, **settings: Any) -> list[Any]:
        """(T, S) scores of each text; `settings` are the method's own."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self._model.attribute(
                self._texts[:count],
                self._targets[:count],
                attributed_fn="logit",
                batch_size=batch_size,
                show_progress=False,
                pretty_progress=False,
                **settings,
            )
        return [one.source_attributions.norm(p=1, dim=-1) for one in found.sequence_attributions]
