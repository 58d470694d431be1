"""The plan of a training: every hyperparameter as a number. The one place where `auto` is decided. Imports no torch.

What `auto` means depends on the number of rows, on the model's size and architecture, and on whether its weights are
random or pretrained; never on the recipe. All arms of a job therefore take the same number of optimiser steps on the
same number of examples each. The numbers for scratch models were chosen on the docstring data
(benchmarks/experiment_plan.py); those for pretrained ones are the customary ones of their papers: BERT (arXiv
1810.04805, appendix A.3) and T5 (arXiv 1910.10683); LoRA's adapters, which start at zero, take steps ten times as long
(arXiv 2106.09685, appendix D).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from understudy.errors import InvalidRequest
from understudy.schemas import Hyperparameters

__all__ = ["VALIDATIONS", "Plan", "Precision", "Shape", "micro_batch", "resolve"]

Precision = Literal["auto", "float32", "bfloat16"]

VALIDATIONS = 10
"""How often a training looks at the validation rows, spread evenly; the last look is after the last step."""

BATCH = 16
PRETRAINED_EPOCHS = 3.0
PRETRAINED_STEPS = 200
"""The least for a pretrained one, however few its rows are: three passes over 100 rows leave it untrained (arXiv
2006.04884 and 2006.05987 found the same of BERT; benchmarks/experiment_plan.py)."""
SCRATCH_EPOCHS = 6.0
SCRATCH_STEPS = 400
"""The least for a model that knows nothing yet, however few its rows are."""

UNREACHED = 10_000_000
"""Steps of a training that ends by the clock."""

WARMUP = 0.1
WEIGHT_DECAY = 0.01
LORA_FACTOR, LORA_MOST = 10.0, 1e-3
"""How much faster adapters learn than all weights, and the rate above which nothing does."""


@dataclass(frozen=True)
class Shape:
    """What of a model a plan depends on. `scratch`: its weights are random. `lora`: only adapters are trained."""

    architecture: str
    parameters: int
    width: int
    layers: int
    scratch: bool
    lora: bool = False


@dataclass(frozen=True)
class Plan:
    """`batch_size` counts the examples of one optimiser step, whatever number of views each of them has.

    With `seconds` the training takes so much wall time and `steps` is a bound that none reaches. `patience` is in
    validations, None where a training goes to its end. What `precision` `auto` becomes depends on the
    device, which is not known here (`trainer.training_arguments`).
    """

    steps: int
    batch_size: int
    learning_rate: float
    schedule: Literal["cosine", "linear"]
    warmup_steps: int
    weight_decay: float
    patience: int | None = None
    precision: Precision = "auto"
    seconds: float | None = None

    @property
    def validate_every(self) -> int:
        return max(1, math.ceil(self.steps / VALIDATIONS))

    def rate(self, share: float) -> float:
        """The learning rate's factor when this share of a training is over, which may be one of its time.

        It rises evenly over the first part and falls to zero at the end; at `share` = step / steps it is what
        transformers' schedules of the same names give.
        """
        if share < WARMUP:
            return share / WARMUP
        left = (1 - min(share, 1.0)) / (1 - WARMUP)
        return left if self.schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)


def resolve(asked: Hyperparameters, *, rows: int, shape: Shape) -> Plan:
    """Decide everything that was left to `auto`. `max_steps` is an upper bound on what the epochs ask for."""
    batch = BATCH if asked.batch_size == "auto" else asked.batch_size
    batch = min(batch, rows)
    steps = _steps(asked, rows, batch, shape.scratch)
    multiplier = 1.0 if asked.learning_rate_multiplier == "auto" else asked.learning_rate_multiplier
    return Plan(
        steps=steps,
        batch_size=batch,
        learning_rate=multiplier * _learning_rate(shape),
        schedule="cosine" if shape.scratch else "linear",
        warmup_steps=math.ceil(WARMUP * steps),
        weight_decay=WEIGHT_DECAY,
        patience=asked.patience,
        precision=asked.precision,
        seconds=asked.seconds,
    )


def _steps(asked: Hyperparameters, rows: int, batch: int, scratch: bool) -> int:
    per_epoch = math.ceil(rows / batch)
    if asked.seconds is not None:
        return UNREACHED
    if asked.n_epochs != "auto":
        steps = math.ceil(asked.n_epochs * per_epoch)
    elif scratch:
        steps = max(SCRATCH_STEPS, math.ceil(SCRATCH_EPOCHS * per_epoch))
    else:
        steps = max(PRETRAINED_STEPS, math.ceil(PRETRAINED_EPOCHS * per_epoch))
    return min(steps, asked.max_steps or steps)


def _learning_rate(shape: Shape) -> float:
    rate = _full_rate(shape)
    return min(LORA_FACTOR * rate, max(LORA_MOST, rate)) if shape.lora else rate


def _full_rate(shape: Shape) -> float:
    if shape.scratch:
        # 3e-3 was best for one layer of width 64 and 1e-3 for two of 128, on the docstring data.
        return min(3e-3, 0.19 / (shape.width * math.sqrt(shape.layers)))
    if shape.architecture == "seq2seq":
        return 3e-4 if shape.parameters < 1_000_000_000 else 1e-4
    return 5e-5 if shape.parameters < 150_000_000 else 2e-5


def micro_batch(batch: int, parameters: int, devices: int = 1) -> int:
    """Examples of one forward pass on one device: the largest divisor of the batch that a model of this size can take.

    The rest is gradient accumulation, which does not change the loss.
    """
    if batch % devices:
        raise InvalidRequest(
            f"a batch of {batch} examples cannot be shared by {devices} devices: choose a multiple of {devices}",
            param="hyperparameters.batch_size",
        )
    share = batch // devices
    bound = (
        256 if parameters < 50_000_000 else 32 if parameters < 500_000_000 else 8 if parameters < 2_000_000_000 else 2
    )
    return max(size for size in range(1, share + 1) if share % size == 0 and size <= bound)
