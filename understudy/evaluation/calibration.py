"""Does a model's probability say how often it is right? Pure numpy.

The expected calibration error (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599) over bins of equal size, which
depend less on where the edges are than bins of equal width (Nixon et al. 2019, arXiv 1904.01685). Nothing is
fitted to these rows, which would make them look better than others: a temperature is fitted elsewhere, see there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from understudy.evaluation.details import Calibration, CalibrationBin
from understudy.evaluation.metrics import wilson

__all__ = ["calibration"]

BINS = 10
ROWS_PER_BIN = 20
DRAWS = 500
_AT_ONCE = 1_000_000  # answers drawn at once: bounds the memory on a large test split


def calibration(
    model: str, probabilities: Sequence[float], right: Sequence[bool], *, seed: int | None = None
) -> Calibration:
    """Of one model's answers: the probability that it gave to each, and whether it was right.

    Bins hold as equal numbers of rows as can be, ten of them, or fewer so that each holds about twenty rows. The error
    is never 0 on finitely many rows, so its mean over answers drawn from the very probabilities stands beside it
    (consistency resampling: Broecker and Smith 2007). `seed` is that of the model's training.
    """
    confidence = np.asarray(probabilities, dtype=np.float64)  # (N,)
    correct = np.asarray(right, dtype=np.float64)
    order = np.argsort(confidence, kind="stable")
    confidence, correct = confidence[order], correct[order]
    parts = np.array_split(np.arange(len(order)), max(1, min(BINS, len(order) // ROWS_PER_BIN)))
    bins = []
    for part in parts:
        low, high = wilson(float(correct[part].sum()), len(part))
        bins.append(
            CalibrationBin(
                rows=len(part),
                confidence=float(confidence[part].mean()),
                accuracy=float(correct[part].mean()),
                low=low,
                high=high,
            )
        )
    return Calibration(
        model=model,
        seed=seed,
        rows=len(order),
        confidence=float(confidence.mean()),
        accuracy=float(correct.mean()),
        ece=float(_error(confidence, correct[None], parts)[0]),
        ece_if_calibrated=_by_luck(confidence, parts),
        brier=float(((confidence - correct) ** 2).mean()),
        bins=tuple(bins),
    )


def _by_luck(confidence: NDArray[np.float64], parts: Sequence[NDArray[np.intp]]) -> float:
    """The mean error of DRAWS sets of answers drawn from the very probabilities; how many at once changes nothing."""
    random = np.random.default_rng(0)
    block = max(1, _AT_ONCE // len(confidence))
    errors = []
    for start in range(0, DRAWS, block):
        drawn = random.random((min(block, DRAWS - start), len(confidence))) < confidence  # (D, N)
        errors.append(_error(confidence, drawn.astype(np.float64), parts))
    return float(np.concatenate(errors).mean())


def _error(
    confidence: NDArray[np.float64], correct: NDArray[np.float64], parts: Sequence[NDArray[np.intp]]
) -> NDArray[np.float64]:
    """sum_b n_b / N |accuracy_b - confidence_b| of (D, N) answers, for each of the D."""
    gaps = [len(part) * np.abs(correct[:, part].mean(axis=1) - confidence[part].mean()) for part in parts]
    total: NDArray[np.float64] = np.sum(gaps, axis=0) / len(confidence)
    return total
