"""From a model reference to something that runs, and back to a folder: load, create, save, fingerprint.

A reference is an artifact id or alias, `scratch:<family>-<layers>x<width>`, a local folder, or a hub name. Weights are
read from safetensors only and code that comes with a model is never run. Knows nothing of attribution or training.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar
from weakref import WeakKeyDictionary

import torch
import transformers
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from understudy.artifacts import ArtifactStore
from understudy.errors import ArtifactNotFound, InvalidRequest, ModelError, ModelNotFound
from understudy.models.base import Adapter
from understudy.models.causal import CausalAdapter
from understudy.models.classifier import ClassifierAdapter
from understudy.models.encoder_classifier import EncoderClassifier, EncoderClassifierConfig
from understudy.models.scratch import FAMILIES, PREFIX, build_config, corpus, parse_scratch, train_tokenizer
from understudy.models.seq2seq import Seq2SeqAdapter
from understudy.schemas import TaskSpec

__all__ = [
    "ModelCard",
    "adapt",
    "adapter_class",
    "architecture",
    "architecture_of",
    "create",
    "fingerprint",
    "load_adapter",
    "load_card",
    "load_task",
    "save",
]

M = TypeVar("M", bound=BaseModel)
Architecture = Literal["seq2seq", "causal", "classifier"]

DEFAULT_WINDOW = 512
"""Tokens of a text where nobody asked for another bound: a decoder's own window would make one request cost a day."""

_ADAPTERS: dict[str, type[Adapter]] = {
    "seq2seq": Seq2SeqAdapter,
    "causal": CausalAdapter,
    "classifier": ClassifierAdapter,
}
_LOADERS: dict[str, Any] = {
    "seq2seq": AutoModelForSeq2SeqLM,
    "causal": AutoModelForCausalLM,
    "classifier": AutoModelForSequenceClassification,
}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_ARTIFACT = re.compile(r"[a-z]+-[0-9a-f]{24}")
_HASHES: WeakKeyDictionary[Any, str] = WeakKeyDictionary()

# A bar per file is noise in a service's log and in a worker's.
transformers.utils.logging.disable_progress_bar()


class ModelCard(BaseModel):
    """Where a model of ours comes from and how it is asked for reasons: `card.json` beside its weights."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    base_model: str
    recipe: str
    seed: int
    reasons: Literal["gate", "generated", "saliency"] = "saliency"
    explain_template: str | None = None
    top_k: int = 5
    max_tokens: int = DEFAULT_WINDOW
    validation: dict[str, Any] = {}


def architecture(config: PreTrainedConfig) -> Architecture:
    """Which adapter a configuration needs; raises ModelError for what is neither."""
    named = next(iter(config.architectures or []), "")
    kind = type(config)
    writes = kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING
    if config.is_encoder_decoder:
        return "seq2seq"
    if named.endswith(("ForCausalLM", "LMHeadModel")) or (writes and not named.endswith("ForSequenceClassification")):
        return "causal"
    if kind in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING and not writes:
        return "classifier"
    raise ModelError(
        f"{named or kind.__name__} is neither an encoder-decoder, nor a decoder that writes, nor an encoder that "
        "classifies",
        param="model",
    )


def adapter_class(config: PreTrainedConfig) -> type[Adapter]:
    return _ADAPTERS[architecture(config)]


def architecture_of(ref: str, store: ArtifactStore | None = None) -> Architecture:
    """The architecture behind a reference, without its weights."""
    if ref.startswith(PREFIX):
        return FAMILIES[parse_scratch(ref).family]
    return architecture(_config(ref, _place(ref, store)))


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
    if ref.startswith(PREFIX):
        raise ModelNotFound(f"'{ref}' has no weights yet: train it first, or name a trained model", param="model")
    place = _place(ref, store)
    config = _config(ref, place)
    kind = architecture(config)
    tokenizer = _tokenizer(ref, place)
    model = _weights(ref, place, config, _LOADERS[kind], dtype).to(_device(device))
    folder = Path(place)
    card = load_card(folder)
    asked = max_tokens or (card.max_tokens if card else None)
    return adapt(model, tokenizer, task or load_task(folder) or _default_task(kind, config), asked)


def adapt(model: Any, tokenizer: Any, task: TaskSpec, max_tokens: int | None = None) -> Adapter:
    """The adapter of a model in memory, which it freezes and puts in eval mode."""
    return adapter_class(model.config)(model, tokenizer, task, _window(model.config, tokenizer, max_tokens))


def create(
    ref: str,
    *,
    store: ArtifactStore | None,
    task: TaskSpec,
    texts: Sequence[str],
    targets: Sequence[str],
    seed: int,
    pooling: Literal["mean", "gate"] = "mean",
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """What is to be trained: a scratch model, or a pretrained one, a classifier's head fresh in either case.

    All weights that are drawn depend on `seed` alone; the caller's random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if ref.startswith(PREFIX):
            model, tokenizer = _create_scratch(ref, task, texts, targets, pooling)
        else:
            model, tokenizer = _create_pretrained(ref, _place(ref, store), task, pooling)
    return model.requires_grad_(True), tokenizer


