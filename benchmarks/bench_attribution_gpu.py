"""What a saliency map costs on an accelerator, for the shape of FLAN-T5-XL, in bfloat16, 128 tokens in and 4 out.

    python benchmarks/bench_attribution_gpu.py [--quick]

For batches of 1, 8, 64 and on by doubling until the memory is full: examples a second, the share of the machine's
matrix peak, and memory; captum's Saliency one text at a time beside them. The weights are random and the texts are
random tokens: neither changes what a pass costs.

The peak is measured, not taken from a data sheet: the fastest product of two square bfloat16 matrices. Work is counted
as what the mathematics needs: two operations a multiplication, once through every linear layer and attention forward,
once through every linear layer and twice through attention backward (two products there for each one forward). Weights
are frozen and have no gradients. What an implementation computes a second time to save memory is not counted, nor is
anything but matrix products.

Needs torch, transformers and this package, no service and no files. Without an accelerator it says so and ends well.
--quick measures a tiny shape, on whatever is there, and writes nothing. Otherwise `results/attribution_gpu.json` is
written. The last line is JSON.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import T5Config, T5ForConditionalGeneration

from understudy.attribution.methods import make_method
from understudy.models.base import Adapter, Batch
from understudy.models.load import adapt
from understudy.models.scratch import train_tokenizer
from understudy.models.text import Encoded
from understudy.schemas import TaskSpec

RESULT = Path(__file__).parent / "results" / "attribution_gpu.json"
INPUT, OUTPUT = 128, 4  # tokens
LARGEST = 4096  # examples of a batch
REPEATS = 5
GOAL_SHARE, GOAL_OVER_CAPTUM = 0.5, 10.0

XL: dict[str, Any] = {
    "vocab_size": 32_128,
    "d_model": 2048,
    "d_kv": 64,
    "d_ff": 5120,
    "num_layers": 24,
    "num_decoder_layers": 24,
    "num_heads": 32,
}
TINY: dict[str, Any] = {
    "vocab_size": 1_024,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
}


@dataclass(frozen=True)
class Measured:
    """One size of batch. `gib` is the peak of what torch has allocated, with the model; None where it cannot tell."""

    batch: int
    examples_per_second: float
    share_of_peak: float
    gib: float | None


def main() -> None:
    options = _options()
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if found is None and not options.quick:
        print("No accelerator is there: nothing is measured. --quick tries the script itself on the processor.")
        print(json.dumps({"skipped": "no accelerator"}))
        return
    device = found or torch.device("cpu")
    shape, sizes = (TINY, [1, 8]) if options.quick else (XL, [1, 8, 64])
    adapter = _adapter(shape, device)
    peak = _peak(device, [256] if options.quick else [4096, 8192, 16384])
    work = operations(shape)
    print(f"matrix peak {peak / 1e12:.3f} TFLOP/s, {work / 1e9:.3f} GFLOP an example")
    measured = list(_by_batch(adapter, sizes, work / peak, grow=not options.quick))
    captum = _captum(adapter, 4 if options.quick else 32)
    line = _summary(measured, captum)
    if not options.quick:
        result = {**line, "batches": [vars(one) for one in measured], **_facts(shape, device, peak, work)}
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(line))


def operations(shape: Mapping[str, int]) -> int:
    """Floating point operations of the matrix products of one example's map: see the top of this file."""
    width, inner, hidden = (
        shape["d_model"],
        shape["num_heads"] * shape["d_kv"],
        3 * shape["d_ff"],
    )  # the gate is a third
    encoder = shape["num_layers"] * INPUT * width * (4 * inner + hidden)
    own = OUTPUT * width * (6 * inner + hidden)  # self-attention, and what asks the encoder
    decoder = shape["num_decoder_layers"] * (own + INPUT * width * 2 * inner)
    head = OUTPUT * width * shape["vocab_size"]
    attention = 2 * inner * shape["num_layers"] * INPUT**2
    attention += 2 * inner * shape["num_decoder_layers"] * (OUTPUT**2 + OUTPUT * INPUT)
    return 2 * (2 * (encoder + decoder + head) + 3 * attention)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny shape, on a processor too, nothing written")
    return parser.parse_args()


