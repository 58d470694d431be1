"""Every exported engine answers as the reference does: the same tokens, labels, probabilities and gate words."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from understudy.errors import InvalidRequest, ModelError, UnknownName
from understudy.schemas import PredictionInput, TaskSpec
from understudy.serving import published
from understudy.serving.export import ExportedEngine, export, open_exported
from understudy.serving.hf import HFEngine
from understudy.testing import LABELS, SENTENCES, tiny_causal, tiny_classifier, tiny_seq2seq

pytest.importorskip("ctranslate2")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CLOSED = TaskSpec(kind="classification", labels=("negative", "positive", "not at all"), template="predict: {input}")
LONG = ("word " * 500, "\U0001f468\u200d\U0001f469 e\u0301clair [PAD] </s> <pad> <unk> 漢字", "x")


def pronounced(folder: Path) -> Path:
    """A tiny model with opinions: a fresh one gives all labels the same probability, whatever it reads."""
    weights = load_file(folder / "model.safetensors")
    drawn = torch.manual_seed(0)
    for name, value in weights.items():
        if value.dim() == 2 and "relative_attention_bias" not in name:
            weights[name] = 3 * value + 0.02 * torch.randn(value.shape, generator=drawn)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def amend(folder: Path, task: TaskSpec | None = None, **card: object) -> Path:
    if task is not None:
        (folder / "task.json").write_text(task.model_dump_json())
    said = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(said | card))
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "gate": lambda folder: tiny_classifier(folder, pooling="gate"),
    "hub": lambda folder: tiny_classifier(folder, kind="bert", template="Review: {input}"),
    "closed": lambda folder: amend(tiny_seq2seq(folder, template="predict: {input}"), CLOSED),
    "written": lambda folder: amend(tiny_seq2seq(folder), reasons="generated", explain_template="explain: {input}"),
}
ENGINES = {"gate": "ort", "hub": "ort", "closed": "ct2", "written": "ct2"}

Pair = tuple[HFEngine, ExportedEngine]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Pair]:
    """The reference of a kind of model and one of its engines, by kind and precision, each made once."""
    made: dict[str, HFEngine] = {}
    opened: dict[tuple[str, str], ExportedEngine] = {}
    root = tmp_path_factory.mktemp("exported")

    def get(kind: str, precision: str) -> Pair:
        folder, name = root / kind, f"{ENGINES[kind]}:{precision}"
        if kind not in made:
            made[kind] = HFEngine.load(pronounced(MAKERS[kind](folder)))
        if (kind, precision) not in opened:
            export(folder, name)
            opened[kind, precision] = open_exported(folder, name)
        return made[kind], opened[kind, precision]

    return get


def rows(texts: Sequence[str] = SENTENCES, choices: tuple[str, ...] | None = None) -> list[PredictionInput]:
    return [PredictionInput(id=str(i), input=text, choices=choices) for i, text in enumerate(texts)]


@pytest.mark.parametrize("kind", ["gate", "hub", "closed"])
def test_in_float32_the_probabilities_are_the_references(pair: Callable[[str, str], Pair], kind: str) -> None:
    reference, engine = pair(kind, "float32")
    asked = rows(SENTENCES + LONG)
    for one, other in zip(
        reference.predict(asked, explain=False, top_k=1), engine.predict(asked, explain=False, top_k=1), strict=True
    ):
        assert (one.id, one.label, one.truncated) == (other.id, other.label, other.truncated)
        # A candidate that is out of the question keeps the bound that ruled it out.
        assert other.probabilities == pytest.approx(one.probabilities, rel=1e-4, abs=2e-5)
    assert any(one.truncated for one in engine.predict(asked, explain=False, top_k=1))


@pytest.mark.parametrize(("kind", "precision"), [("gate", "int8"), ("gate", "int8-blocks"), ("closed", "int8")])
def test_in_int8_the_probabilities_are_close_and_not_the_same(
    pair: Callable[[str, str], Pair], kind: str, precision: str
) -> None:
    reference, engine = pair(kind, precision)
    found, expected = (model.predict(rows(), explain=False, top_k=1) for model in (engine, reference))
    apart = [
        abs((one.probabilities or {})[label] - chance)
        for one, other in zip(found, expected, strict=True)
        for label, chance in (other.probabilities or {}).items()
    ]
    assert 0 < sum(apart) / len(apart) < 0.1
    assert engine.info().precision == "int8"


@pytest.mark.parametrize(
    ("kind", "precision"),
    [("gate", "int8"), ("gate", "int8-blocks"), ("gate", "float32"), ("closed", "int8"), ("closed", "float32")],
)
def test_an_answer_does_not_depend_on_what_it_shares_a_batch_with(
    pair: Callable[[str, str], Pair], kind: str, precision: str
) -> None:
    _, engine = pair(kind, precision)
    asked = rows(SENTENCES + LONG)
    random.shuffle(asked)
    together = engine.predict(asked, explain=kind == "gate", top_k=3)
    for row, batched in zip(asked, together, strict=True):
        (alone,) = engine.predict([row], explain=kind == "gate", top_k=3)
        assert alone.probabilities == pytest.approx(batched.probabilities, rel=1e-5)
        assert [word.score for word in alone.words or ()] == pytest.approx([w.score for w in batched.words or ()])


@pytest.mark.parametrize("kind", ["gate", "closed"])
def test_rows_may_bring_choices_and_requests_labels(pair: Callable[[str, str], Pair], kind: str) -> None:
    reference, engine = pair(kind, "float32")
    few = ("positive", "negative")
    for asked, labels in ((rows(choices=few), None), (rows(), few)):
        for one, other in zip(
            reference.predict(asked, explain=False, top_k=1, labels=labels),
            engine.predict(asked, explain=False, top_k=1, labels=labels),
            strict=True,
        ):
            assert set(other.probabilities or {}) == set(few)
            assert other.probabilities == pytest.approx(one.probabilities, rel=1e-4, abs=2e-5)


def test_gate_words_are_the_references_and_need_no_second_model(pair: Callable[[str, str], Pair]) -> None:
    reference, engine = pair("gate", "float32")
    assert engine.reference is None
    for one, other in zip(
        reference.predict(rows(), explain=True, top_k=4), engine.predict(rows(), explain=True, top_k=4), strict=True
    ):
        assert [(word.text, word.start) for word in one.words or ()] == [(w.text, w.start) for w in other.words or ()]
        assert [word.score for word in other.words or ()] == pytest.approx([w.score for w in one.words or ()], rel=1e-4)


@pytest.mark.parametrize("kind", ["hub", "closed"])
def test_saliency_is_of_the_answer_that_the_engine_gave(pair: Callable[[str, str], Pair], kind: str) -> None:
    _, engine = pair(kind, "int8" if kind == "closed" else "float32")
    assert engine.reference is not None
    plain = engine.predict(rows(), explain=False, top_k=3)
    for one, other, text in zip(plain, engine.predict(rows(), explain=True, top_k=3), SENTENCES, strict=True):
        assert (one.label, one.probabilities) == (other.label, other.probabilities)
        assert len(other.words or ()) == 3
        assert all(text[word.start : word.end] == word.text for word in other.words or ())


@pytest.mark.parametrize("kind", ["gate", "closed"])
def test_an_engine_counts_its_files_and_the_reference_that_it_keeps(
    pair: Callable[[str, str], Pair], kind: str
) -> None:
    reference, engine = pair(kind, "int8")
    folder = published.folder_of(Path(reference.adapter.tokenizer.name_or_path), f"{ENGINES[kind]}:int8")
    assert reference.bytes == 4 * reference.parameters
    beside = reference.bytes if kind == "closed" else 0
    assert engine.bytes == sum(path.stat().st_size for path in folder.iterdir()) + beside
    engine.bound(77)
    passes = [one.adapter.max_padded_tokens for one in (engine, engine.reference) if one is not None]
    assert passes == [77] * (2 if beside else 1)


def test_what_is_written_and_its_probability_are_the_references(pair: Callable[[str, str], Pair]) -> None:
    reference, engine = pair("written", "float32")
    assert engine.reference is None
    for one, other in zip(
        reference.predict(rows(), explain=True, top_k=5), engine.predict(rows(), explain=True, top_k=5), strict=True
    ):
        assert (one.label, one.dropped_words) == (other.label, other.dropped_words)
        assert other.probability == pytest.approx(one.probability, rel=1e-3)


def test_logits_are_scaled_where_the_configuration_says_so(tmp_path: Path) -> None:
    """transformers 5 reads `tie_word_embeddings` of a T5 as whether they are, and a Flan-T5's are not."""
    folder = pronounced(amend(tiny_seq2seq(tmp_path / "model"), CLOSED))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"tie_word_embeddings": False, "scale_decoder_outputs": False})
    )
    reference = HFEngine.load(folder)
    assert reference.adapter.model.config.scale_decoder_outputs is False
    export(folder, "ct2:float32")
    found = open_exported(folder, "ct2:float32", reference=reference).predict(rows(), explain=False, top_k=1)
    for one, other in zip(reference.predict(rows(), explain=False, top_k=1), found, strict=True):
        assert other.probabilities == pytest.approx(one.probabilities, rel=1e-4, abs=2e-5)


