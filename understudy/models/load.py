"""From a model reference to something that runs, and back to a folder: load, create, save, fingerprint.

A reference is an artifact id or alias, `scratch:<family>-<layers>x<width>`, `cut:<layers>@<model>`, a local folder, or
a hub name. Weights are read from safetensors only and code that comes with a model is never run. Knows nothing of
attribution or training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from understudy.artifacts import ArtifactStore
from understudy.errors import InvalidRequest, ModelError, ModelNotFound
from understudy.models.base import ANSWER_TOKENS, Adapter
from understudy.models.causal import CausalAdapter
from understudy.models.classifier import ClassifierAdapter
from understudy.models.cut import cut_model, named_ids
from understudy.models.device import pick_device
from understudy.models.encoder_classifier import EncoderClassifier, EncoderClassifierConfig, Pooling, drop_pooler
from understudy.models.fingerprint import fingerprint
from understudy.models.forms import Form
from understudy.models.gated_seq2seq import gated
from understudy.models.names import CUT, base_of, is_cut, parse_cut
from understudy.models.scratch import FAMILIES, PREFIX, build_config, corpus, parse_scratch, train_tokenizer
from understudy.models.seq2seq import Seq2SeqAdapter
from understudy.models.source import LOADERS, Architecture, Source, architecture, architecture_of
from understudy.models.vocabulary import trim_for
from understudy.schemas import Reasons, TaskSpec

__all__ = [
    "Architecture",
    "ModelCard",
    "adapt",
    "adapter_class",
    "architecture",
    "architecture_of",
    "as_trained",
    "create",
    "fingerprint",
    "load_adapter",
    "load_card",
    "load_task",
    "save",
    "window",
]

M = TypeVar("M", bound=BaseModel)

DEFAULT_WINDOW = 512
"""Tokens of a text where nobody asked for another bound: a decoder's own window would make one request cost a day."""

_ADAPTERS: dict[str, type[Adapter]] = {
    "seq2seq": Seq2SeqAdapter,
    "causal": CausalAdapter,
    "classifier": ClassifierAdapter,
}


class ModelCard(BaseModel):
    """Where a model of ours comes from and how it is asked for reasons: `card.json` beside its weights.

    `answer_tokens` bounds what it writes, by the targets that it was trained on. `temperature` was fitted when it was
    published, so that its probabilities say how often it is right.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    base_model: str
    recipe: str
    seed: int
    reasons: Reasons = "saliency"
    form: Form = "label"
    explain_template: str | None = None
    top_k: int = 5
    max_tokens: int = DEFAULT_WINDOW
    answer_tokens: int = Field(default=ANSWER_TOKENS, ge=1)
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    validation: dict[str, Any] = {}


def adapter_class(config: PreTrainedConfig) -> type[Adapter]:
    return _ADAPTERS[architecture(config)]


def load_card(folder: Path) -> ModelCard | None:
    return _read(ModelCard, folder / "card.json")


def load_task(folder: Path) -> TaskSpec | None:
    return _read(TaskSpec, folder / "task.json")


def load_adapter(
    ref: str,
    *,
    store: ArtifactStore | None = None,
    task: TaskSpec | None = None,
    device: str = "auto",
    max_tokens: int | None = None,
    dtype: str = "float32",
) -> Adapter:
    """Load a model to be asked: frozen, in eval mode, sdpa attention where the architecture has it.

    `task` defaults to the folder's `task.json`, else for a classifier to its labels, else to generation. Raises
    ModelNotFound, or ModelError for a model that cannot be used.
    """
    if ref.startswith((PREFIX, CUT)):
        raise ModelNotFound(f"'{ref}' has no weights yet: train it first, or name a trained model", param="model")
    source = Source.find(ref, store)
    config = source.config()
    kind = architecture(config)
    tokenizer = source.tokenizer()
    model = source.weights(config, LOADERS[kind], dtype=dtype, device=pick_device(device))
    folder = Path(source.place)
    card = load_card(folder)
    asked = max_tokens or (card.max_tokens if card else None)
    adapter = adapt(model, tokenizer, task or load_task(folder) or _default_task(kind, config), asked)
    return as_trained(adapter, card) if card else adapter


def as_trained(adapter: Adapter, card: ModelCard) -> Adapter:
    """The model asked as its card says. Shares the weights."""
    adapter = adapter.with_form(card.form).with_temperature(card.temperature)
    return adapter.with_answer_tokens(card.answer_tokens)


def adapt(model: Any, tokenizer: Any, task: TaskSpec, max_tokens: int | None = None) -> Adapter:
    """The adapter of a model in memory, which it freezes and puts in eval mode."""
    return adapter_class(model.config)(model, tokenizer, task, window(model.config, tokenizer, max_tokens))


def create(
    ref: str,
    *,
    store: ArtifactStore | None,
    task: TaskSpec,
    texts: Sequence[str],
    targets: Sequence[str],
    seed: int,
    pooling: Pooling = "mean",
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """What is to be trained: a scratch model, a pretrained one, or one cut from another.

    A classifier's head is fresh, except where it is cut from a classifier of ours with the same labels: that head comes
    with it, as all that is no layer does. Whoever trains asks for the gate, so that is always fresh.

    All weights that are drawn depend on `seed` alone; the caller's random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if ref.startswith(PREFIX):
            model, tokenizer = _create_scratch(ref, task, texts, targets, pooling)
        elif is_cut(ref):
            model, tokenizer = _create_cut(ref, store, task, texts, targets, pooling)
        else:
            model, tokenizer = _create_pretrained(Source.find(ref, store), task, pooling)
    if pooling == "gate" and architecture(model.config) == "seq2seq":
        model = gated(model)
    return model.requires_grad_(True), tokenizer


