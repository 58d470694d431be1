"""How fast does a student answer: its engines in this process beside the reference, and the service beside its engine.

    python benchmarks/bench_serving.py [--quick] [--soak] [--peers PYTHON] [--tokenizer FOLDER] [--data FILE]

Students have the shapes of T5-small and of DistilBERT and weights that do not matter, with the docstrings of the
standard library as texts (or a real tokenizer and data set, as in bench_attribution). Every variant answers the same
requests in each round, in turn, so that a busy machine slows all alike. A figure is how many times faster, by the time
that a caller waits; `b1` are single requests, `b16` requests of sixteen texts:

    ct2_int8_over_hf_b1      CTranslate2 in int8 with two labels, each scored with a pass of its own
    ct2_float32_over_hf_b1   the same in float32
    ct2_int8_over_hf_b1_8    eight labels, of a student that is sure of one (a few steps of training see to it)
    ct2_int8_over_hf_b1_8_unsure  eight labels, of a student that holds all for possible: the worst case
    ort_int8_over_hf_b1, ort_float32_over_hf_b1, ort_int8_over_hf_b16, ort_float32_over_hf_b16
                             ONNX Runtime, for an encoder with a gate

Over HTTP, the T5 shape with two labels in int8 on CTranslate2, one text a request; callers are a process of their own:

    http_over_engine         64 callers: answers a second over those of the bare engine, in this process, which has all
                             texts beforehand and its best batches; `_cpu` compares processor time a text instead
    overhead_ms_p50          one caller: milliseconds that a text takes longer than in this process, at the median
    litserve_over_ours, bentoml_over_ours          64 callers: their time for the same requests over ours
    litserve_p99_over_ours, bentoml_p99_over_ours  and the slowest hundredth of their answers over that of ours
    burst_p99_ratio          requests that come by chance at 80 % of saturation, then ten times as many: the slowest
                             hundredth of the accepted ones over that before
    held_memory_growth       what the service's memory grows by in that time, as a share

The peers serve the same engine with one thread, one worker and the dynamic batching of their documentation, at the
best of a few settings that are tried first. They are no dependencies but live in an environment of their own, which
finds ours:

    python -m venv PEERS
    python -c "import site; print(site.getsitepackages()[0])" > PEERS/lib/python3.11/site-packages/ours.pth
    PEERS/bin/pip install litserve==0.2.19 bentoml==1.4.39
    python benchmarks/bench_serving.py --peers PEERS/bin/python

A figure is null where the package is not installed or the peers are not given.

`--soak` measures the last two alone, with the load held for 10 minutes, into the field `soak` of the result; a run
without it leaves that field as it is.

Writes `results/serving.json` (not with --quick) and ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peers.machine import machine
from peers.over_http import Load, OverHttp, measure, soak
from peers.rounds import Variant, in_turns, ratios, timed
from peers.subject import make_subject
from transformers import DistilBertConfig

from understudy.models.encoder_classifier import EncoderClassifier, EncoderClassifierConfig
from understudy.models.load import ModelCard, load_adapter, save
from understudy.models.scratch import corpus, train_tokenizer
from understudy.schemas import PredictionInput, TaskSpec
from understudy.serving.export import export, open_exported
from understudy.serving.hf import HFEngine
from understudy.serving.published import NAMES, missing

RESULT = Path(__file__).parent / "results" / "serving.json"
LABELS = ("negative", "positive", "neutral", "angry", "happy", "sad", "afraid", "amused")
WINDOW = 64  # tokens of a text: a review's sentence, a question
BATCH = 16
SURE_STEPS = 20

SERVED = "ct2:int8"

AT_LEAST = {"http_over_engine": 0.9, "ct2_int8_over_hf_b1": 3.0}
AT_LEAST |= dict.fromkeys(
    ("litserve_over_ours", "bentoml_over_ours", "litserve_p99_over_ours", "bentoml_p99_over_ours"), 1.0
)
AT_MOST = {"overhead_ms_p50": 1.5, "burst_p99_ratio": 2.0, "held_memory_growth": 0.02}
SOAK_SECONDS = 600.0

Figures = dict[str, dict[str, float] | None]


@dataclass(frozen=True)
class Size:
    """How much is measured: single requests and batches of each round, rounds, and the encoder's shape."""

    single: int
    batches: int
    rounds: int
    encoder: Mapping[str, int]
    http: Load


