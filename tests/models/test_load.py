from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BartConfig, BertConfig, BertModel, GPT2Config, LlamaConfig, RobertaConfig, T5Config

from understudy.artifacts import ArtifactStore
from understudy.errors import InvalidRequest, ModelError, ModelNotFound
from understudy.models.encoder_classifier import EncoderClassifier, EncoderClassifierConfig
from understudy.models.load import (
    ModelCard,
    architecture,
    architecture_of,
    create,
    fingerprint,
    load_adapter,
    load_card,
    load_task,
    save,
)
from understudy.models.scratch import corpus, train_tokenizer
from understudy.schemas import TaskSpec
from understudy.testing import LABELS, SENTENCES, TARGETS, tiny_classifier, tiny_seq2seq

NAMES = ("seq2seq", "causal", "llama", "classifier", "gate", "bert")
TASK = TaskSpec(kind="classification", labels=LABELS)


def edited(folder: Path, place: Path, file: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a model folder with one JSON file changed."""
    shutil.copytree(folder, place, dirs_exist_ok=True)
    value = json.loads((place / file).read_text())
    change(value)
    (place / file).write_text(json.dumps(value))
    return place


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_comes_back_as_it_was(folder_of: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    adapter = load_adapter(str(folder_of(name)))
    card = load_card(folder_of(name))
    assert card is not None
    save(adapter.model, adapter.tokenizer, adapter.task, card, tmp_path)
    again = load_adapter(str(tmp_path))
    assert fingerprint(again) == fingerprint(adapter)
    assert (again.task, again.max_tokens, load_card(tmp_path)) == (adapter.task, adapter.max_tokens, card)
    texts = [*SENTENCES, "你好 👍 ﬁne", " "]
    assert [row.ids for row in again.tokenize(texts)] == [row.ids for row in adapter.tokenize(texts)]
    assert again.log_likelihoods(texts, [LABELS] * len(texts)) == adapter.log_likelihoods(texts, [LABELS] * len(texts))


def test_a_created_models_tokenizer_survives_saving(tmp_path: Path) -> None:
    """A tokenizer that is rebuilt by its model's type, not from its own file, would split differently."""
    for ref in ("scratch:bert-1x16", "scratch:t5-1x16", "scratch:gpt2-1x16"):
        task = TASK if "bert" in ref else TaskSpec()
        model, tokenizer = create(ref, store=None, task=task, texts=SENTENCES, targets=TARGETS, seed=0)
        save(model, tokenizer, task, ModelCard(base_model=ref, recipe="finetune", seed=0), tmp_path / ref)
        again = load_adapter(str(tmp_path / ref)).tokenizer
        for text in (*SENTENCES, "e\u0301tude ﬁne ½", "  two  spaces "):
            assert again(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (T5Config(), "seq2seq"),
        (BartConfig(), "seq2seq"),
        (GPT2Config(), "causal"),
        (LlamaConfig(), "causal"),
        (BertConfig(), "classifier"),
        (BertConfig(architectures=["BertForMaskedLM"]), "classifier"),
        (RobertaConfig(architectures=["RobertaForSequenceClassification"]), "classifier"),
        (EncoderClassifierConfig(encoder=BertConfig()), "classifier"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_architecture_is_read_from_the_configuration(config: Any, expected: str) -> None:
    assert architecture(config) == expected


def test_a_decoder_with_a_classification_head_is_refused() -> None:
    with pytest.raises(ModelError, match="LlamaForSequenceClassification is neither"):
        architecture(LlamaConfig(architectures=["LlamaForSequenceClassification"]))


@pytest.mark.parametrize(("ref", "expected"), [("t5", "seq2seq"), ("gpt2", "causal"), ("bert", "classifier")])
def test_the_architecture_of_a_scratch_model_needs_no_weights(ref: str, expected: str) -> None:
    assert architecture_of(f"scratch:{ref}-2x64") == expected


def test_a_model_is_found_by_artifact_alias_and_folder(folder_of: Callable[[str], Path], store: ArtifactStore) -> None:
    artifact = store.publish("model", folder_of("gate"))
    store.set_alias("best", artifact.id)
    prints = {fingerprint(load_adapter(ref, store=store)) for ref in (artifact.id, "best", str(folder_of("gate")))}
    assert len(prints) == 1
    assert architecture_of("best", store) == "classifier"


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("/no/such/folder", "as a folder it does not exist"),
        ("model-0123456789abcdef01234567", "no artifact 'model-0123456789abcdef01234567' in this store"),
        ("no-such/model", "hub name"),
        ("../../etc", "as a folder it"),
        ("a\x00b", "does not exist"),
        ("http://169.254.169.254/latest", "does not exist"),
        ("", "as a folder it has no config.json"),
        ("x" * 5000, "File name too long"),
        ("~nobody-of-that-name/model", "home directory"),
        ("scratch:bert-2x128", "has no weights yet"),
    ],
)
def test_a_model_that_is_not_there_is_told_what_was_tried(store: ArtifactStore, ref: str, words: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        load_adapter(ref, store=store)
    assert words in caught.value.message
    assert caught.value.param == "model"


def test_pickled_weights_are_not_read(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(folder_of("bert"), tmp_path, dirs_exist_ok=True)
    weights = load_adapter(str(tmp_path)).model.state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelNotFound, match=r"model\.safetensors"):
        load_adapter(str(tmp_path))


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, b"{}"])
def test_damaged_weights_are_an_error_that_says_so(
    folder_of: Callable[[str], Path], tmp_path: Path, damage: bytes
) -> None:
    shutil.copytree(folder_of("bert"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes(damage)
    with pytest.raises(ModelError, match=r"the weights of .* cannot be used"):
        load_adapter(str(tmp_path))


def test_weights_of_another_shape_are_an_error_that_says_so(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = edited(folder_of("bert"), tmp_path, "config.json", lambda config: config.update(vocab_size=50))
    with pytest.raises(ModelError, match=r"the weights of .* cannot be used"):
        load_adapter(str(folder))


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"version": "1.0"}'])
def test_a_damaged_tokenizer_is_an_error_that_says_so(
    folder_of: Callable[[str], Path], tmp_path: Path, damage: str
) -> None:
    shutil.copytree(folder_of("bert"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").write_text(damage)
    with pytest.raises((ModelError, ModelNotFound)) as caught:
        load_adapter(str(tmp_path))
    assert str(tmp_path) in caught.value.message


def test_a_model_without_a_trained_head_is_no_teacher(tmp_path: Path) -> None:
    """transformers would draw the head at random, and every load would explain something else."""
    tokenizer = train_tokenizer("bert", corpus(SENTENCES, TARGETS, "{input}"))
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no weights for classifier\.bias.*Fine-tune it first"):
        load_adapter(str(tmp_path))


def test_code_that_comes_with_a_model_is_not_run(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    def plant(config: dict[str, Any]) -> None:
        config["model_type"] = "planted"
        config["auto_map"] = {"AutoConfig": "planted.Config", "AutoModel": "planted.Model"}

    folder = edited(folder_of("bert"), tmp_path, "config.json", plant)
    (folder / "planted.py").write_text("raise SystemExit('the code of a model was run')")
    with pytest.raises(ModelError, match=r"the configuration of .* cannot be used"):
        load_adapter(str(folder))


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"])
def test_a_configuration_cannot_name_attention_code(folder_of: Callable[[str], Path], tmp_path: Path, key: str) -> None:
    folder = edited(folder_of("gate"), tmp_path, "config.json", lambda config: config.update({key: "evil/kernel"}))
    model = load_adapter(str(folder)).model
    assert model.config._attn_implementation == model.encoder.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("file", ["task.json", "card.json"])
def test_a_damaged_description_is_named(folder_of: Callable[[str], Path], tmp_path: Path, file: str) -> None:
    shutil.copytree(folder_of("bert"), tmp_path, dirs_exist_ok=True)
    (tmp_path / file).write_text('{"kind": "poetry"')
    with pytest.raises(ModelError, match=f"{file} cannot be read"):
        load_adapter(str(tmp_path))


def test_a_folder_without_descriptions_is_a_hub_model(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(folder_of("bert"), tmp_path / "bert")
    shutil.copytree(folder_of("seq2seq"), tmp_path / "t5")
    for file in tmp_path.glob("*/*.json"):
        if file.name in ("task.json", "card.json"):
            file.unlink()
    classifier, writer = load_adapter(str(tmp_path / "bert")), load_adapter(str(tmp_path / "t5"))
    assert classifier.task == TASK
    assert writer.task == TaskSpec()
    assert (classifier.max_tokens, writer.max_tokens) == (512, 512)
    assert load_card(tmp_path / "bert") is load_task(tmp_path / "bert") is None


def test_a_window_is_what_was_asked_for_within_the_models_own(folder_of: Callable[[str], Path]) -> None:
    folder = str(folder_of("causal"))
    assert load_adapter(folder).max_tokens == 64  # its card
    assert load_adapter(folder, max_tokens=100).max_tokens == 100
    with pytest.raises(InvalidRequest, match="max_tokens is 513, but this model has a window of 512"):
        load_adapter(folder, max_tokens=513)


def test_the_fingerprint_depends_on_all_that_an_answer_depends_on(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = str(folder_of("classifier"))
    adapter = load_adapter(folder)
    flipped = load_adapter(folder)
    flipped.model.head.bias.data[0] += 1e-6
    other_config = edited(Path(folder), tmp_path / "a", "config.json", lambda config: config.update(dropout=0.2))
    lower = edited(
        Path(folder), tmp_path / "b", "tokenizer.json", lambda found: found["normalizer"].update(lowercase=False)
    )
    others = [
        fingerprint(one)
        for one in (
            flipped,
            adapter.with_template("Review: {input}"),
            load_adapter(folder, max_tokens=65),
            load_adapter(folder, dtype="bfloat16"),
            load_adapter(folder, task=TaskSpec(kind="classification", labels=LABELS[::-1])),
            load_adapter(str(other_config)),
            load_adapter(str(lower)),
            load_adapter(str(folder_of("gate"))),
        )
    ]
    assert len({fingerprint(adapter), *others}) == len(others) + 1


def test_the_fingerprint_does_not_depend_on_where_a_model_lies_or_what_it_was_asked(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    adapter = load_adapter(str(folder_of("classifier")))
    shutil.copytree(folder_of("classifier"), tmp_path, dirs_exist_ok=True)
    other = load_adapter(str(tmp_path))
    other.tokenizer(["a b c", "d"], padding=True, truncation=True, max_length=3)
    assert fingerprint(other) == fingerprint(adapter)
    assert len(fingerprint(adapter)) == 16


def test_precision_is_what_was_asked_for(folder_of: Callable[[str], Path]) -> None:
    half = load_adapter(str(folder_of("seq2seq")), dtype="bfloat16")
    assert half.precision == "bfloat16"
    batch = half.encode(SENTENCES[:2], TARGETS[:2])
    assert half.score(half.embed(batch.ids), batch.mask, batch.labels).dtype == torch.float32


def test_a_students_encoder_is_taken_from_a_pretrained_model_and_its_head_is_fresh(
    folder_of: Callable[[str], Path],
) -> None:
    task = TaskSpec(kind="classification", labels=("yes", "no"))
    for name in ("bert", "classifier"):
        ref = str(folder_of(name))
        teacher = load_adapter(ref).model
        model, _ = create(ref, store=None, task=task, texts=(), targets=(), seed=3, pooling="gate")
        assert isinstance(model, EncoderClassifier)
        assert model.head.out_features == 2
        assert model.gate is not None
        assert model.config.id2label == {0: "yes", 1: "no"}
        assert all(parameter.requires_grad for parameter in model.parameters())
        source = teacher.encoder if name == "classifier" else teacher.bert
        assert torch.equal(model.get_input_embeddings().weight, source.get_input_embeddings().weight)
        twin, _ = create(ref, store=None, task=task, texts=(), targets=(), seed=3, pooling="gate")
        assert torch.equal(model.head.weight, twin.head.weight)


def test_a_bare_pretrained_encoder_can_be_a_student(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("bert", corpus(SENTENCES, TARGETS, "{input}"))
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = create(str(tmp_path), store=None, task=TASK, texts=(), targets=(), seed=0)
    assert isinstance(model, EncoderClassifier)
    assert architecture_of(str(tmp_path)) == "classifier"


def test_an_encoder_cannot_be_trained_to_write(folder_of: Callable[[str], Path]) -> None:
    for ref in ("scratch:bert-1x16", str(folder_of("bert"))):
        with pytest.raises(InvalidRequest, match="the task is choice: choose an encoder-decoder"):
            create(ref, store=None, task=TaskSpec(kind="choice"), texts=SENTENCES, targets=TARGETS, seed=0)


def test_creating_a_model_leaves_the_random_state_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    create("scratch:t5-1x16", store=None, task=TaskSpec(), texts=SENTENCES, targets=TARGETS, seed=0)
    assert torch.equal(torch.rand(1), expected)


def test_tiny_models_are_the_same_every_time(tmp_path: Path) -> None:
    for maker in (tiny_classifier, tiny_seq2seq):
        one, other = (fingerprint(load_adapter(str(maker(tmp_path / maker.__name__ / name)))) for name in "ab")
        assert one == other


def test_an_older_card_says_nothing_of_how_much_its_model_writes(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    adapter, card = load_adapter(str(folder_of("seq2seq"))), load_card(folder_of("seq2seq"))
    assert card is not None
    save(adapter.model, adapter.tokenizer, adapter.task, card.model_copy(update={"answer_tokens": 40}), tmp_path)
    assert load_adapter(str(tmp_path)).answer_tokens == 40
    said = json.loads((tmp_path / "card.json").read_text())
    del said["answer_tokens"]
    (tmp_path / "card.json").write_text(json.dumps(said))
    assert load_adapter(str(tmp_path)).answer_tokens == 64
