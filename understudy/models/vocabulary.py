"""Trim a tokenizer to the tokens that matter for some texts: for students cut from models with large vocabularies.

Unigram, BPE and WordPiece models are edited in their JSON form; normaliser, pre-tokenizer and decoder stay. A text
whose tokens are all kept is split exactly as before, and every other text can still be written: with shorter pieces,
down to bytes or single characters. Knows nothing of weights.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from understudy.errors import InvalidRequest, ModelError
from understudy.models.forms import SEPARATORS
from understudy.models.scratch import corpus
from understudy.schemas import TaskSpec

__all__ = ["trim", "trim_for"]

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SPACE = "▁"
_SHARE = 0.25
"""Single characters are all kept where they take no more of the vocabulary than this: Chinese has thousands."""
_CARRIED = ("model_max_length", "padding_side", "truncation_side", "model_input_names", "clean_up_tokenization_spaces")

Closure = Callable[[str], Iterable[str]]


def trim_for(
    tokenizer: Any,
    size: int,
    task: TaskSpec,
    *,
    texts: Sequence[str],
    targets: Sequence[str],
    ids: Iterable[int] = (),
) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """Trim to a task: first come its template, its labels and what training writes around them. As `trim`."""
    around = [*corpus((), task.labels, task.template), "explain: ", *SEPARATORS.values()]
    behind = [f" {word}" for word in (*task.labels, *SEPARATORS.values())]  # other pieces, in a byte-level vocabulary
    return trim(tokenizer, size, texts=[*texts, *targets], must=[*around, *behind], ids=ids)


def trim(
    tokenizer: Any, size: int, *, texts: Sequence[str], must: Sequence[str] = (), ids: Iterable[int] = ()
) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """A tokenizer of at most `size` tokens, and the old id of each new one: `kept[new] == old`.

    Kept are, as far as they fit: added and special tokens, those with an id in `ids`, bytes, and ASCII and the
    characters that occur (these always, and all single characters where they are few); then the tokens of the texts in
    `must`, then those of `texts`, the most frequent first; then what the tokenizer itself ranks highest. Raises
    InvalidRequest where `size` is less than what is always kept, and ModelError for a kind of tokenizer that cannot be
    trimmed.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model = state["model"]
    if model["type"] not in ("Unigram", "BPE", "WordPiece") or model.get("end_of_word_suffix"):
        raise ModelError(
            f"a vocabulary of the kind {model['type']} cannot be trimmed: leave out v<tokens>", param="model"
        )
    pieces = _pieces(model)
    added = {one["content"]: one["id"] for one in state["added_tokens"]}
    ranked = [*_by_frequency(tokenizer, must), *_by_frequency(tokenizer, texts)]
    names = {number: name for name, number in (pieces | added).items()}
    seen = [names[number] for number in dict.fromkeys(ranked)]
    closure = _merged_from(model, pieces) if model["type"] == "BPE" else _alone
    alphabet = [name for name in pieces if _is_letter(name, model)]
    kept = {name for number in ids if (name := names.get(number)) and name not in added}
    kept |= {part for name in kept for part in closure(name)} | set(added)
    kept |= set(alphabet) if len(alphabet) <= _SHARE * size else _occurring(alphabet, seen, state)
    if model.get("unk_token") in pieces:
        kept.add(model["unk_token"])
    if model["type"] == "Unigram" and model["unk_id"] is not None:
        kept.add(names[model["unk_id"]])
    if len(kept) > size:
        raise InvalidRequest(
            f"a vocabulary of {size} is too small: special tokens and single characters alone are {len(kept)}",
            param="model",
        )
    for name in (*seen, *alphabet, *_by_rank(model, pieces)):
        more = {name, *closure(name)} - kept
        if len(kept) + len(more) <= size:
            kept |= more
    return _rebuilt(tokenizer, state, kept)


def _pieces(model: dict[str, Any]) -> dict[str, int]:
    if model["type"] == "Unigram":
        return {piece: number for number, (piece, _) in enumerate(model["vocab"])}
    return dict(model["vocab"])


