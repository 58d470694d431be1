"""How a student names its reasons: one function for each kind, from inputs to predictions with words.

`gate` reads them off the gate on each token, `generated` takes them from what the model writes, beside its label or in
the explanation's template, and `saliency` computes them as a teacher's would be. Words are always spans of the input.
Knows nothing of files.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

import torch

from understudy.attribution.aggregate import word_scores
from understudy.attribution.attribute import as_prediction, attribute
from understudy.attribution.rationale import top_words
from understudy.attribution.words import word_spans
from understudy.batching import plan_batches
from understudy.errors import ModelError
from understudy.models.base import Adapter, Answer, Batch, likeliest
from understudy.models.load import ModelCard
from understudy.models.writer import Writer
from understudy.registry import Registry
from understudy.schemas import AttributionExample, AttributionOptions, Prediction, PredictionInput, Word

__all__ = ["REASONS", "Explainer", "answer", "match_words"]

Explainer = Callable[[Adapter, ModelCard, Sequence[PredictionInput], int], list[Prediction]]
"""(adapter, card, inputs, top_k) -> predictions with words, in the order of the inputs."""

REASONS: Registry[Explainer] = Registry("kind of reasons")


def answer(adapter: Adapter, inputs: Sequence[PredictionInput]) -> list[Prediction]:
    """Answers without reasons."""
    texts = [row.input for row in inputs]
    return _predictions(adapter, inputs, adapter.answers(texts, [row.choices for row in inputs]))


@REASONS.register("gate")
@torch.inference_mode()
def _gate(adapter: Adapter, _: ModelCard, inputs: Sequence[PredictionInput], top_k: int) -> list[Prediction]:
    """A word scores the mean of its tokens' probabilities to belong to a reason, which is what the gate was taught.

    A classifier gives its label in the same pass; a model that writes is asked for its answer, and its encoder alone
    for the gates.
    """
    texts = [row.input for row in inputs]
    classes: dict[str, int] = getattr(adapter, "label_ids", {})
    written = [] if classes else answer(adapter, inputs)
    reader = adapter.model if classes else adapter.model.get_encoder()
    closed = [{name: classes[name] for name in row.choices or classes} if classes else {"": 0} for row in inputs]
    found: dict[int, Prediction] = {}
    for positions in plan_batches(adapter.lengths(texts), adapter.max_padded_tokens):
        batch = adapter.encode([texts[i] for i in positions], [next(iter(closed[i])) for i in positions])
        output = reader(input_ids=batch.ids, attention_mask=batch.mask)
        if getattr(output, "gate_logits", None) is None:
            raise ModelError("this model's card says that it has a gate, and it has none")
        gates = output.gate_logits.float().sigmoid().tolist()  # (B, T)
        for row, i in enumerate(positions):
            words = top_words(_gated(batch, row, gates[row]), top_k)
            if written:
                found[i] = written[i].model_copy(update={"words": words})
            else:
                found[i] = _prediction(
                    inputs[i], _among(closed[i], output.logits[row], adapter.temperature), batch.truncated[row], words
                )
    return [found[i] for i in range(len(inputs))]


@REASONS.register("generated")
def _generated(adapter: Adapter, card: ModelCard, inputs: Sequence[PredictionInput], top_k: int) -> list[Prediction]:
    """The student writes its reasons, beside its label or as a second task; each word scores what that text scored.

    The score is the probability of all that was written with the words. Where the label comes first, they are those
    behind the label that was chosen.
    """
    texts = [row.input for row in inputs]
    answers = adapter.answers(texts, [row.choices for row in inputs])
    if isinstance(adapter, Writer) and adapter.form != "label":
        written = adapter.reasons(texts, answers)
    elif card.explain_template is not None:
        written = adapter.generate(texts, template=card.explain_template)
    else:
        raise ModelError("this model's card says that it writes its reasons, and gives no template to ask for them")
    found = []
    for prediction, row, (text, probability, _) in zip(
        _predictions(adapter, inputs, answers), inputs, written, strict=True
    ):
        words, dropped = match_words(row.input, text, probability, top_k)
        found.append(prediction.model_copy(update={"words": words, "dropped_words": dropped}))
    return found


@REASONS.register("saliency")
def _saliency(adapter: Adapter, _: ModelCard, inputs: Sequence[PredictionInput], top_k: int) -> list[Prediction]:
    """The words with the largest gradients of the answer that was given."""
    examples = [AttributionExample(id=row.id, input=row.input, choices=row.choices) for row in inputs]
    explained = attribute(adapter, examples, AttributionOptions(top_k=top_k), field="inputs")
    return [as_prediction(one) for one in explained]


def match_words(text: str, written: str, score: float, most: int) -> tuple[tuple[Word, ...], int]:
    """Find the first `most` words of `written` that `text` has: spans in reading order, and how many it lacks.

    What was written behind them counts for nothing, found or not: the share that is not there is that of these words.
    A word that is written twice is two places of the text. The search goes on behind the last word that was found,
    and starts over where there is none: the student was taught to write in reading order.
    """
    places: dict[str, list[tuple[int, int]]] = {}
    for start, end in word_spans(text):
        places.setdefault(_form(text[start:end]), []).append((start, end))
    chosen: list[tuple[int, int]] = []
    dropped = 0
    for start, end in word_spans(written):
        if len(chosen) == most:
            break
        free = places.get(_form(written[start:end]), [])
        if not free:
            dropped += 1
            continue
        behind = chosen[-1][1] if chosen else 0
        span = next((span for span in free if span[0] >= behind), free[0])
        free.remove(span)
        chosen.append(span)
    return tuple(
        Word(text=text[start:end], start=start, end=end, score=score) for start, end in sorted(chosen)
    ), dropped


def _form(word: str) -> str:
    """Tokenizers may fold case and compatibility forms; what they read is still the word that was meant."""
    return unicodedata.normalize("NFKC", word).casefold()


def _predictions(adapter: Adapter, inputs: Sequence[PredictionInput], answers: Sequence[Answer]) -> list[Prediction]:
    """Answers as predictions without words."""
    cuts = [row.truncated for row in adapter.tokenize([row.input for row in inputs])]
    return [_prediction(row, found, cut) for row, found, cut in zip(inputs, answers, cuts, strict=True)]


def _prediction(
    row: PredictionInput, answer: Answer, truncated: int, words: tuple[Word, ...] | None = None
) -> Prediction:
    return Prediction(
        id=row.id,
        label=answer.text,
        probability=answer.probability,
        probabilities=answer.probabilities,
        words=words,
        truncated=truncated,
        unfinished=answer.unfinished,
    )


def _among(classes: dict[str, int], logits: torch.Tensor, temperature: float) -> Answer:
    """The likeliest of the candidate labels, probabilities normalised over them."""
    return likeliest(list(classes), logits.double()[list(classes.values())].tolist(), temperature)


def _gated(batch: Batch, row: int, gates: Sequence[float]) -> list[Word]:
    """Every word that was read; those past the window have no token and no score."""
    text, tokens = batch.texts[row], batch.offsets[row]
    spans = word_spans(text)
    sums = word_scores(spans, tokens, gates)
    counts = word_scores(spans, tokens, [1.0] * len(tokens))
    return [
        Word(text=text[start:end], start=start, end=end, score=total / count)
        for (start, end), total, count in zip(spans, sums, counts, strict=True)
        if count > 0
    ]
