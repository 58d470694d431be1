"""Classifiers on ONNX Runtime: the export, in float32 or with int8 weights, and an adapter whose model runs there.

In int8, weights are rounded once and activations on the way (`DynamicQuantizeLinear`), with one scale for the whole
tensor: the rows of a batch would share it, and an answer would depend on its neighbours. An int8 model therefore reads
its rows one by one. That costs nothing here: a row alone has no padding, and a matrix product in int8 is fast enough
for the cores to be busy with it. In float32, rows share batches as everywhere.

`int8-blocks` rounds weights and activations in blocks of 32 numbers along each row (`MatMulNBits`): closer to the
reference, and slower than `int8`. A row's blocks are its own, so rows share batches. Embeddings stay float32 in all
precisions: rounded as one tensor, they alone cost more agreement than all matrix products.

The graph gives what `transformers` gives: a label's logits and, of models with a gate, its logits for each token. So
answers, choices, calibration and gate words are the adapter's, as with the reference. Knows no templates and no files
other than its own; gradients do not exist here.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from understudy.errors import ModelError
from understudy.models.base import Adapter
from understudy.models.classifier import ClassifierAdapter
from understudy.models.encoder_classifier import EncoderClassifierOutput

__all__ = ["Adapted", "Model", "convert", "problem"]

FILE = "model.onnx"
BLOCK = 32
INPUTS = ("input_ids", "attention_mask")
OUTPUTS = ("logits", "gate_logits")


def problem(adapter: Adapter) -> str | None:
    """Why this model cannot be exported; None where it can."""
    return None if adapter.architecture == "classifier" else "ONNX Runtime is for classifiers"


def convert(adapter: Adapter, folder: Path, precision: str) -> None:
    """Write the model as a graph over (B, T) ids and mask, both sizes free."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = _graph(adapter)
    if precision == "float32":
        _save(graph, folder / FILE)
    elif precision == "int8-blocks":
        _quantise_blocks(graph, folder / FILE)
    else:
        _quantise(graph, folder / FILE)


class Model(nn.Module):
    """What stands where an adapter has its model: a session, and the configuration of what it was made from."""

    def __init__(self, folder: Path, config: Any, precision: str, threads: int) -> None:
        super().__init__()
        self.config = config
        self.alone = precision == "int8"
        self.precision = precision.partition("-")[0]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin between two requests take the cores from whoever reads the next one.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.session = onnxruntime.InferenceSession(
                (folder / FILE).read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors share no class below this one
            raise ModelError(f"ONNX Runtime cannot read {folder.name}: {_first_line(error)}", param="model") from error

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> EncoderClassifierOutput:
        """Logits (B, L) and, with a gate, gate logits (B, T), the dtype's minimum at padding: 2 x (B, T) -> ..."""
        if not self.alone:
            return _output(self._run(input_ids, attention_mask))
        rows = []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            length = int(mask.sum())  # rows are padded at their end
            rows.append(self._run(ids[None, :length], mask[None, :length]))
        found = {"logits": torch.cat([row["logits"] for row in rows])}
        if "gate_logits" in rows[0]:
            gates = [row["gate_logits"][0] for row in rows]
            shut = torch.finfo(gates[0].dtype).min
            found["gate_logits"] = torch.stack(
                [nn.functional.pad(gate, (0, input_ids.shape[1] - len(gate)), value=shut) for gate in gates]
            )
        return _output(found)

    def _run(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        fed = dict(zip(INPUTS, (ids.numpy(), mask.numpy()), strict=True))
        found = self.session.run(None, fed)
        return {name: torch.from_numpy(np.asarray(value)) for name, value in zip(OUTPUTS, found, strict=False)}


def _output(found: dict[str, Tensor]) -> EncoderClassifierOutput:
    return EncoderClassifierOutput(logits=found["logits"], gate_logits=found.get("gate_logits"))


class Adapted(ClassifierAdapter):
    """Answers as a ClassifierAdapter does."""

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def precision(self) -> str:
        return str(self.model.precision)


class _Outputs(nn.Module):
    """The model as a function from two tensors to one or two."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        output = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return tuple(getattr(output, name) for name in OUTPUTS if getattr(output, name, None) is not None)


def _graph(adapter: Adapter) -> Any:
    """The ONNX model. No stack traces of this machine stay in it, and no shapes that quantising would contradict."""
    length = min(8, adapter.max_tokens)
    ids = torch.full((2, length), int(adapter.tokenizer.pad_token_id))
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    rows = torch.export.Dim("rows", min=1, max=4096)
    tokens = torch.export.Dim("tokens", min=1, max=adapter.max_tokens)
    with _quiet():
        program = torch.onnx.export(
            _Outputs(adapter.model),
            (ids, mask),
            dynamo=True,
            input_names=list(INPUTS),
            dynamic_shapes={name: {0: rows, 1: tokens} for name in INPUTS},
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
    return model


def _quantise(graph: Any, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as scratch, _quiet():
        whole = Path(scratch) / FILE
        _save(graph, whole)
        quantize_dynamic(
            whole,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],  # products of activations with each other stay float32
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )


def _quantise_blocks(graph: Any, path: Path) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with _quiet():
        # Level 4: activations in int8 too, and products in int8.
        quantizer = MatMulNBitsQuantizer(graph, bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=4)
        quantizer.process()
        quantizer.model.save_model_to_file(str(path), False)


def _save(graph: Any, path: Path) -> None:
    import onnx

    onnx.save(graph, str(path))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters talk about their progress and about packages that are not installed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