def _by_frequency(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """The ids of the texts' tokens, the most frequent first; ties by id."""
    if not texts:
        return []
    rows = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    counts = Counter(number for row in rows for number in row)
    return sorted(counts, key=lambda number: (-counts[number], number))


def _by_rank(model: dict[str, Any], pieces: dict[str, int]) -> list[str]:
    """All pieces as the tokenizer ranks them: by score, or in the order in which they were learned."""
    if model["type"] == "Unigram":
        return [piece for piece, _ in sorted(model["vocab"], key=lambda item: (-item[1], item[0]))]
    return sorted(pieces, key=pieces.__getitem__)


def _is_letter(name: str, model: dict[str, Any]) -> bool:
    """Whether a piece is a byte or a single character."""
    return bool(_BYTE.fullmatch(name)) or len(_bare(name, model)) == 1


def _bare(name: str, model: dict[str, Any]) -> str:
    """A piece without the mark that it goes on a word."""
    return name.removeprefix(model.get("continuing_subword_prefix") or "")


def _occurring(alphabet: Sequence[str], seen: Sequence[str], state: dict[str, Any]) -> set[str]:
    """Bytes, ASCII and the characters of the tokens that are used; all where characters stand for bytes."""
    if '"ByteLevel"' in json.dumps([state["pre_tokenizer"], state["normalizer"]]):
        return set(alphabet)
    letters = {*string.ascii_letters, *string.digits, *string.punctuation, _SPACE, *"".join(seen)}
    return {name for name in alphabet if _BYTE.fullmatch(name) or _bare(name, state["model"]) in letters}


def _alone(_: str) -> Iterator[str]:
    return iter(())


def _merged_from(model: dict[str, Any], pieces: dict[str, int]) -> Closure:
    """What a BPE piece is merged from, step by step: without these it could not be reached.

    The merges inside a piece do not depend on what stands around it, so a piece is derived as a text of its own.
    """
    prefix = model.get("continuing_subword_prefix") or ""
    ranks = {pair: rank for rank, pair in enumerate(_merges(model))}

    def parts(name: str) -> Iterator[str]:
        symbols = [letter if i == 0 else prefix + letter for i, letter in enumerate(name)]
        if _BYTE.fullmatch(name):
            return
        yield from (symbol for symbol in symbols if symbol in pieces)
        while len(symbols) > 1:
            rank, place = min((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(pairwise(symbols)))
            if rank == len(ranks):
                return
            symbols[place : place + 2] = [symbols[place] + symbols[place + 1].removeprefix(prefix)]
            yield symbols[place]

    return parts


def _merges(model: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for pair in model["merges"]:
        left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
        yield left, right


def _rebuilt(tokenizer: Any, state: dict[str, Any], kept: set[str]) -> tuple[PreTrainedTokenizerFast, list[int]]:
    model = state["model"]
    pieces = _pieces(model)
    outside = {one["content"]: one["id"] for one in state["added_tokens"] if one["content"] not in pieces}
    # The library numbers tokens that are no pieces of the model behind those that are.
    names = sorted(kept & set(pieces), key=pieces.__getitem__) + sorted(outside, key=outside.__getitem__)
    numbers = {name: number for number, name in enumerate(names)}
    if model["type"] == "Unigram":
        unknown = None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]
        model["vocab"] = [entry for entry in model["vocab"] if entry[0] in kept]
        model["unk_id"] = None if unknown is None else numbers[unknown]
    else:
        model["vocab"] = {name: number for name, number in numbers.items() if name in pieces}
    if model["type"] == "BPE":
        prefix = model.get("continuing_subword_prefix") or ""
        model["merges"] = [
            [left, right] for left, right in _merges(model) if {left, right, left + right.removeprefix(prefix)} <= kept
        ]
    for one in state["added_tokens"]:
        one["id"] = numbers[one["content"]]
    state["added_tokens"].sort(key=lambda one: one["id"])
    _renumber(state["post_processor"], numbers)
    state["padding"] = state["truncation"] = None
    special = dict(tokenizer.special_tokens_map)
    trimmed = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        **{name: getattr(tokenizer, name) for name in _CARRIED if hasattr(tokenizer, name)},
        **{name: token for name, token in special.items() if isinstance(token, str)},
        extra_special_tokens=list(getattr(tokenizer, "extra_special_tokens", None) or ()),
        chat_template=getattr(tokenizer, "chat_template", None),
    )
    olds = pieces | outside
    return trimmed, [olds[name] for name in names]


def _renumber(processor: Any, numbers: dict[str, int]) -> None:
    """Write the new ids into a post-processor, wherever it names a token."""
    if not isinstance(processor, dict):
        return
    for inner in processor.get("processors", ()):
        _renumber(inner, numbers)
    for token in (processor.get("special_tokens") or {}).values():
        token["ids"] = [numbers[name] for name in token["tokens"]]
    for side in ("sep", "cls"):
        if side in processor:
            processor[side] = [processor[side][0], numbers[processor[side][0]]]
