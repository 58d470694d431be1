"""T5 students on CTranslate2: the conversion, and an adapter whose encoder and decoder run there, in int8 or float32.

CTranslate2 reads a text again for each candidate that it scores, so as few are scored as their numbers allow. Two are
scored at once. Of more, one greedy pass gives the exact log-probability of the answer that the model would write, and a
bound for every other: the probability of its tokens as far as the greedy path goes with it, and one more. Only those
whose bound is not negligible beside the best one are scored, so that a sure student reads a text once however many
labels there are. Each row's answer follows from its own numbers. Rounding to int8 is a token's own (CTranslate2 scales
each row of activations by itself), so that nothing depends on what shares a batch.

Knows no templates, reasons or files other than its own folder; gradients do not exist here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import torch
from torch import nn

from understudy.errors import ModelError
from understudy.models.base import Adapter, Written
from understudy.models.passes import in_batches
from understudy.models.seq2seq import Seq2SeqAdapter
from understudy.models.text import Encoded, bounded_target
from understudy.models.writer import Target
from understudy.schemas import TaskSpec

__all__ = ["Adapted", "Model", "convert", "problem"]

DIRECT = 2
"""So few candidates are scored at once: a greedy pass before would save nothing where both could be meant."""

GREEDY_STEPS = 4
"""Tokens of the greedy pass over candidates: enough to tell labels apart, and each step's logits are a vocabulary."""

PASS_TOKENS = 512
"""Padded tokens of a pass at most: a text by itself leaves a core idle, and much more does not fit its caches."""

NEGLIGIBLE = math.log(1e-5)
"""A candidate that cannot have this share of the best one's probability is reported at its bound, unscored."""


def problem(adapter: Adapter) -> str | None:
    """Why this model cannot be converted; None where it can."""
    if (kind := adapter.model.config.model_type) != "t5":
        return f"CTranslate2 is for T5 students, and this one is of the kind {kind}"
    if adapter.form != "label":
        return f"its answers have the form {adapter.form}, which only the reference engine asks for"
    return None


def convert(adapter: Adapter, folder: Path, precision: str) -> None:
    """Write the model's weights as CTranslate2 reads them; tokens are called by their numbers, so none is ambiguous."""
    from ctranslate2.converters.transformers import T5Loader

    config = adapter.model.config
    with torch.no_grad():
        spec = T5Loader().get_model_spec(copy.deepcopy(adapter.model))  # it is quantised in place
    # transformers 5 shares T5's embeddings always, and scales where this says so; the converter of CTranslate2 4.8
    # asks `tie_word_embeddings`, as transformers 4 had it, and would scale the logits of a Flan-T5.
    spec.decoder.scale_outputs = np.dtype("float32").type(config.d_model**-0.5 if config.scale_decoder_outputs else 1)
    names = [str(number) for number in range(config.vocab_size)]
    spec.register_source_vocabulary(names)
    spec.register_target_vocabulary(names)
    spec.config.bos_token = spec.config.decoder_start_token = str(config.decoder_start_token_id)
    spec.config.eos_token = str(adapter.tokenizer.eos_token_id)
    spec.config.unk_token = str(adapter.tokenizer.unk_token_id)
    spec.config.add_source_eos = False  # the adapter's rows end as they should
    spec.validate()
    spec.optimize(quantization=None if precision == "float32" else precision)
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))


class Model(nn.Module):
    """What stands where an adapter has its model: a translator, and the configuration of what it was made from."""

    def __init__(self, folder: Path, config: Any, precision: str, threads: int) -> None:
        super().__init__()
        self.config = config
        try:
            self.translator = ctranslate2.Translator(
                str(folder), device="cpu", compute_type=precision, intra_threads=threads
            )
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"CTranslate2 cannot read {folder.name}: {error}", param="model") from error


