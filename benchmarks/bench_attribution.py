"""What a saliency map costs: our batches against the floor, against other libraries, and over HTTP.

    python benchmarks/bench_attribution.py [--quick] [--tokenizer FOLDER] [--data FILE]

The model has the shape of T5-small and random weights: its answers do not matter here, its shape does. A real tokenizer
and data set (JSON Lines with `input` and `output`) may be named; without them a tokenizer is trained on the standard
library's docstrings, which are the texts then. Everything runs in turn within each round, on one thread a process.

A figure named `x_over_library` says how many times our time x takes. Processor time, or for the figures over HTTP the
time that callers wait against the time that the library takes in this process:

    library_over_floor      our maps / two forward passes of the same batches: a map cannot cost less
    captum_over_library     captum's Saliency, one text at a time
    backward_over_library   `.backward()`, one text at a time, every parameter requiring a gradient
    inseq_over_library      inseq's saliency at its best batch size, which is a row a token of the answer
    inseq_rows_over_library the same / our rows, one a token of the answer
    inseq_ig_over_library   integrated gradients of 20 steps
    http64_over_library     64 callers at once, one text a request
    http_batch_over_library 4 callers at once, 64 texts a request

Before that, captum's and inseq's scores are compared with ours: all must be the same numbers. A library that is not
installed is left out and its figure is null, as are those over HTTP without fastapi and uvicorn. captum comes with
`understudy[teacher]`. inseq pins old versions of what it stands on, and runs beside new ones from a folder of its own:

    pip install --no-deps --target PEERS inseq==0.7.1 jaxtyping typeguard==2.13.3 treescope wadler-lindig \\
        requests urllib3 charset-normalizer idna
    PYTHONPATH=PEERS python benchmarks/bench_attribution.py

Writes `results/attribution.json` (not with --quick) and ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peers.inseq_peer import Inseq, is_installed
from peers.machine import machine
from peers.memory import measure
from peers.one_by_one import OneByOne
from peers.rounds import Cost, Variant, in_turns, ratios, spread, timed
from peers.service import Callers, Service
from peers.subject import Subject, make_subject

from understudy.attribution.attribute import attribute
from understudy.attribution.methods import Saliency
from understudy.batching import plan_batches
from understudy.models.base import Adapter
from understudy.models.load import load_adapter
from understudy.schemas import AttributionExample, AttributionOptions

RESULT = Path(__file__).parent / "results" / "attribution.json"
BUDGET = 2048  # padded tokens of a batch, the default of the library and of the service
GOLD = AttributionOptions(target="gold", predict=False)
STEPS = 20
CALLERS = 64
NO_CACHE = {"UNDERSTUDY_TEACHER_CACHE_BYTES": "0"}  # each round asks the same texts

AT_MOST = {"library_over_floor": 1.10, "http64_over_library": 1.10, "http_batch_over_library": 1.03}
AT_LEAST = {
    "captum_over_library": 2.0,
    "backward_over_library": 3.0,
    "inseq_over_library": 8.0,
    "inseq_rows_over_library": 2.0,
    "inseq_ig_over_library": 6.0,
}
MOST_MEMORY = 1074  # MiB

Figures = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Size:
    """How much is measured: texts one by one, texts of integrated gradients, and texts over HTTP in each round."""

    texts: int
    steps: int
    served: int
    rounds: int


FULL, QUICK = Size(texts=64, steps=4, served=192, rounds=5), Size(texts=12, steps=2, served=64, rounds=2)


def main() -> None:
    options = _options()
    size = QUICK if options.quick else FULL
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        subject = make_subject(
            Path(place) / "model", tiny=options.quick, tokenizer=options.tokenizer, data=options.data, count=size.served
        )
        adapter = load_adapter(str(subject.folder))
        figures, costs = _alone(adapter, subject, size)
        for part in (_integrated(adapter, subject, size), _served(adapter, subject, size)):
            figures |= part[0]
            costs |= part[1]
        memory = {what: round(measure(subject.folder, what)) for what in ("forward", "saliency")}
    if not options.quick:
        result = _result(subject, size, figures, costs, memory)
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    _print(figures, memory)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny shape, under a minute, nothing written")
    parser.add_argument("--tokenizer", type=Path, help="a folder with a tokenizer of T5")
    parser.add_argument("--data", type=Path, help="a file of JSON Lines with input and output")
    return parser.parse_args()


def _alone(adapter: Adapter, subject: Subject, size: Size) -> tuple[Figures, dict[str, float]]:
    """One score an example and one row a token of the answer, by us and by others."""
    examples = subject.examples[: size.texts]
    others = OneByOne(subject.folder, examples)
    _compare(adapter, subject)
    variants: dict[str, Variant] = {
        "library": timed(lambda: attribute(adapter, examples, GOLD, max_padded_tokens=BUDGET)),
        "floor": timed(lambda: _two_forward_passes(adapter, examples)),
        "backward": timed(others.backward),
    }
    if importlib.util.find_spec("captum") is not None:
        variants["captum"] = timed(others.captum)
    if is_installed():
        rows = GOLD.model_copy(update={"rows": True})
        variants["library_rows"] = timed(lambda: attribute(adapter, examples, rows, max_padded_tokens=BUDGET))
        inseq = Inseq(subject.folder, "saliency", examples)
        best = _best_batch(inseq, size.texts)
        print(f"inseq: batches of {best} are its fastest")
        variants["inseq"] = timed(lambda: inseq.explain(best))
    seconds = _cpu(in_turns(variants, size.rounds))
    figures = {"library_over_floor": ratios(seconds["library"], seconds["floor"])}
    for name in ("captum", "backward", "inseq"):
        if name in seconds:
            figures[f"{name}_over_library"] = ratios(seconds[name], seconds["library"])
    if "inseq" in seconds:
        figures["inseq_rows_over_library"] = ratios(seconds["inseq"], seconds["library_rows"])
    return figures, _per_text(seconds, size.texts)


def _integrated(adapter: Adapter, subject: Subject, size: Size) -> tuple[Figures, dict[str, float]]:
    examples = subject.examples[: size.texts : size.texts // size.steps]
    if not is_installed():
        return {}, {}
    asked = GOLD.model_copy(update={"method": "integrated_gradients", "settings": {"n_steps": STEPS}})
    inseq = Inseq(subject.folder, "integrated_gradients", examples)
    variants = {
        "library_ig": timed(lambda: attribute(adapter, examples, asked, max_padded_tokens=BUDGET)),
        "inseq_ig": timed(lambda: inseq.explain(len(examples), n_steps=STEPS, internal_batch_size=16)),
    }
    seconds = _cpu(in_turns(variants, size.rounds))
    figures = {"inseq_ig_over_library": ratios(seconds["inseq_ig"], seconds["library_ig"])}
    return figures, _per_text(seconds, len(examples))


def _served(adapter: Adapter, subject: Subject, size: Size) -> tuple[Figures, dict[str, float]]:
    """The same texts over HTTP: what callers wait, and beside it the processor time of the service alone."""
    if not all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn")):
        return {}, {}
    examples, options = subject.examples, GOLD.model_dump(include={"target", "predict"})
    with Service.running(subject.folder, NO_CACHE) as service, Callers(service, examples, options) as callers:
        variants = {
            "library": timed(lambda: attribute(adapter, examples, GOLD, max_padded_tokens=BUDGET)),
            "http64": lambda: callers.ask(callers=CALLERS, texts=1),
            "http_batch": lambda: callers.ask(callers=max(1, size.served // 64), texts=64),
        }
        costs = in_turns(variants, size.rounds)
    wall = {name: [cost.wall for cost in found] for name, found in costs.items()}
    cpu = _cpu(costs)
    figures = {f"{name}_over_library": ratios(wall[name], wall["library"]) for name in ("http64", "http_batch")}
    figures |= {f"{name}_cpu_over_library": ratios(cpu[name], cpu["library"]) for name in ("http64", "http_batch")}
    return figures, {}


def _two_forward_passes(adapter: Adapter, examples: Sequence[AttributionExample]) -> None:
    texts, targets = [example.input for example in examples], [str(example.output) for example in examples]
    with torch.inference_mode():
        for positions in plan_batches(adapter.lengths(texts), BUDGET):
            batch = adapter.encode([texts[i] for i in positions], [targets[i] for i in positions])
            for _ in range(2):
                adapter.score(adapter.embed(batch.ids), batch.mask, batch.labels)


def _compare(adapter: Adapter, subject: Subject) -> None:
    """Refuse to time what does not compute the same: two texts' scores by everybody."""
    examples = subject.examples[:2]
    others = OneByOne(subject.folder, examples)
    batches = [adapter.encode([example.input], [str(example.output)]) for example in examples]
    saliency = Saliency()
    maps = [others.backward()] + ([others.captum()] if importlib.util.find_spec("captum") else [])
    for found in maps:
        for batch, theirs in zip(batches, found, strict=True):
            torch.testing.assert_close(saliency(adapter, batch)[0], theirs, rtol=1e-3, atol=1e-5)
    if is_installed():
        for batch, theirs in zip(batches, Inseq(subject.folder, "saliency", examples).explain(2), strict=True):
            rows = saliency.rows(adapter, batch)[:-1, 0]  # without the token that ends it: (S, T)
            torch.testing.assert_close(rows, theirs.T[:-1], rtol=1e-3, atol=1e-5)


