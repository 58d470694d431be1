"""LitServe serving one of our engines, as its documentation has it: an API with batches, in a process of its own.

    python litserve_peer.py FOLDER ENGINE PORT BATCH TIMEOUT FAST_QUEUE

Run by the Python of the folder that LitServe is installed in; see bench_serving.
"""

import sys
from pathlib import Path
from typing import Any

import litserve

from understudy.schemas import PredictionInput
from understudy.serving.engines import load_engine


class Student(litserve.LitAPI):
    """`{"input": text}` -> the prediction."""

    def __init__(self, folder: str, engine: str, **options: Any) -> None:
        super().__init__(**options)
        self._folder, self._name = folder, engine

    def setup(self, device: str) -> None:
        del device
        import torch

        torch.set_num_threads(1)
        self._engine = load_engine(Path(self._folder), "cpu", engine=self._name)

    def decode_request(self, request: litserve.Request) -> PredictionInput:  # of another type, it is read as a form
        return PredictionInput(input=request["input"])

    def predict(self, rows: Any) -> Any:
        return self._engine.predict(rows, explain=False, top_k=1)

    def encode_response(self, output: Any) -> Any:
        return output.model_dump(mode="json")


def main() -> None:
    folder, engine, port, batch, timeout, fast_queue = sys.argv[1:]
    api = Student(folder, engine, max_batch_size=int(batch), batch_timeout=float(timeout))
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=120, fast_queue=fast_queue == "1")
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