class Adapted(Seq2SeqAdapter):
    """Answers as a Seq2SeqAdapter of the form `label` does."""

    def __init__(self, model: Model, tokenizer: Any, task: TaskSpec, max_tokens: int) -> None:
        super().__init__(model, tokenizer, task, max_tokens)
        self.translator = model.translator

    @property
    def _budget(self) -> int:
        """Padded tokens of a pass."""
        return min(self.max_padded_tokens, PASS_TOKENS)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def precision(self) -> str:
        return str(self.translator.compute_type).removesuffix("_float32")

    @property
    def end_ids(self) -> set[int]:
        return {int(self.tokenizer.eos_token_id)}

    def target_likelihoods(self, encoded: Sequence[Encoded], targets: Sequence[Sequence[Target]]) -> list[list[float]]:
        """The log-probability of each text's targets; of those that are out of the question, a bound above it."""
        for row in targets:
            for target in row:
                bounded_target(target.ids, self.max_tokens)

        def read(positions: Sequence[int]) -> list[list[float]]:
            sources = [_names(encoded[i].ids) for i in positions]
            rows = [[target.ids for target in targets[i]] for i in positions]
            negligible = NEGLIGIBLE * max(1.0, self.temperature)  # a high one makes small shares larger
            paths = self._paths(sources, rows)
            return self._score(sources, [_Row(*pair, negligible) for pair in zip(paths, rows, strict=True)])

        return in_batches([len(row.ids) for row in encoded], self._budget, read)

    def _write(self, encoded: Sequence[Encoded], begins: Sequence[list[int]], max_new_tokens: int) -> Sequence[Written]:
        if any(begins):
            raise ModelError("the ct2 engine serves students that write a label alone", param="model")

        def write(positions: Sequence[int]) -> list[Written]:
            found = self._translate([_names(encoded[i].ids) for i in positions], max_new_tokens, return_scores=True)
            ids = [[int(name) for name in one.hypotheses[0]] for one in found]
            texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
            chances = [math.exp(one.scores[0]) for one in found]
            cut = [self.end_ids.isdisjoint(row) for row in ids]
            return [self._fitting(Written(*one)) for one in zip(texts, chances, cut, strict=True)]

        return in_batches(self._read_and_written(encoded, max_new_tokens), self._budget, write)

    def _translate(self, sources: Sequence[Sequence[str]], steps: int, **options: Any) -> list[Any]:
        found: list[Any] = self.translator.translate_batch(
            sources,
            beam_size=1,
            length_penalty=0,  # a score is the sum of the tokens' log-probabilities
            max_input_length=0,
            max_decoding_length=steps,
            min_decoding_length=0,
            return_end_token=True,
            **options,
        )
        return found

    def _paths(self, sources: Sequence[Sequence[str]], rows: Sequence[Sequence[list[int]]]) -> list[_Path]:
        """What the model would write, with every token's log-probability at each step, of rows with many targets."""
        many = [place for place, row in enumerate(rows) if len(row) > DIRECT]
        paths: list[_Path] = [([], []) for _ in rows]
        if many:
            longest = max(len(ids) for place in many for ids in rows[place])
            steps = min(longest, GREEDY_STEPS)
            found = self._translate([sources[place] for place in many], steps, return_logits_vocab=True)
            for place, one in zip(many, found, strict=True):
                written = [int(name) for name in one.hypotheses[0]]
                paths[place] = (written, [_log_softmax(np.array(step)) for step in one.logits[0]])
        return paths

    def _score(self, sources: Sequence[Sequence[str]], rows: Sequence[_Row]) -> list[list[float]]:
        """Score what is still open, in batches over all rows, until no row has anything left that could matter."""
        while pairs := [(place, i) for place, row in enumerate(rows) for i in row.open()]:
            found = self.translator.score_batch(
                [sources[place] for place, _ in pairs],
                [_names(rows[place].targets[i][:-1]) for place, i in pairs],  # it adds the end by itself
                max_input_length=0,
                max_batch_size=self._budget,
                batch_type="tokens",
            )
            for (place, i), one in zip(pairs, found, strict=True):
                rows[place].settle(i, math.fsum(one.log_probs))
        return [row.values for row in rows]


_Path = tuple[list[int], list[np.ndarray]]
"""The tokens of a greedy answer, and the log-probabilities (V,) of each of its steps."""


class _Row:
    """One text's targets: their log-probabilities, as bounds until they are settled."""

    def __init__(self, path: _Path, targets: Sequence[list[int]], negligible: float) -> None:
        self.targets = targets
        self._negligible = negligible
        self.values: list[float] = []
        self._settled: list[bool] = []
        for ids in targets:
            value, exact = _along(path, ids)
            self.values.append(value)
            self._settled.append(exact)

    def open(self) -> list[int]:
        """The targets that need a pass of their own, as far as is known by now."""
        known = [value for value, settled in zip(self.values, self._settled, strict=True) if settled]
        least = (max(known) if known else max(self.values)) + self._negligible
        return [i for i, value in enumerate(self.values) if not self._settled[i] and value >= least]

    def settle(self, i: int, value: float) -> None:
        self.values[i] = value
        self._settled[i] = True


def _along(path: _Path, ids: Sequence[int]) -> tuple[float, bool]:
    """A target's log-probability as far as the greedy path goes with it and one step more, and whether that is all."""
    total = 0.0
    for place, (token, written, step) in enumerate(zip(ids, *path, strict=False)):
        total += float(step[token])
        if place == len(ids) - 1:
            return total, True
        if token != written:
            break
    return total, False


def _names(ids: Sequence[int]) -> list[str]:
    return [str(number) for number in ids]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64).reshape(-1)
    top = wide.max()
    return wide - (top + math.log(np.exp(wide - top).sum()))