def save(model: Any, tokenizer: Any, task: TaskSpec, card: ModelCard, folder: Path) -> None:
    """Write the folder that `load_adapter` reads and that is published as an artifact."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "task.json").write_text(task.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (folder / "card.json").write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")


def fingerprint(adapter: Adapter) -> str:
    """16 hex digits over all that an answer depends on: weights, tokenizer, configuration, template, labels, window."""
    if adapter.model not in _HASHES:
        _HASHES[adapter.model] = _hash_model(adapter.model, adapter.tokenizer)
    parts = [_HASHES[adapter.model], adapter.task.model_dump_json(), str(adapter.max_tokens)]
    return hashlib.sha256("\n".join(parts).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _hash_model(model: Any, tokenizer: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())
    # Padding and truncation are state of the last call, not of the tokenizer.
    kept = {name: value for name, value in vocabulary.items() if name not in ("padding", "truncation")}
    config = {k: v for k, v in model.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    digest.update(json.dumps([kept, config], sort_keys=True, default=str).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _place(ref: str, store: ArtifactStore | None) -> str:
    """The local folder or the hub name that a reference stands for; raises ModelNotFound."""
    if store is not None:
        try:
            return str(store.folder(store.resolve(ref)))
        except ArtifactNotFound as error:
            missing = error.message
    else:
        missing = f"'{ref}' was not looked up as an artifact, because no store is configured"
    path = Path(ref).expanduser()
    if (path / "config.json").is_file():
        return str(path)
    if _ARTIFACT.fullmatch(ref):
        raise ModelNotFound(f"no model '{ref}': {missing}", param="model")
    if path.exists() or not _HUB_NAME.fullmatch(ref):
        why = "has no config.json" if path.exists() else "does not exist"
        raise ModelNotFound(f"no model '{ref}': as a folder it {why}, and {missing}", param="model")
    return ref


def _not_found(ref: str, error: Exception) -> ModelNotFound:
    reason = str(error).strip().split("\n")[0][:300]
    return ModelNotFound(
        f"no model '{ref}': it is no artifact, alias or folder, and as a hub name it could not be read ({reason}). "
        f"Give an artifact id, an alias, a folder with config.json and model.safetensors, or a hub name",
        param="model",
    )


def _config(ref: str, place: str) -> PreTrainedConfig:
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    except OSError as error:
        raise _not_found(ref, error) from error
    except (ValueError, KeyError) as error:  # an unknown model type, or one whose code comes with it
        raise ModelError(
            f"'{ref}' cannot be used: {str(error).strip().splitlines()[0][:300]}", param="model"
        ) from error
    # A configuration may name attention kernels to be fetched and run; the choice is ours.
    config._attn_implementation = None
    return config


def _tokenizer(ref: str, place: str) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except OSError as error:
        raise _not_found(ref, error) from error
    if not tokenizer.is_fast:
        raise ModelError(f"the tokenizer of '{ref}' reports no offsets: save it as tokenizer.json", param="model")
    return tokenizer


def _weights(ref: str, place: str, config: PreTrainedConfig, loader: Any, dtype: str = "float32") -> Any:
    try:
        return loader.from_pretrained(place, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    except OSError as error:
        raise _not_found(ref, error) from error
    except SafetensorError as error:
        raise ModelError(f"the weights of '{ref}' cannot be read: {error}", param="model") from error


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _window(config: PreTrainedConfig, tokenizer: Any, asked: int | None) -> int:
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


def _classifier(encoder: PreTrainedConfig, task: TaskSpec, pooling: Literal["mean", "gate"]) -> EncoderClassifier:
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
    ref: str, task: TaskSpec, texts: Sequence[str], targets: Sequence[str], pooling: Literal["mean", "gate"]
) -> tuple[Any, Any]:
    scratch = parse_scratch(ref)
    tokenizer = train_tokenizer(scratch.family, corpus(texts, targets, task.template))
    config = build_config(scratch, tokenizer)
    kind = FAMILIES[scratch.family]
    model = _classifier(config, task, pooling) if kind == "classifier" else _LOADERS[kind].from_config(config)
    return model, tokenizer


def _create_pretrained(ref: str, place: str, task: TaskSpec, pooling: Literal["mean", "gate"]) -> tuple[Any, Any]:
    config = _config(ref, place)
    tokenizer = _tokenizer(ref, place)
    kind = architecture(config)
    if kind != "classifier":
        return _weights(ref, place, config, _LOADERS[kind]), tokenizer
    base = _weights(ref, place, config, AutoModel)
    encoder = base.encoder if isinstance(base, EncoderClassifier) else base
    model = _classifier(encoder.config, task, pooling)
    model.encoder = encoder
    return model, tokenizer


def _read(kind: type[M], path: Path) -> M | None:
    if not path.is_file():
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ModelError(f"{path.name} cannot be read: {error.errors()[0]['msg']}", param="model") from error