def _adapter(shape: Mapping[str, int], device: torch.device) -> Adapter:
    config = T5Config(**shape, feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0)
    torch.manual_seed(0)
    with _default(torch.bfloat16), device:
        model = T5ForConditionalGeneration(config)
    tokenizer = train_tokenizer("t5", ["any words do, since every text is made of random tokens"] * 2)
    return adapt(model, tokenizer, TaskSpec())


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """New parameters in that type: in float32 first they would take twice the memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _batch(adapter: Adapter, rows: int) -> Batch:
    """Texts of random tokens, all of the full length, as if each token were one character."""
    draw = torch.Generator().manual_seed(0)
    size = adapter.model.config.vocab_size
    ids = torch.randint(3, size, (rows, INPUT), generator=draw).tolist()
    encoded = [Encoded(row, [(place, place + 1) for place in range(INPUT)]) for row in ids]
    batch = adapter.collate(encoded, ["x" * INPUT] * rows, ["any"] * rows)
    return replace(batch, labels=torch.randint(3, size, (rows, OUTPUT), generator=draw).to(adapter.device))


def _by_batch(adapter: Adapter, sizes: list[int], seconds_at_peak: float, *, grow: bool) -> Iterator[Measured]:
    """Each size, and on by doubling until the memory is full."""
    while grow and sizes[-1] < LARGEST:
        sizes = [*sizes, 2 * sizes[-1]]
    saliency = make_method("saliency", {})
    for size in sizes:
        try:
            batch = _batch(adapter, size)
            _forget_peak(adapter.device)
            seconds = _seconds(lambda batch=batch: saliency(adapter, batch).tolist(), adapter.device)
        except torch.OutOfMemoryError:
            print(f"batch {size:>5}: does not fit into memory")
            return
        rate = size / seconds
        measured = Measured(size, _rounded(rate), _rounded(rate * seconds_at_peak), _peak_gib(adapter.device))
        print(
            f"batch {size:>5}: {rate:10.2f} examples/s  {measured.share_of_peak:6.1%} of the peak  {measured.gib} GiB"
        )
        yield measured


def _captum(adapter: Adapter, count: int) -> float | None:
    """Examples a second of captum's Saliency, one at a time, on the same frozen model; None where it is missing."""
    if importlib.util.find_spec("captum") is None:
        print("captum is not installed: its figure is left out")
        return None
    from captum.attr import Saliency

    saliency, batch = Saliency(adapter.score), _batch(adapter, 1)

    def explain() -> None:
        for _ in range(count):
            embeds = adapter.embed(batch.ids).detach().requires_grad_()
            saliency.attribute(embeds, additional_forward_args=batch.rows).sum(-1).tolist()

    return _rounded(count / _seconds(explain, adapter.device))


def _summary(measured: list[Measured], captum: float | None) -> dict[str, Any]:
    best = max(measured, key=lambda one: one.examples_per_second)
    return {
        "examples_per_second": {str(one.batch): one.examples_per_second for one in measured},
        "best_batch": best.batch,
        "share_of_peak": best.share_of_peak,
        "share_of_peak_goal": GOAL_SHARE,
        "peak_gib": best.gib,
        "captum_examples_per_second": captum,
        "captum_over_library": round(best.examples_per_second / captum, 2) if captum else None,
        "captum_over_library_goal": GOAL_OVER_CAPTUM,
    }


def _facts(shape: Mapping[str, int], device: torch.device, peak: float, work: int) -> dict[str, Any]:
    versions = {}
    for name in ("torch", "transformers", "captum"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {
        "shape": dict(shape),
        "tokens": {"in": INPUT, "out": OUTPUT},
        "precision": "bfloat16",
        "device": name,
        "matrix_peak_tflops": round(peak / 1e12, 1),
        "gflop_per_example": round(work / 1e9, 1),
        "python": platform.python_version(),
        "versions": versions,
    }


def _peak(device: torch.device, sizes: list[int]) -> float:
    """Operations a second of the fastest square product in bfloat16."""
    best = 0.0
    for size in sizes:
        one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))

        def products(one: torch.Tensor = one, other: torch.Tensor = other) -> None:
            for _ in range(10):
                one @ other

        best = max(best, 10 * 2 * size**3 / _seconds(products, device))
    return best


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The median time of several runs, after one that is not counted."""
    taken = []
    for _ in range(REPEATS + 1):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak_gib(device: torch.device) -> float | None:
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if device.type == "cuda" else None


def _rounded(value: float) -> float:
    """Four figures, whatever the size."""
    return float(f"{value:.4g}")


if __name__ == "__main__":
    main()
