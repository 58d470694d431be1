from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel, WordPiece
from tokenizers.processors import BertProcessing, TemplateProcessing
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from understudy.errors import InvalidRequest, ModelError, ModelNotFound
from understudy.models.cut import cut_model, kept_layers
from understudy.models.lengths import measure
from understudy.models.load import ModelCard, adapt, architecture_of, create, fingerprint, load_adapter, save
from understudy.models.names import Cut, base_of, cut_from, is_cut, parse_cut
from understudy.models.vocabulary import trim, trim_for
from understudy.schemas import Example, TaskSpec
from understudy.testing import LABELS, SENTENCES, TARGETS

CLOSED = TaskSpec(kind="classification", labels=LABELS)
TINY = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
BUILD: dict[str, Callable[[], Any]] = {
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=4, num_decoder_layers=3, num_heads=2, **(TINY | START))
    ),
    "t5-untied": lambda: T5ForConditionalGeneration(
        T5Config(
            d_model=16, d_kv=8, d_ff=32, num_layers=4, num_decoder_layers=3, num_heads=2, tie_word_embeddings=False,
            feed_forward_proj="gated-gelu", **(TINY | START),
        )
    ),
    "bart": lambda: BartForConditionalGeneration(
        BartConfig(
            d_model=16, encoder_layers=4, decoder_layers=3, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=40, forced_eos_token_id=1, **(TINY | START),
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=4, n_head=2, n_positions=40, **TINY)),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2, **TINY)
    ),
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(
            hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1,
            use_sliding_window=True, max_window_layers=2, tie_word_embeddings=True, **TINY,
        )
    ),
    "bert": lambda: BertModel(
        BertConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2, vocab_size=40,
            max_position_embeddings=40,
        ),
        add_pooling_layer=False,
    ),
}  # fmt: skip
START = {"decoder_start_token_id": 0}
IDS = torch.tensor([[5, 9, 17, 39, 22, 1], [30, 2, 8, 8, 21, 1]])


def build(name: str) -> Any:
    torch.manual_seed(0)
    model = BUILD[name]().eval()
    for parameter in model.parameters():  # so that no two rows are alike, biases among them
        parameter.data = torch.randn_like(parameter) * 0.2
    if name == "bert":
        model.pooler = None
    return model