FULL = Size(24, 2, 7, {}, Load(rounds=5, requests=256, alone=48, held=60.0, burst=10.0))
QUICK = Size(
    single=4,
    batches=1,
    rounds=3,
    encoder={"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
    http=Load(rounds=2, requests=64, alone=16, held=4.0, burst=1.0, search=False),
)


def main() -> None:
    options = _options()
    size = QUICK if options.quick else FULL
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as place:
        subject = make_subject(
            Path(place) / "t5",
            tiny=options.quick,
            tokenizer=options.tokenizer,
            data=options.data,
            count=max(size.single, BATCH * size.batches, size.http.requests),
        )
        texts = [PredictionInput(input=example.input) for example in subject.examples]
        if options.soak:
            _soak(subject.folder, texts, size)
            return
        over_http = _over_http(subject.folder, texts, size, options)
        figures: Figures = {
            **over_http.figures,
            **_written(subject.folder, texts, size),
            **_classified(Path(place) / "encoder", texts, size),
        }
    if not options.quick:
        _write(_result(options, size, subject.facts, figures, over_http) | {"soak": _written_before().get("soak")})
    _tell(figures)


def _tell(figures: Figures) -> None:
    medians = {name: found["median"] if found else None for name, found in figures.items()}
    for goals, bound in ((AT_LEAST, "at least"), (AT_MOST, "at most")):
        for name, goal in goals.items():
            if name not in medians:
                continue
            reached = medians[name]
            print(f"{name}: {'not measured' if reached is None else reached}, goal {bound} {goal}")
    print(json.dumps(medians))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="tiny shapes, under a minute, nothing written: no goal is for them"
    )
    parser.add_argument("--soak", action="store_true", help="only the load, held for 10 minutes, and the burst")
    parser.add_argument("--peers", type=Path, help="the Python of an environment with LitServe and BentoML")
    parser.add_argument("--threads", type=int, default=1, help="of every engine in this process; servers have one")
    parser.add_argument("--tokenizer", type=Path, help="a folder with a tokenizer of T5")
    parser.add_argument("--data", type=Path, help="a file of JSON Lines with input and output")
    return parser.parse_args()


def _over_http(folder: Path, texts: Sequence[PredictionInput], size: Size, options: argparse.Namespace) -> OverHttp:
    _describe(folder, LABELS[:2])
    export(folder, SERVED)
    peers = options.peers and options.peers.absolute()  # not resolved: a link names the environment
    return measure(folder, SERVED, [row.input for row in texts], size.http, peers)


def _soak(folder: Path, texts: Sequence[PredictionInput], size: Size) -> None:
    _describe(folder, LABELS[:2])
    export(folder, SERVED)
    found = soak(folder, SERVED, [row.input for row in texts], replace(size.http, held=SOAK_SECONDS))
    if size is FULL:
        _write(_written_before() | {"soak": found.facts | {"machine": machine(), "figures": found.figures}})
    _tell(found.figures)


def _written_before() -> dict[str, Any]:
    return dict(json.loads(RESULT.read_bytes())) if RESULT.is_file() else {}


def _write(result: Mapping[str, Any]) -> None:
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _written(folder: Path, texts: Sequence[PredictionInput], size: Size) -> Figures:
    """The T5 shape, with two labels and with eight."""
    figures: Figures = {}
    single = texts[: size.single]
    _describe(folder, LABELS[:2])
    engines = _engines(folder, "ct2")
    costs = _costs({name: partial(_one_by_one, engine, single) for name, engine in engines.items()}, size)
    for precision in ("int8", "float32"):
        figures[f"ct2_{precision}_over_hf_b1"] = _faster(costs, f"ct2:{precision}")
    for suffix in ("8_unsure", "8"):
        if suffix == "8":
            _make_sure(folder, [row.input for row in single[:4]])
        _describe(folder, LABELS)
        engines = _engines(folder, "ct2", ("int8",))
        costs = _costs({name: partial(_one_by_one, engine, single) for name, engine in engines.items()}, size)
        figures[f"ct2_int8_over_hf_b1_{suffix}"] = _faster(costs, "ct2:int8")
    return figures


