"""How often are level arms called different? Made-up answers whose truth is known, judged by the report's own code.

    python benchmarks/simulate_verdicts.py

Every test example is as hard for both arms; each training moves its arm's accuracy by chance, with the given standard
deviation. Of each pair both verdict and p are counted where they claim a gain: 2.5 in a hundred is what a two-sided
5 % allows. Writes `results/verdicts.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from understudy.evaluation import compare as comparison
from understudy.evaluation.compare import SIGNIFICANCE, compare

RESULTS = Path(__file__).parent / "results"
SETTINGS = [
    (1, 500, 0.0),
    (3, 500, 0.0),
    (3, 500, 0.02),
    (3, 2000, 0.02),
    (3, 2000, 0.05),
    (2, 2000, 0.02),
    (5, 2000, 0.02),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=600)
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    options = parser.parse_args()
    comparison.RESAMPLES = 1000  # enough for the ends of an interval, and ten times as many pairs
    rows = [_simulate(*setting, options.pairs) for setting in SETTINGS]
    RESULTS.mkdir(exist_ok=True)
    result = {"date": options.date, "pairs": options.pairs, "rows": rows}
    (RESULTS / "verdicts.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _simulate(seeds: int, examples: int, spread: float, pairs: int) -> dict[str, float]:
    random = np.random.default_rng(1)
    beats = holds = 0
    for _ in range(pairs):
        base = random.uniform(0.4, 0.8, examples)
        effects = random.normal(0, spread, (2, seeds, 1))
        ours, theirs = (random.random((seeds, examples)) < base + effect for effect in effects)
        found = compare(dict(enumerate(ours.tolist())), dict(enumerate(theirs.tolist())))
        claimed = found.verdict == "BEATS"
        beats += claimed
        holds += claimed and found.p is not None and found.p <= SIGNIFICANCE
    row = {"seeds": seeds, "examples": examples, "spread": spread, "beats": beats / pairs, "holds": holds / pairs}
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
