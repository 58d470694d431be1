"""What a decoder's candidate answers cost, asked and trained: each behind its own copy of the text, or the text once.

    python benchmarks/bench_decoder.py [--quick]

The model has the shape of SmolLM2-135M (30 layers, width 576, 49,152 tokens) and random weights: its answers do not
matter here, its shape does. Texts are docstrings of 20 to 128 tokens, candidates are their chapters' names. Everything
runs in turn within each round, in this process, in float32 on one thread. Before anything is timed both ways are shown
to give the same numbers. A figure says how many times the processor time of what is in use the other way takes:

    ask3, ask9, ask24     16 texts with so many candidate answers (of 24 four texts): `Adapter.answers`
    ask3_single           one text with three
    logits                a step of `finetune`, 8 rows, forward and backward: the logits of all tokens
    kd3, kd9              a step of `logit_kd` with so many candidates, 8 rows
    kd3_over_finetune     what `logit_kd` costs beside `finetune`, both as they are
    logits_memory         peak memory of a step of `finetune` over the loaded model, each in a process of its own

Writes `results/decoder.json` (not with --quick) and ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peers.machine import machine
from peers.memory import peak_over
from peers.rounds import Variant, in_turns, ratios, timed
from transformers import LlamaConfig, LlamaForCausalLM

from understudy.data.docstrings import docstring_examples
from understudy.models.causal import CausalAdapter
from understudy.models.load import adapt
from understudy.models.scratch import corpus, train_tokenizer
from understudy.schemas import Attribution, Example, TaskSpec
from understudy.training.collate import Collator
from understudy.training.objective import Objective
from understudy.training.recipes import parse_recipe
from understudy.training.views import Row, build_instances

RESULT = Path(__file__).parent / "results" / "decoder.json"
TEMPLATE = "{input}\nChapter:"
BATCH = 8

SHAPE: dict[str, Any] = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
TINY = SHAPE | {"vocab_size": 16_384, "hidden_size": 144, "intermediate_size": 384, "num_hidden_layers": 4}

Step = Callable[[], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small shape, under a minute, nothing written")
    quick = parser.parse_args().quick
    bench = Bench(quick)
    costs = in_turns(bench.variants(), 1 if quick else 5)
    cpu = {name: [cost.cpu for cost in found] for name, found in costs.items()}
    figures = {name: ratios(cpu[f"{name} whole"], cpu[name]) for name in cpu if f"{name} whole" in cpu}
    figures["kd3_over_finetune"] = ratios(cpu["kd3"], cpu["logits"])
    memory = {name: _memory(quick, whole) for name, whole in (("labels", False), ("all", True))}
    figures["logits_memory"] = ratios([memory["all"]], [memory["labels"]])
    if not quick:
        facts = {"machine": machine(), "threads": 1, "model": bench.facts, "ratios": figures}
        RESULT.write_text(json.dumps(facts | {"memory_mib": memory}, indent=1) + "\n", encoding="utf-8")
    for name, found in figures.items():
        print(f"{name:<20} {found['median']:6.2f}  ({found['min']:.2f} - {found['max']:.2f})")
    print(json.dumps({name: found["median"] for name, found in figures.items()}))


class Bench:
    """The model, its texts, and every way to ask and train it."""

    def __init__(self, quick: bool) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        torch.set_num_threads(1)
        every = docstring_examples()
        texts = corpus([one.input for one in every], [one.output for one in every], TEMPLATE)
        tokenizer = train_tokenizer("gpt2", texts)
        long = [one for one in every if 20 <= len(tokenizer(one.input)["input_ids"]) <= 128]
        self.examples = long[:: len(long) // 16][:16]
        chapters = sorted({one.output for one in every})
        self.labels = {3: chapters[:3], 9: chapters[:9], 24: [f"{a} {b}" for a in chapters[:8] for b in "xyz"]}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = LlamaForCausalLM(LlamaConfig(**TINY if quick else SHAPE))
        self.tokenizer = tokenizer
        lengths = sorted(len(tokenizer(one.input)["input_ids"]) for one in self.examples)
        self.facts = {
            "shape": f"Llama, {self.model.config.num_hidden_layers} layers, width {self.model.config.hidden_size}",
            "parameters": self.model.num_parameters(),
            "tokens": {"min": lengths[0], "median": lengths[len(lengths) // 2], "max": lengths[-1]},
        }

    def variants(self) -> dict[str, Variant]:
        """Each as it is, and under the same name with `whole` the other way. Refuses to time what differs."""
        found: dict[str, Variant] = {}
        for name, count, texts in (("ask3", 3, 16), ("ask9", 9, 16), ("ask24", 24, 4), ("ask3_single", 3, 1)):
            ours, whole = (self._asking(count, texts, whole) for whole in (False, True))
            torch.testing.assert_close(ours(), whole(), rtol=1e-3, atol=1e-5)
            found |= {name: timed(ours), f"{name} whole": timed(whole)}
        for name, recipe, count, missing in (
            ("logits", "finetune", 9, "logits_to_keep"),
            ("kd3", "logit_kd", 3, "past_key_values"),
            ("kd9", "logit_kd", 9, "past_key_values"),
        ):
            ours, whole = self.step(recipe, count), self.step(recipe, count, without=missing)
            torch.testing.assert_close(ours(), whole(), rtol=1e-3, atol=1e-5)
            found |= {name: timed(ours), f"{name} whole": timed(whole)}
        return found

    def _adapter(self, count: int) -> CausalAdapter:
        task = TaskSpec(kind="classification", labels=tuple(self.labels[count]), template=TEMPLATE)
        adapter = adapt(self.model, self.tokenizer, task)
        assert isinstance(adapter, CausalAdapter)
        return adapter

    def _asking(self, count: int, texts: int, whole: bool) -> Step:
        adapter = copy.copy(self._adapter(count))
        adapter.reads_on = not whole
        inputs = [one.input for one in self.examples[:texts]]
        return lambda: torch.tensor([one.probability for one in adapter.answers(inputs, [None] * texts)])

    def step(self, recipe: str, count: int, without: str = "") -> Step:
        """Losses of a batch, and their gradients."""
        adapter = self._adapter(count)
        rows = [self._row(one, self.labels[count]) for one in self.examples[:BATCH]]
        instances = build_instances(adapter, rows, parse_recipe(recipe), seed=0, top_k=5)
        collate = Collator.of(adapter)
        collate.accepted -= {without}
        batch = collate(instances)
        objective = Objective(parse_recipe(recipe), "causal", 1.0)

        def run() -> torch.Tensor:
            self.model.requires_grad_(True).zero_grad()
            losses = objective(self.model, batch)
            losses.sum().backward()
            return losses.detach()

        return run

    def _row(self, example: Example, labels: Sequence[str]) -> Row:
        gold = example.model_copy(update={"output": labels[len(example.input) % len(labels)]})
        said = Attribution(
            id=example.id,
            prediction=gold.output,
            probability=1 / len(labels),
            probabilities=dict.fromkeys(labels, 1 / len(labels)),
            explained=gold.output,
            words=(),
            rationale=(),
            tokens=1,
        )
        return Row(gold, said)


def _memory(quick: bool, whole: bool) -> float:
    """MiB of one step, in a process of its own: nothing that was freed before can be used again there."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return round(pool.apply(_peak, (quick, whole)), 1)


def _peak(quick: bool, whole: bool) -> float:
    return peak_over(Bench(quick).step("finetune", 9, without="logits_to_keep" if whole else ""))


if __name__ == "__main__":
    main()