def _classified(folder: Path, texts: Sequence[PredictionInput], size: Size) -> Figures:
    """The DistilBERT shape: single requests and batches."""
    task = TaskSpec(kind="classification", labels=LABELS[:2])
    tokenizer = train_tokenizer("bert", corpus([row.input for row in texts], task.labels, task.template))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = DistilBertConfig(**{"vocab_size": 30_522, **size.encoder})
        names = dict(enumerate(task.labels))
        model = EncoderClassifier(
            EncoderClassifierConfig(
                encoder=encoder, pooling="gate", id2label=names, label2id={label: i for i, label in names.items()}
            )
        )
    save(model, tokenizer, task, _card("gate"), folder)
    engines = _engines(folder, "ort")
    single = texts[: size.single]
    batches = [texts[start : start + BATCH] for start in range(0, BATCH * size.batches, BATCH)]
    one = _costs({name: partial(_one_by_one, engine, single) for name, engine in engines.items()}, size)
    many = _costs({name: partial(_batched, engine, batches) for name, engine in engines.items()}, size)
    return {
        f"ort_{precision}_over_hf_{batch}": _faster(costs, f"ort:{precision}")
        for batch, costs in (("b1", one), ("b16", many))
        for precision in ("int8", "float32")
    }


def _card(reasons: Any = "saliency") -> ModelCard:
    return ModelCard(base_model="random", recipe="none", seed=0, reasons=reasons, max_tokens=WINDOW)


def _describe(folder: Path, labels: Sequence[str]) -> None:
    (folder / "task.json").write_text(TaskSpec(kind="classification", labels=tuple(labels)).model_dump_json())
    (folder / "card.json").write_text(_card().model_dump_json())


def _make_sure(folder: Path, texts: Sequence[str]) -> None:
    """Teach the model one answer to everything: what it costs depends on how sure it is, not on whether it is right."""
    adapter = load_adapter(str(folder), device="cpu")
    adapter.model.requires_grad_(True)
    optimiser = torch.optim.AdamW(adapter.model.parameters(), lr=1e-3)
    batch = adapter.encode(texts, [LABELS[0]] * len(texts))
    for _ in range(SURE_STEPS):
        adapter.model(input_ids=batch.ids, attention_mask=batch.mask, labels=batch.labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    adapter.model.save_pretrained(folder)


def _engines(folder: Path, engine: str, precisions: Sequence[str] = ("int8", "float32")) -> dict[str, HFEngine]:
    """The reference, and the engines whose packages are here."""
    found = {"hf": HFEngine.load(folder, "cpu")}
    for name in NAMES:
        if name.startswith(engine) and name.endswith(tuple(precisions)) and not missing(name, export=True):
            export(folder, name, adapter=found["hf"].adapter)
            found[name] = open_exported(folder, name, reference=found["hf"])
    return found


def _one_by_one(engine: HFEngine, rows: Sequence[PredictionInput]) -> None:
    for row in rows:
        engine.predict([row], explain=False, top_k=1)


def _batched(engine: HFEngine, batches: Sequence[Sequence[PredictionInput]]) -> None:
    for rows in batches:
        engine.predict(rows, explain=False, top_k=1)


def _costs(work: Mapping[str, Any], size: Size) -> dict[str, list[float]]:
    variants: dict[str, Variant] = {name: timed(run) for name, run in work.items()}
    return {name: [cost.wall for cost in costs] for name, costs in in_turns(variants, size.rounds).items()}


def _faster(costs: Mapping[str, Sequence[float]], name: str) -> dict[str, float] | None:
    return ratios(costs["hf"], costs[name]) if name in costs else None


def _result(
    options: argparse.Namespace, size: Size, facts: Mapping[str, Any], figures: Figures, over_http: OverHttp
) -> dict[str, Any]:
    packages = ("torch", "transformers", "ctranslate2", "onnxruntime")
    return {
        "machine": machine(),
        "threads": options.threads,
        "versions": {name: version(name) for name in packages},
        "subject": dict(facts) | {"window": WINDOW, "encoder": "DistilBERT, 6 layers, width 768, random weights"},
        "single_requests": size.single,
        "rounds": size.rounds,
        "over_http": over_http.facts,
        "figures": figures,
    }


if __name__ == "__main__":
    main()