@torch.no_grad()
def outputs(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    if model.config.is_encoder_decoder:
        return model(input_ids=ids, decoder_input_ids=ids).logits
    answer = model(input_ids=ids)
    return answer.logits if hasattr(answer, "logits") else answer.last_hidden_state


def written(folder: Path, ref: str, task: TaskSpec = CLOSED) -> str:
    """A trained model's folder, made from nothing."""
    model, tokenizer = create(ref, store=None, task=task, texts=SENTENCES, targets=TARGETS, seed=3)
    save(model, tokenizer, task, ModelCard(base_model=ref, recipe="finetune", seed=3), folder)
    return str(folder)


def cut(ref: str, task: TaskSpec = CLOSED, seed: int = 0, **more: Any) -> tuple[Any, Any]:
    return create(ref, store=None, task=task, texts=SENTENCES, targets=TARGETS, seed=seed, **more)


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("cut:2", Cut(2)),
        ("cut:6x2", Cut(6, 2)),
        ("cut:2v8000", Cut(2, None, 8000)),
        ("cut:6x2v8000@google/flan-t5-base", Cut(6, 2, 8000, "google/flan-t5-base")),
        ("cut:12@/a folder/with@signs", Cut(12, base="/a folder/with@signs")),
    ],
)
def test_a_reference_says_what_is_kept(ref: str, expected: Cut) -> None:
    assert is_cut(ref)
    assert parse_cut(ref) == expected
    assert str(expected) == ref


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("cut:", "write cut:<layers>"),
        ("cut:0", "write cut:<layers>"),
        ("cut:2x0", "write cut:<layers>"),
        ("cut:2@", "write cut:<layers>"),
        ("cut:2v8kx2", "write cut:<layers>"),
        ("cut:2@scratch:t5-2x64", "has no weights"),
        ("cut:2@cut:4@x", "has no weights"),
    ],
)
def test_what_is_no_cut_is_told_the_form(ref: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        parse_cut(ref, param="student.model")
    assert caught.value.param == "student.model"


def test_the_teacher_is_filled_in_where_a_cut_names_no_model() -> None:
    assert cut_from("cut:2x1v300", "org/teacher") == "cut:2x1v300@org/teacher"
    assert cut_from("cut:2@other", "org/teacher") == "cut:2@other"
    assert cut_from("scratch:t5-2x64", "org/teacher") == "scratch:t5-2x64"
    with pytest.raises(InvalidRequest, match="has no weights"):
        cut_from("cut:2", "scratch:t5-2x64")
    with pytest.raises(InvalidRequest, match="write cut:2@<model>"):
        base_of("cut:2")


def test_layers_are_kept_at_even_distances_with_the_first_and_the_last() -> None:
    # The tables of DistilBERT's and of shrink-and-fine-tune's own scripts.
    assert kept_layers(12, 6) == [0, 2, 4, 7, 9, 11]
    assert kept_layers(12, 3) == [0, 6, 11]
    assert kept_layers(12, 1) == [0]
    for size in range(1, 30):
        assert kept_layers(size, size) == list(range(size))
        for count in range(2, size + 1):
            kept = kept_layers(size, count)
            gaps = {right - left for left, right in pairwise(kept)}
            assert (kept[0], kept[-1], len(kept)) == (0, size - 1, count)
            assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("name", BUILD)
def test_a_cut_that_keeps_all_answers_as_the_teacher(name: str) -> None:
    teacher = build(name)
    student = cut_model(teacher, Cut(4))
    assert student is not teacher
    assert torch.equal(outputs(student), outputs(teacher))


@pytest.mark.parametrize("name", BUILD)
def test_the_kept_layers_are_the_teachers_and_the_rest_is_copied(name: str, tmp_path: Path) -> None:
    teacher = build(name)
    seq2seq = teacher.config.is_encoder_decoder
    student = cut_model(teacher, Cut(3, 2 if seq2seq else None))
    places = {"encoder": [0, 2, 3], "decoder": [0, 2]}
    old, new = teacher.state_dict(), student.state_dict()
    for key, tensor in new.items():
        parts = key.split(".")
        number = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
        if number is not None:
            parts[number] = str(places["decoder" if "decoder" in parts else "encoder"][int(parts[number])])
        assert torch.equal(tensor, old[".".join(parts)]), key
    assert student.num_parameters() < teacher.num_parameters()
    # What is saved is whole: it comes back as the same model.
    student.save_pretrained(tmp_path)
    again, found = type(student).from_pretrained(tmp_path, output_loading_info=True)
    assert all("pooler" in missing for missing in found.pop("missing_keys"))
    assert not any(found.values())
    if name == "bert":
        again.pooler = None
    assert torch.equal(outputs(again.eval()), outputs(student))


@pytest.mark.parametrize("name", ["t5", "bart", "gpt2", "llama", "qwen2"])
def test_a_cut_model_writes_with_its_cache_as_without(name: str) -> None:
    student = cut_model(build(name), Cut(2))
    asked = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "do_sample": False, "max_new_tokens": 6}
    assert torch.equal(student.generate(**asked, use_cache=True), student.generate(**asked, use_cache=False))


def test_what_a_layer_is_in_its_configuration_goes_with_it() -> None:
    teacher = build("qwen2")
    kinds = teacher.config.layer_types
    assert len(set(kinds)) == 2
    assert cut_model(teacher, Cut(3)).config.layer_types == [kinds[0], kinds[2], kinds[3]]


def test_a_decoder_keeps_as_many_layers_as_the_encoder_or_all_it_has() -> None:
    teacher = build("t5")
    sizes = {
        count: (len(student.encoder.block), len(student.decoder.block))
        for count in (1, 2, 3, 4)
        if (student := cut_model(teacher, Cut(count)))
    }
    assert sizes == {1: (1, 1), 2: (2, 2), 3: (3, 3), 4: (4, 3)}