def test_exporting_leaves_the_loaded_model_as_it_was(tmp_path: Path) -> None:
    """CTranslate2 quantises in place, and the parity gate goes on with the model that was exported."""
    folder = pronounced(amend(tiny_seq2seq(tmp_path / "model"), CLOSED))
    reference = HFEngine.load(folder)
    before = reference.predict(rows(), explain=False, top_k=1)
    export(folder, "ct2:int8", adapter=reference.adapter)
    assert reference.predict(rows(), explain=False, top_k=1) == before


@pytest.mark.parametrize(
    ("make", "name", "why"),
    [
        (tiny_causal, "ct2:int8", "T5"),
        (tiny_seq2seq, "ort:int8", "classifiers"),
        (lambda folder: tiny_seq2seq(folder, pooling="gate"), "ct2:int8", "T5"),
        (lambda folder: amend(tiny_seq2seq(folder), form="label_then_rationale"), "ct2:int8", "label_then_rationale"),
    ],
)
def test_what_an_engine_cannot_serve_is_refused(
    make: Callable[[Path], Path], name: str, why: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=why):
        export(make(tmp_path / "model"), name)


def test_an_engine_that_lost_a_file_is_a_model_error(pair: Callable[[str, str], Pair], tmp_path: Path) -> None:
    pair("closed", "int8")
    source = Path(pair("closed", "int8")[1].reference.adapter.tokenizer.name_or_path)  # type: ignore[union-attr]
    for lost in ("engine.json", "model.bin"):
        folder = tmp_path / lost
        shutil.copytree(source, folder)
        (published.folder_of(folder, "ct2:int8") / lost).unlink()
        with pytest.raises(ModelError, match="ct2-int8"):
            open_exported(folder, "ct2:int8")


