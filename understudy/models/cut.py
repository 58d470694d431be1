"""Students cut from a trained model: some of its layers, all of the rest, optionally fewer tokens.

Layers are kept at even distances, the first and the last among them, as DistilBERT (Sanh et al. 2019, arXiv 1910.01108,
section 3: one layer out of two) and shrink-and-fine-tune (Shleifer and Rush 2020, arXiv 2010.13002, section 3.1:
maximally spaced layers, and few in the decoder) do; embeddings, norms and heads are copied. Knows nothing of tasks,
references or files. Draws nothing: equal models give equal students.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from understudy.errors import InvalidRequest, ModelError
from understudy.models.encoder_classifier import EncoderClassifierConfig, drop_pooler
from understudy.models.names import Cut

__all__ = ["cut_model", "kept_layers", "layer_counts", "named_ids"]

_ONLY = ("num_hidden_layers", "num_layers", "encoder_layers", "n_layer", "n_layers")
_DECODER = ("num_decoder_layers", "decoder_layers")
_SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")


@dataclass(frozen=True)
class _Stack:
    """One stack of `size` layers: its module's `path`, and what a configuration may call its size."""

    path: str
    size: int
    fields: tuple[str, ...]


def kept_layers(size: int, count: int) -> list[int]:
    """Which `count` of `size` layers are kept: evenly spread from the first to the last; a single one is the first.

    >>> kept_layers(12, 6), kept_layers(12, 3), kept_layers(12, 1)
    ([0, 2, 4, 7, 9, 11], [0, 6, 11], [0])
    """
    if count == 1:
        return [0]
    return [(2 * place * (size - 1) + count - 1) // (2 * (count - 1)) for place in range(count)]


def cut_model(model: Any, cut: Cut, kept: Sequence[int] | None = None) -> Any:
    """A model of the same class with fewer layers, and with the tokens `kept` alone (new id -> old id) where given.

    `model` is an encoder, a decoder that writes, or an encoder-decoder; it is left as it was. The first layer is always
    kept: T5 has its relative positions there. Raises InvalidRequest where there are fewer layers than asked for, and
    ModelError for a model whose layers are no plain stack.
    """
    stacks = _stacks(model)
    counts = layer_counts(model.config, cut)
    layers = [kept_layers(stack.size, count) for stack, count in zip(stacks, counts, strict=True)]
    config = copy.deepcopy(model.config)
    for stack, keep in zip(stacks, layers, strict=True):
        _shorten(config, stack, keep, alone=len(stacks) == 1)
    if kept is not None:
        config.vocab_size = len(kept)
        _renumber(config, kept)
    # Built anew, so that whatever the layers derive from their place (cache indices, kinds of attention) is right.
    student = type(model)(config)
    if getattr(model, "pooler", model) is None:
        drop_pooler(student)
    weights = _moved(model.state_dict(), {s.path: keep for s, keep in zip(stacks, layers, strict=True)})
    if kept is not None:
        weights |= _sliced(model, weights, kept)
    student.load_state_dict(weights)
    if getattr(model, "generation_config", None) is not None:
        student.generation_config = copy.deepcopy(model.generation_config)
        if kept is not None:
            _renumber(student.generation_config, kept)
    return student.train(model.training)


def layer_counts(config: Any, cut: Cut) -> list[int]:
    """Layers that are kept: of the only stack, or of encoder and decoder. Needs no weights.

    A decoder that is not asked about keeps as many as the encoder, or all it has. Raises InvalidRequest where there are
    fewer layers than asked for, or no decoder beside the one stack.
    """
    sizes = _sizes(config)
    wanted = [cut.layers]
    if len(sizes) == 2:
        wanted.append(cut.decoder_layers or min(cut.layers, sizes[1]))
    elif cut.decoder_layers:
        raise InvalidRequest(
            f"the model has one stack of {sizes[0]} layers and no decoder beside it: write cut:{cut.layers}, "
            f"not cut:{cut.layers}x{cut.decoder_layers}",
            param="model",
        )
    for name, size, count in zip(("encoder", "decoder"), sizes, wanted, strict=False):
        if count > size:
            where = f"{name} of the model" if len(sizes) == 2 else "model"
            raise InvalidRequest(
                f"{count} layers cannot be kept: the {where} has {size}. Ask for at most that", param="model"
            )
    return wanted


def _sizes(config: Any) -> list[int]:
    if isinstance(config, EncoderClassifierConfig):
        return _sizes(config.encoder)
    if not config.is_encoder_decoder:
        return [config.num_hidden_layers]
    return [config.num_hidden_layers, next(getattr(config, name) for name in _DECODER if hasattr(config, name))]


def named_ids(config: Any) -> set[int]:
    """The tokens that a configuration names: where a text begins and ends, and the like."""
    return {number for _, ids in _ids(config) for number in ids}


def _stacks(model: Any) -> list[_Stack]:
    sizes = _sizes(model.config)
    if len(sizes) == 1:
        return [_stack(model, "", sizes[0], _ONLY)]
    paths = {id(module): path for path, module in model.named_modules()}
    return [
        _stack(model, f"{paths[id(model.get_encoder())]}.", sizes[0], _ONLY),
        _stack(model, f"{paths[id(model.get_decoder())]}.", sizes[1], _DECODER),
    ]


def _stack(model: Any, inside: str, size: int, fields: tuple[str, ...]) -> _Stack:
    """The outermost list of so many modules."""
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == size and path.startswith(inside):
            return _Stack(path, size, fields)
    raise ModelError(f"{type(model).__name__} has no plain stack of {size} layers that could be cut", param="model")


def _shorten(config: Any, stack: _Stack, keep: Sequence[int], *, alone: bool) -> None:
    """Write the new number of layers, and what the configuration says of each layer (kinds of attention)."""
    if alone:
        for name, value in list(vars(config).items()):
            if "layer" in name and isinstance(value, list | tuple) and len(value) == stack.size:
                setattr(config, name, [value[layer] for layer in keep])
    for name in stack.fields:
        if getattr(config, name, None) == stack.size:
            setattr(config, name, len(keep))


def _moved(weights: Mapping[str, Tensor], layers: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The weights that are kept, under the names that their layers have in the student."""
    moved = dict(weights)
    for path, keep in layers.items():
        places = {f"{path}.{old}.": f"{path}.{new}." for new, old in enumerate(keep)}
        inside = f"{path}."
        renamed = {}
        for name, tensor in moved.items():
            head = f"{inside}{name.removeprefix(inside).partition('.')[0]}."
            if not name.startswith(inside):
                renamed[name] = tensor
            elif head in places:
                renamed[places[head] + name.removeprefix(head)] = tensor
        moved = renamed
    return moved


def _sliced(model: Any, weights: Mapping[str, Tensor], kept: Sequence[int]) -> dict[str, Tensor]:
    """The tensors with a row, or a column, for each token: embeddings, output layer and what is added to the logits."""
    sliced: dict[str, Tensor] = {}
    for path in _token_modules(model):
        sliced |= {name: weights[name][list(kept)] for name in (f"{path}.weight", f"{path}.bias") if name in weights}
    if "final_logits_bias" in weights:  # BART's: (1, V)
        sliced["final_logits_bias"] = weights["final_logits_bias"][:, list(kept)]
    return sliced


def _token_modules(model: Any) -> Iterator[str]:
    """The paths of the modules that are as large as the vocabulary; tied ones have several."""
    roots = [model, *([model.get_encoder(), model.get_decoder()] if model.config.is_encoder_decoder else [])]
    found = [root.get_input_embeddings() for root in roots]
    if (output := model.get_output_embeddings()) is not None:
        found.append(output)
    ids = {id(module) for module in found}
    yield from (path for path, module in model.named_modules(remove_duplicate=False) if id(module) in ids)


def _ids(config: Any) -> Iterator[tuple[str, list[int]]]:
    for name, value in config.to_dict().items():
        if name.endswith("_token_id") or name in _SUPPRESSED:
            ids = value if isinstance(value, list) else [value]
            if ids and all(isinstance(number, int) for number in ids):
                yield name, ids


def _renumber(config: Any, kept: Sequence[int]) -> None:
    """Give the tokens that a configuration names their new ids; those that are not kept are named no more."""
    numbers = {old: new for new, old in enumerate(kept)}
    for name, ids in _ids(config):
        new = [numbers[number] for number in ids if number in numbers]
        several = isinstance(getattr(config, name), list)
        setattr(config, name, (new or None) if several else next(iter(new), None))