@pytest.mark.parametrize(
    ("name", "asked", "words"),
    [
        ("t5", Cut(5), "5 layers cannot be kept: the encoder of the model has 4"),
        ("bart", Cut(2, 4), "4 layers cannot be kept: the decoder of the model has 3"),
        ("gpt2", Cut(9), "9 layers cannot be kept: the model has 4"),
        ("bert", Cut(2, 1), "one stack of 4 layers.*write cut:2, not cut:2x1"),
    ],
)
def test_more_layers_than_there_are_are_refused(name: str, asked: Cut, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        cut_model(build(name), asked)


@pytest.mark.parametrize("name", BUILD)
def test_without_some_tokens_the_logits_of_the_others_stay(name: str) -> None:
    teacher = build(name)
    kept = [0, 1, 2, 5, 8, 9, 17, 21, 22, 30, 39]
    student = cut_model(teacher, Cut(4), kept)
    ids = torch.tensor([[kept.index(number) for number in row] for row in IDS.tolist()])
    expected = outputs(teacher) if name == "bert" else outputs(teacher)[..., kept]
    assert torch.allclose(outputs(student, ids), expected, atol=1e-6)
    table = student.get_input_embeddings().weight
    assert torch.equal(table, teacher.get_input_embeddings().weight[kept])
    assert student.config.vocab_size == len(kept)
    if name != "bert":
        tied = [
            model.get_output_embeddings().weight is model.get_input_embeddings().weight for model in (teacher, student)
        ]
        assert tied[0] == tied[1]


def test_special_tokens_get_their_new_numbers() -> None:
    teacher = build("bart")
    teacher.generation_config.suppress_tokens = [7, 30]
    student = cut_model(teacher, Cut(2), [1, 0, 30])
    assert (student.config.pad_token_id, student.config.eos_token_id) == (1, 0)
    assert student.generation_config.decoder_start_token_id == 1
    assert student.generation_config.forced_eos_token_id == 0
    assert student.generation_config.suppress_tokens == [2]


@pytest.mark.parametrize("family", ["bert", "t5", "gpt2"])
def test_a_trimmed_tokenizer_splits_the_texts_as_before_and_can_write_all_others(family: str, tmp_path: Path) -> None:
    more = [sentence[::-1].replace(" ", "  ") for sentence in SENTENCES] + ["zebra quartz jumps", "A1b2 ()[]!"]
    task = CLOSED if family == "bert" else TaskSpec()
    _, tokenizer = create(
        f"scratch:{family}-1x16", store=None, task=task, texts=[*SENTENCES, *more], targets=TARGETS, seed=0
    )
    used = {number for text in SENTENCES[:4] for number in tokenizer(text)["input_ids"]}
    # All that these texts need, and not all that there is.
    size = next(size for size in range(1, len(tokenizer)) if fits(tokenizer, size, used))
    trimmed, kept = trim(tokenizer, size, texts=SENTENCES[:4])
    assert len(trimmed) == len(kept) == size < len(tokenizer)
    assert kept == sorted(set(kept))
    for new, old in enumerate(kept):
        assert trimmed.convert_ids_to_tokens(new) == tokenizer.convert_ids_to_tokens(old)
    for text in SENTENCES[:4]:
        assert [kept[number] for number in trimmed(text)["input_ids"]] == tokenizer(text)["input_ids"]
        assert (
            trimmed(text, return_offsets_mapping=True)["offset_mapping"]
            == tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        )
    for text in (*SENTENCES, *more):
        ids = trimmed(text)["input_ids"]
        assert (
            trimmed.unk_token_id is None
            or trimmed.unk_token_id not in ids
            or tokenizer.unk_token_id in tokenizer(text)["input_ids"]
        )
        assert trimmed.decode(ids, skip_special_tokens=True) == tokenizer.decode(
            tokenizer(text)["input_ids"], skip_special_tokens=True
        )
    assert trimmed.special_tokens_map == tokenizer.special_tokens_map
    assert trimmed.model_max_length == tokenizer.model_max_length
    trimmed.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert [again(text)["input_ids"] for text in more] == [trimmed(text)["input_ids"] for text in more]


def fits(tokenizer: Any, size: int, used: set[int]) -> bool:
    try:
        return used <= set(trim(tokenizer, size, texts=SENTENCES[:4])[1])
    except InvalidRequest:
        return False


def test_a_merged_token_keeps_all_that_it_is_merged_from() -> None:
    _, tokenizer = create("scratch:gpt2-1x16", store=None, task=TaskSpec(), texts=SENTENCES, targets=TARGETS, seed=0)
    for size in range(260, len(tokenizer), 7):
        trimmed, _ = trim(tokenizer, size, texts=SENTENCES)
        state = json.loads(trimmed.backend_tokenizer.to_str())["model"]
        made = {left + right for left, right in state["merges"]}
        assert {token for token in state["vocab"] if len(token) > 1 and not token.startswith("<|")} == made
        assert all({left, right} <= set(state["vocab"]) for left, right in state["merges"])


def test_the_commonest_tokens_are_kept_and_a_tasks_own_before_them() -> None:
    texts = ["film film film film film water", "film water", "the teacher"]
    more = [*SENTENCES, *texts * 2]
    _, tokenizer = create("scratch:bert-1x16", store=None, task=CLOSED, texts=more, targets=TARGETS, seed=0)

    def kept(size: int, labels: tuple[str, ...]) -> set[str]:
        task = TaskSpec(kind="classification", labels=labels)
        try:
            return set(trim_for(tokenizer, size, task, texts=texts, targets=())[0].get_vocab())
        except InvalidRequest:
            return set()

    words = {"film", "water", "positive"}
    assert words <= kept(len(tokenizer), ("a", "b"))
    found = [words & kept(size, ("a", "b")) for size in range(40, len(tokenizer))]
    assert all(left <= right for left, right in pairwise(found))
    assert {"film"} in found
    asked = [words & kept(size, ("positive", "b")) for size in range(40, len(tokenizer))]
    assert {"positive"} in asked
    assert all("positive" in one for one in asked if one)


def test_a_vocabulary_that_cannot_hold_what_is_needed_is_refused() -> None:
    _, tokenizer = create("scratch:gpt2-1x16", store=None, task=TaskSpec(), texts=SENTENCES, targets=TARGETS, seed=0)
    with pytest.raises(InvalidRequest, match=r"a vocabulary of 100 is too small: .* alone are 258"):
        trim(tokenizer, 100, texts=SENTENCES)


@pytest.mark.parametrize("ref", ["scratch:bert-3x16", "scratch:t5-3x16", "scratch:gpt2-3x16"])
def test_a_cut_student_comes_from_a_folder_and_goes_into_one(ref: str, tmp_path: Path) -> None:
    base = written(tmp_path / "base", ref)
    asked = f"cut:2v300@{base}"
    assert architecture_of(asked) == architecture_of(base)
    model, tokenizer = cut(asked)
    assert all(parameter.requires_grad for parameter in model.parameters())
    save(model, tokenizer, CLOSED, ModelCard(base_model=asked, recipe="finetune", seed=0), tmp_path / "student")
    student = load_adapter(str(tmp_path / "student"))
    assert fingerprint(student) == fingerprint(adapt(model, tokenizer, CLOSED))
    save(*cut(asked), CLOSED, ModelCard(base_model=asked, recipe="finetune", seed=0), tmp_path / "again")
    assert fingerprint(load_adapter(str(tmp_path / "again"))) == fingerprint(student)
    assert student.model.num_parameters() < load_adapter(base).model.num_parameters()
    answers = student.answers(SENTENCES)
    assert {answer.text for answer in answers} <= set(LABELS)
    rows = [Example(id=str(i), input=text, output="positive") for i, text in enumerate(SENTENCES)]
    found = measure(asked, rows, CLOSED)
    assert (found.architecture, found.window) == (student.architecture, student.max_tokens)
    assert measure(f"cut:2@{base}", rows, CLOSED).tokens == sum(load_adapter(base).lengths(SENTENCES))


def test_a_classifier_keeps_its_teachers_head_where_the_labels_are_the_same(tmp_path: Path) -> None:
    base = written(tmp_path / "base", "scratch:bert-2x16")
    teacher = load_adapter(base)
    whole, tokenizer = cut(f"cut:2@{base}")
    student = adapt(whole, tokenizer, CLOSED)
    assert student.log_likelihoods(SENTENCES, [LABELS] * 12) == teacher.log_likelihoods(SENTENCES, [LABELS] * 12)
    assert torch.equal(cut(f"cut:1@{base}")[0].head.weight, teacher.model.head.weight)
    other = TaskSpec(kind="classification", labels=("no", "yes"))
    assert cut(f"cut:1@{base}", other)[0].head.weight.shape == (2, 16)
    turned = TaskSpec(kind="classification", labels=LABELS[::-1])
    assert not torch.equal(cut(f"cut:1@{base}", turned)[0].head.weight, teacher.model.head.weight)


def test_a_classifier_gets_the_gate_that_its_recipe_wants(tmp_path: Path) -> None:
    base = written(tmp_path / "base", "scratch:bert-2x16")
    model, _ = cut(f"cut:1@{base}", pooling="gate")
    assert model.config.pooling == "gate"
    assert not model.gate.weight.any(), "a fresh gate is half open everywhere"
    gated = written_gate(tmp_path / "gated")
    assert cut(f"cut:1@{gated}")[0].gate is None
    assert not cut(f"cut:1@{gated}", pooling="gate")[0].gate.weight.any(), "nor is one that was trained taken over"


def written_gate(folder: Path) -> str:
    model, tokenizer = cut("scratch:bert-2x16", pooling="gate")
    torch.nn.init.ones_(model.gate.weight)
    save(model, tokenizer, CLOSED, ModelCard(base_model="x", recipe="rationale_gate", seed=0), folder)
    return str(folder)


def test_a_hub_classifier_gives_its_encoder_alone(folder_of: Callable[[str], Path]) -> None:
    model, _ = cut(f"cut:1@{folder_of('bert')}")
    teacher = load_adapter(str(folder_of("bert"))).model
    assert torch.equal(model.encoder.embeddings.word_embeddings.weight, teacher.bert.embeddings.word_embeddings.weight)
    assert model.encoder.pooler is None


@pytest.mark.parametrize("ref", ["scratch:bert-2x16", "scratch:t5-2x16"])
def test_too_many_layers_are_refused_before_weights_are_read(ref: str, tmp_path: Path) -> None:
    base = written(tmp_path, ref)
    (tmp_path / "model.safetensors").unlink()
    rows = [Example(id="0", input="a", output="positive")]
    with pytest.raises(InvalidRequest, match=r"3 layers cannot be kept: the .*model has 2"):
        architecture_of(f"cut:3@{base}")
    with pytest.raises(InvalidRequest, match=r"3 layers cannot be kept: the .*model has 2"):
        measure(f"cut:3@{base}", rows, CLOSED)
    assert measure(f"cut:2@{base}", rows, CLOSED).rows == 1


@pytest.mark.parametrize("kind", ["template", "bert"])
def test_what_is_put_around_a_text_gets_its_new_numbers(kind: str) -> None:
    vocabulary = {"abba": 0, "a": 1, "##b": 2, "##a": 3, "[UNK]": 4, "[CLS]": 5, "[SEP]": 6}
    fast = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    ends = [("[SEP]", 6), ("[CLS]", 5)]
    template = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    fast.post_processor = template if kind == "template" else BertProcessing(*ends)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    trimmed, kept = trim(tokenizer, 6, texts=["ab"])
    assert kept == [1, 2, 3, 4, 5, 6]
    assert trimmed.convert_ids_to_tokens(trimmed("abba")["input_ids"]) == ["[CLS]", "a", "##b", "##b", "##a", "[SEP]"]


def test_a_cut_of_nothing_says_so() -> None:
    with pytest.raises(InvalidRequest, match="write cut:2@<model>"):
        architecture_of("cut:2")
    with pytest.raises(ModelNotFound, match="no model '/nowhere'"):
        cut("cut:2@/nowhere")
    with pytest.raises(ModelNotFound, match="has no weights yet"):
        load_adapter("cut:2@/nowhere")


def test_a_kind_of_vocabulary_that_cannot_be_trimmed_is_named() -> None:
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a")))
    with pytest.raises(ModelError, match="WordLevel cannot be trimmed"):
        trim(words, 1, texts=["a"])


def test_flan_t5s_tokenizer_is_trimmed_to_real_texts(real_data: Path) -> None:
    folder = real_data.parent / "models" / "flan-t5-tokenizer"
    if not folder.is_dir():
        pytest.skip("the tokenizer of flan-t5 is not beside this checkout")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    trimmed, kept = trim_for(tokenizer, 2_000, CLOSED, texts=SENTENCES * 2, targets=TARGETS)
    assert len(trimmed) == len(kept) == 2_000
    for text in SENTENCES:
        assert [kept[number] for number in trimmed(text)["input_ids"]] == tokenizer(text)["input_ids"]
    unseen = "Crème brûlée, überraschend: 10% off!"
    assert trimmed.decode(trimmed(unseen)["input_ids"], skip_special_tokens=True) == tokenizer.decode(
        tokenizer(unseen)["input_ids"], skip_special_tokens=True
    )
