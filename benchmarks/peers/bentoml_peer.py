"""BentoML serving one of our engines, as its documentation has it: a service whose one API is batchable.

`bentoml serve bentoml_peer:Student`, run from the folder that BentoML is installed in (see bench_serving), with
STUDENT_FOLDER, STUDENT_ENGINE, STUDENT_BATCH and STUDENT_LATENCY_MS in its environment.
"""

from __future__ import annotations

import os
from pathlib import Path

import bentoml

from understudy.schemas import Prediction, PredictionInput
from understudy.serving.engines import load_engine


@bentoml.service(workers=1, threads=1, traffic={"timeout": 120})
class Student:
    """`{"inputs": [{"input": text}]}` -> predictions, in batches over all requests."""

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)
        self._engine = load_engine(Path(os.environ["STUDENT_FOLDER"]), "cpu", engine=os.environ["STUDENT_ENGINE"])

    @bentoml.api(
        route="/predict",
        batchable=True,
        max_batch_size=int(os.environ["STUDENT_BATCH"]),
        max_latency_ms=int(os.environ["STUDENT_LATENCY_MS"]),
    )
    def predict(self, inputs: list[PredictionInput]) -> list[Prediction]:
        return self._engine.predict(inputs, explain=False, top_k=1)