@pytest.mark.parametrize("name", ["../../etc:int8", "ct2", "ort:int4", ""])
def test_only_known_names_are_paths(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="ct2:int8"):
        published.folder_of(tmp_path, name)


def test_a_label_that_a_classifier_lacks_is_refused_by_its_place(pair: Callable[[str, str], Pair]) -> None:
    _, engine = pair("gate", "float32")
    with pytest.raises(InvalidRequest, match="class of this model"):
        engine.predict(rows(choices=(*LABELS, "angry")), explain=False, top_k=1)


def test_engines_have_fingerprints_of_their_own(pair: Callable[[str, str], Pair]) -> None:
    reference, engine = pair("closed", "int8")
    _, other = pair("closed", "float32")
    mine, theirs = engine.info(), reference.info()
    assert len({mine.fingerprint, theirs.fingerprint, other.info().fingerprint}) == 3
    assert (mine.parameters, mine.task, mine.max_tokens) == (theirs.parameters, theirs.task, theirs.max_tokens)


def test_an_engine_writes_as_much_as_the_card_says_and_tells_where_that_was_too_little(tmp_path: Path) -> None:
    found = {}
    for most in (3, 90):
        folder = pronounced(amend(tiny_seq2seq(tmp_path / str(most)), reasons="generated", answer_tokens=most))
        amend(folder, explain_template="explain: {input}")
        reference = HFEngine.load(folder)
        export(folder, "ct2:float32")
        engine = open_exported(folder, "ct2:float32", reference=reference)
        assert engine.info().answer_tokens == reference.info().answer_tokens == min(most, 64)
        found[most] = [one.predict(rows(), explain=False, top_k=1) for one in (reference, engine)]
        assert [(one.label, one.unfinished) for one in found[most][0]] == [
            (one.label, one.unfinished) for one in found[most][1]
        ]
    assert all(one.unfinished for one in found[3][1])
    assert sum(len(one.label) for one in found[3][1]) < sum(len(one.label) for one in found[90][1])