def save(model: Any, tokenizer: Any, task: TaskSpec, card: ModelCard, folder: Path) -> None:
    """Write the folder that `load_adapter` reads and that is published as an artifact."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "task.json").write_text(task.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (folder / "card.json").write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")


def window(config: PreTrainedConfig, tokenizer: Any, asked: int | None) -> int:
    """Tokens that a text may take: what was asked for, within what the model has positions for."""
    positions = getattr(config, "encoder", config) if isinstance(config, EncoderClassifierConfig) else config
    limits = [getattr(positions, "max_position_embeddings", None), tokenizer.model_max_length]
    longest = min((int(limit) for limit in limits if limit), default=DEFAULT_WINDOW)
    if asked is not None and asked > longest:
        raise InvalidRequest(f"max_tokens is {asked}, but this model has a window of {longest}", param="max_tokens")
    return min(asked or DEFAULT_WINDOW, longest)


def _default_task(kind: str, config: PreTrainedConfig) -> TaskSpec:
    labels = tuple(str(config.id2label[index]) for index in sorted(config.id2label)) if config.id2label else ()
    if kind == "classifier" and len(labels) > 1:
        return TaskSpec(kind="classification", labels=labels)
    return TaskSpec()


def _classifier(encoder: PreTrainedConfig, task: TaskSpec, pooling: Pooling) -> EncoderClassifier:
    if task.kind != "classification":
        raise InvalidRequest(
            f"an encoder picks one of a closed set of labels and the task is {task.kind}: choose an encoder-decoder",
            param="model",
        )
    config = EncoderClassifierConfig(
        encoder=encoder,
        pooling=pooling,
        id2label=dict(enumerate(task.labels)),
        label2id={label: index for index, label in enumerate(task.labels)},
    )
    return EncoderClassifier(config)


def _create_scratch(
    ref: str, task: TaskSpec, texts: Sequence[str], targets: Sequence[str], pooling: Pooling
) -> tuple[Any, Any]:
    scratch = parse_scratch(ref)
    tokenizer = train_tokenizer(scratch.family, corpus(texts, targets, task.template))
    config = build_config(scratch, tokenizer)
    kind = FAMILIES[scratch.family]
    model = _classifier(config, task, pooling) if kind == "classifier" else LOADERS[kind].from_config(config)
    return model, tokenizer


def _create_pretrained(source: Source, task: TaskSpec, pooling: Pooling) -> tuple[Any, Any]:
    config = source.config()
    tokenizer = source.tokenizer()
    kind = architecture(config)
    if kind != "classifier":
        return source.weights(config, LOADERS[kind]), tokenizer
    base = source.weights(config, AutoModel, whole=False)
    encoder = base.encoder if isinstance(base, EncoderClassifier) else drop_pooler(base)
    model = _classifier(encoder.config, task, pooling)
    model.encoder = encoder
    return model, tokenizer


def _create_cut(
    ref: str,
    store: ArtifactStore | None,
    task: TaskSpec,
    texts: Sequence[str],
    targets: Sequence[str],
    pooling: Pooling,
) -> tuple[Any, Any]:
    cut, source = parse_cut(ref), Source.find(base_of(ref), store)
    config, tokenizer = source.config(), source.tokenizer()
    kind = architecture(config)
    ours = isinstance(config, EncoderClassifierConfig)
    base = source.weights(
        config, AutoModel if kind == "classifier" else LOADERS[kind], whole=kind != "classifier" or ours
    )
    kept = None
    if cut.vocabulary:
        tokenizer, kept = trim_for(
            tokenizer, cut.vocabulary, task, texts=texts, targets=targets, ids=named_ids(base.config)
        )
    if kind != "classifier":
        return cut_model(base, cut, kept), tokenizer
    encoder = cut_model(base.encoder if ours else drop_pooler(base), cut, kept)
    model = _classifier(encoder.config, task, pooling)
    model.encoder = encoder
    if ours and base.config.id2label == model.config.id2label:
        model.head.load_state_dict(base.head.state_dict())
    return model, tokenizer


def _read(kind: type[M], path: Path) -> M | None:
    if not path.is_file():
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ModelError(f"{path.name} cannot be read: {error.errors()[0]['msg']}", param="model") from error
