"""Models from nothing: `scratch:bert-2x128` is two layers of width 128 and a tokenizer trained on the texts at hand.

Equal texts and seeds give equal models. Knows nothing of tasks: heads and labels are the caller's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, Unigram, WordPiece
from transformers import BertConfig, GPT2Config, PreTrainedConfig, PreTrainedTokenizerFast, T5Config

from understudy.models.names import FAMILIES, PREFIX, Scratch, parse_scratch

__all__ = ["FAMILIES", "PREFIX", "Scratch", "build_config", "corpus", "parse_scratch", "train_tokenizer"]

WINDOW = 512
VOCABULARY = 8_000
"""Enough for the words that occur twice in some thousand texts; the embedding table stays below the layers' size."""


def train_tokenizer(family: str, texts: Iterable[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Train the tokenizer that the family is used with on the texts themselves."""
    return _TOKENIZERS[family](texts, vocabulary)


def build_config(scratch: Scratch, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """The family's configuration at this size, for this tokenizer."""
    return _CONFIGS[scratch.family](scratch, tokenizer)


def _wrap(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=WINDOW,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **special,
    )


def _wordpiece(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = _bare_wordpiece(WordPiece(_wordpiece_vocabulary(list(texts), vocabulary, special), unk_token="[UNK]"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", special.index("[CLS]")), ("[SEP]", special.index("[SEP]"))],
    )
    return _wrap(tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def _bare_wordpiece(model: WordPiece) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _wordpiece_vocabulary(texts: Sequence[str], vocabulary: int, special: Sequence[str]) -> dict[str, int]:
    """The trainer numbers `##x` pieces in the order of a hash map and breaks ties by number, so that two runs differ.

    Handing it those pieces in order, as if they were special, makes it deterministic.
    """
    tokenizer = _bare_wordpiece(WordPiece(unk_token="[UNK]"))
    assert tokenizer.normalizer is not None
    letters = sorted({letter for text in texts for letter in tokenizer.normalizer.normalize_str(text)} - {" "})
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[*special, *(f"##{letter}" for letter in letters)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return dict(tokenizer.get_vocab())


def _unigram(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    special = ["<pad>", "</s>", "<unk>"]  # in the order of T5, whose decoder starts with the padding token
    tokenizer = Tokenizer(Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    pieces = json.loads(tokenizer.to_str())["model"]["vocab"]
    pieces = [*pieces[: len(special)], *_settled(pieces[len(special) :])]
    tokenizer.model = Unigram([(piece, score) for piece, score in pieces], unk_id=special.index("<unk>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", special.index("</s>"))]
    )
    return _wrap(tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def _settled(pieces: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """The trained pieces without what differs between two runs of the trainer.

    It adds floats in any order, so the last digits differ. And letters that are no piece of their own get the lowest
    score plus 0.0001, 0.0002, ... in the order of a hash map: they all get the lowest score here.
    """
    lowest = min(score for _, score in pieces)
    reach = lowest + 1e-4 * sum(len(piece) == 1 for piece, _ in pieces)
    even = [(piece, round(lowest if len(piece) == 1 and score < reach else score, 6)) for piece, score in pieces]
    return sorted(even, key=lambda item: (-item[1], item[0]))


def _byte_bpe(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    special = ["<|endoftext|>", "<|pad|>"]
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrap(tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|pad|>")


def _bert(scratch: Scratch, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=scratch.width,
        num_hidden_layers=scratch.layers,
        num_attention_heads=scratch.heads,
        intermediate_size=4 * scratch.width,
        max_position_embeddings=WINDOW,
        # A CPU's fused attention has no dropout, and is faster (benchmarks/experiment_plan.py compares).
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )


def _t5(scratch: Scratch, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    return T5Config(
        vocab_size=len(tokenizer),
        d_model=scratch.width,
        d_kv=scratch.width // scratch.heads,
        d_ff=2 * scratch.width,  # the gate doubles it
        num_layers=scratch.layers,
        num_decoder_layers=scratch.layers,
        num_heads=scratch.heads,
        feed_forward_proj="gated-gelu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )


def _gpt2(scratch: Scratch, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    return GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=WINDOW,
        n_embd=scratch.width,
        n_layer=scratch.layers,
        n_head=scratch.heads,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


_TOKENIZERS: dict[str, Callable[[Iterable[str], int], PreTrainedTokenizerFast]] = {
    "bert": _wordpiece,
    "gpt2": _byte_bpe,
    "t5": _unigram,
}
_CONFIGS: dict[str, Callable[[Scratch, PreTrainedTokenizerFast], PreTrainedConfig]] = {
    "bert": _bert,
    "gpt2": _gpt2,
    "t5": _t5,
}


def corpus(texts: Sequence[str], targets: Sequence[str], template: str) -> list[str]:
    """What a tokenizer is trained on: the texts, each distinct target, and the template's own words."""
    frame = template.replace("{input}", " ")
    # Twice, because a word that occurs once is no word to the trainers; the same goes for rare labels.
    return [*texts, *sorted(set(targets)) * 2, *[frame, "predict: explain:"] * 2]