def _best_batch(inseq: Inseq, count: int) -> int:
    """The batch size at which inseq is fastest, tried on some of the texts."""
    some = min(16, count)
    inseq.explain(some, 2)  # warm up
    tried = {size: timed(lambda size=size: inseq.explain(size, some))().cpu for size in {1, min(8, some), some}}
    return min(tried, key=tried.__getitem__)


def _cpu(costs: Mapping[str, Sequence[Cost]]) -> dict[str, list[float]]:
    return {name: [cost.cpu for cost in found] for name, found in costs.items()}


def _per_text(seconds: Mapping[str, Sequence[float]], texts: int) -> dict[str, float]:
    """Median milliseconds of processor time a text."""
    return {name: round(1000 * spread(found)["median"] / texts, 1) for name, found in seconds.items()}


def _result(
    subject: Subject, size: Size, figures: Figures, costs: Mapping[str, float], memory: Mapping[str, int]
) -> dict[str, Any]:
    return {
        "subject": subject.facts,
        "rounds": size.rounds,
        "texts": {"one by one": size.texts, "integrated gradients": size.steps, "over HTTP": size.served},
        "threads": 1,
        "machine": machine(),
        "versions": {name: _version(name) for name in ("torch", "transformers", "captum", "inseq")},
        "ratios": figures,
        "cpu_milliseconds_a_text": dict(costs),
        "memory_mib_over_model_32x128": dict(memory),
    }


def _print(figures: Figures, memory: Mapping[str, int]) -> None:
    named = AT_MOST | AT_LEAST
    for name in [*named, *(other for other in figures if other not in named)]:
        goal = f"at most {AT_MOST[name]}" if name in AT_MOST else f"at least {AT_LEAST[name]}" if name in named else ""
        found = figures.get(name)
        shown = f"{found['median']:6.2f}  ({found['min']:.2f} - {found['max']:.2f})" if found else "not installed"
        print(f"{name:<28} {shown:<24} {goal}")
    shown = f"{memory['saliency']:6d}  (forward {memory['forward']})"
    print(f"{'memory at 32 x 128, MiB':<28} {shown:<24} at most {MOST_MEMORY}")
    line: dict[str, float | None] = {name: figures[name]["median"] if name in figures else None for name in named}
    print(json.dumps(line | {"memory_mib": memory["saliency"]}))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
