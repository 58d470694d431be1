"""The objective on real tiny models: what may change a step's loss, and what must not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from understudy.attribution.attribute import attribute
from understudy.data.parquet import AnnotatedExample
from understudy.models.base import Adapter
from understudy.models.forms import compose
from understudy.models.likelihood import IGNORE
from understudy.models.load import load_adapter
from understudy.schemas import AttributionExample, AttributionOptions, TaskSpec
from understudy.testing import tiny_causal, tiny_classifier, tiny_seq2seq
from understudy.training.collate import Collator
from understudy.training.objective import TEACHER_SHARE, TEMPERATURE, Objective
from understudy.training.recipes import RECIPES, Recipe, fits, parse_recipe
from understudy.training.views import Instance, Row, build_instances, label_template

TASK = TaskSpec(kind="classification", labels=("bad", "good"))
ARMS = [
    (architecture, name)
    for name, recipe in RECIPES.items()
    for architecture in ("classifier", "seq2seq", "causal")
    if fits(recipe, architecture, TASK, ["rationale"]) is None and recipe.variant is None
]
_MAKERS: dict[str, Callable[..., Path]] = {"seq2seq": tiny_seq2seq, "causal": tiny_causal}


def make_model(folder: Path, architecture: str, recipe: Recipe) -> Path:
    """A tiny model with the parts that the recipe trains."""
    terms = recipe.terms(architecture)
    pooling = "gate" if "gate" in terms else "tags" if "tags" in terms else "mean"
    if architecture == "classifier":
        return tiny_classifier(folder, labels=("bad", "good"), pooling=pooling)
    if pooling == "gate":
        return tiny_seq2seq(folder, pooling="gate")
    return _MAKERS[architecture](folder)


class Bench:
    """A model in float64, its rows as instances, and the losses of any of them."""

    def __init__(self, folder: Path, architecture: str, recipe: str, rows: Sequence[AnnotatedExample]) -> None:
        self.recipe = parse_recipe(recipe)
        task = label_template(self.recipe, TASK, architecture)
        model = make_model(folder, architecture, self.recipe)
        self.adapter: Adapter = load_adapter(str(model), task=task, device="cpu").with_form(self.recipe.form)
        self.model: Any = self.adapter.model.double()
        given = [Row(row.example, row.attribution) for row in rows]
        self.instances = build_instances(self.adapter, given, self.recipe, seed=0, top_k=2)
        self.collate = Collator.of(self.adapter)

    def losses(self, instances: Sequence[Instance], weight: float = 0.7, recipe: str | None = None) -> torch.Tensor:
        chosen = parse_recipe(recipe) if recipe else self.recipe
        return Objective(chosen, self.adapter.architecture, weight)(self.model, self.collate(instances))


@pytest.fixture(params=ARMS, ids=lambda arm: f"{arm[0]}-{arm[1]}")
def bench(request: pytest.FixtureRequest, tmp_path: Path, rows: list[AnnotatedExample]) -> Bench:
    """Rows that have all that any recipe reads, but for the third, of which the teacher said nothing."""
    said = {"rationale": (), "words": (), "probabilities": None}
    silent = rows[2].model_copy(update={"attribution": rows[2].attribution.model_copy(update=said)})
    return Bench(tmp_path, *request.param, [*map(with_text, rows[:2]), silent, *map(with_text, rows[3:])])


def with_text(row: AnnotatedExample) -> AnnotatedExample:
    text = f"because it says {row.attribution.rationale[0].text}"
    return row.model_copy(update={"example": row.example.model_copy(update={"rationale": text})})


def test_an_examples_loss_does_not_depend_on_its_company(bench: Bench) -> None:
    together = bench.losses(bench.instances)
    alone = torch.cat([bench.losses([one]) for one in bench.instances])
    assert_close(together, alone, rtol=1e-6, atol=1e-8)


def test_the_order_of_a_batch_does_not_change_a_loss(bench: Bench) -> None:
    assert_close(bench.losses(bench.instances[::-1]), bench.losses(bench.instances).flip(0), rtol=1e-6, atol=1e-8)


def test_a_row_the_teacher_said_nothing_about_costs_what_finetuning_it_costs(bench: Bench) -> None:
    plain = bench.losses(bench.instances, recipe="finetune")
    found = bench.losses(bench.instances)
    assert torch.isfinite(found).all()
    if bench.recipe.form == "label":  # else the label is written in another shape
        assert_close(found[2], plain[2], rtol=1e-6, atol=1e-8)
    if bench.recipe.terms(bench.adapter.architecture):
        assert (found[[0, 1]] != plain[[0, 1]]).all()


def test_a_batch_of_nothing_but_silent_rows_is_trained_on_its_labels(bench: Bench) -> None:
    assert torch.isfinite(bench.losses([bench.instances[2]])).all()


WEIGHED = [(a, name) for a, name in ARMS if "+" not in name and name != "step_by_step" and RECIPES[name].rationale]


@pytest.mark.parametrize(("architecture", "recipe"), [one for one in WEIGHED if RECIPES[one[1]].form == "label"])
def test_the_rationales_loss_is_added_with_its_weight(
    tmp_path: Path, rows: list[AnnotatedExample], architecture: str, recipe: str
) -> None:
    bench = Bench(tmp_path, architecture, recipe, rows)
    none, one, two = (bench.losses(bench.instances, weight) for weight in (0.0, 1.0, 2.0))
    assert_close(two - none, 2 * (one - none))
    plain = bench.losses(bench.instances, recipe="finetune")
    assert_close(none, plain)
    several = torch.tensor([len(row.attribution.words) > 1 for row in rows])  # of one word, a map has one shape
    assert (one > none)[several].all()


def test_a_decoders_loss_is_that_of_its_own_model(tmp_path: Path, rows: list[AnnotatedExample]) -> None:
    bench = Bench(tmp_path, "causal", "finetune", rows)
    for one, found in zip(bench.instances, bench.losses(bench.instances), strict=True):
        expected = bench.model(input_ids=torch.tensor([one.label.ids]), labels=torch.tensor([one.label.labels])).loss
        assert_close(found, expected, check_dtype=False)


@pytest.mark.parametrize("recipe", [name for architecture, name in ARMS if architecture == "causal"])
def test_a_decoder_computes_the_logits_of_its_labels_alone(
    tmp_path: Path, rows: list[AnnotatedExample], recipe: str
) -> None:
    """Without those of whole texts the loss is the same."""
    bench = Bench(tmp_path, "causal", recipe, [*map(with_text, rows)])
    seen: list[Any] = []
    bench.model.register_forward_hook(lambda _, __, outputs: seen.append(outputs.logits.shape[1]))
    found = bench.losses(bench.instances)
    narrow, seen = seen[:], []
    bench.collate.accepted -= {"logits_to_keep"}
    assert_close(found, bench.losses(bench.instances), rtol=1e-10, atol=1e-12)
    assert sum(narrow) < sum(seen)
    label = bench.collate(bench.instances)["label"]["labels"]
    assert narrow[0] == int(label.ne(IGNORE).any(0).sum())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("recipe", ["logit_kd", "rationale_then_label+logit_kd", "label_then_rationale+logit_kd"])
def test_a_decoder_reads_each_prompt_once_for_all_candidates(
    tmp_path: Path, rows: list[AnnotatedExample], recipe: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses and gradients are those of each candidate behind its own copy of the prompt."""
    monkeypatch.setitem(_MAKERS, "causal", partial(tiny_causal, family=family))
    silent = rows[0].model_copy(update={"attribution": rows[0].attribution.model_copy(update={"probabilities": None})})
    bench = Bench(tmp_path, "causal", recipe, [silent, *rows[1:]])
    assert bench.instances[0].candidates is None
    assert len(bench.instances[1].candidates or ()) > 1
    bench.model.requires_grad_(True)
    read: list[int] = []
    bench.model.register_forward_pre_hook(
        lambda _, __, options: read.append(options["input_ids"].numel()), with_kwargs=True
    )

    def step() -> tuple[torch.Tensor, list[torch.Tensor]]:
        bench.model.zero_grad()
        losses = bench.losses(bench.instances)
        losses.sum().backward()
        return losses, [one.grad.clone() for one in bench.model.parameters()]

    losses, gradients = step()
    once, read[:] = sum(read), []
    bench.collate.accepted -= {"past_key_values"}
    again, theirs = step()
    assert_close(losses, again, rtol=1e-6, atol=1e-8)
    for ours, other in zip(gradients, theirs, strict=True):  # some of Llama is in float32, whatever its weights are
        assert_close(ours, other, rtol=1e-4, atol=1e-5)
    assert once < sum(read)


def test_candidates_of_a_text_that_is_cut_follow_one_prompt(tmp_path: Path, rows: list[AnnotatedExample]) -> None:
    bench = Bench(tmp_path, "causal", "logit_kd", rows)
    bench.adapter.max_tokens = 9
    given = [Row(row.example, row.attribution) for row in rows]
    for one in build_instances(bench.adapter, given, bench.recipe, seed=0, top_k=2):
        assert one.prompt is not None
        assert len(one.prompt) + max(map(len, one.candidates or ())) <= bench.adapter.max_tokens


def test_a_seq2seq_loss_is_that_of_its_own_model(tmp_path: Path, rows: list[AnnotatedExample]) -> None:
    bench = Bench(tmp_path, "seq2seq", "finetune", rows)
    for one, found in zip(bench.instances, bench.losses(bench.instances), strict=True):
        expected = bench.model(input_ids=torch.tensor([one.label.ids]), labels=torch.tensor([one.label.labels])).loss
        assert_close(found, expected, check_dtype=False)


@pytest.mark.parametrize("architecture", ["seq2seq", "causal"])
@pytest.mark.parametrize("form", ["", "rationale_then_label+"])
def test_a_writing_student_is_pulled_to_the_teacher_by_its_candidates_likelihoods(
    tmp_path: Path, rows: list[AnnotatedExample], architecture: str, form: str
) -> None:
    bench = Bench(tmp_path, architecture, f"{form}logit_kd", rows)
    texts = [row.example.input for row in rows]
    named = [[word.text for word in row.attribution.rationale] if form else [] for row in rows]
    candidates = [[compose(bench.recipe.form, label, words) for label in TASK.labels] for words in named]
    scores = torch.tensor(bench.adapter.with_form("label").log_likelihoods(texts, candidates), dtype=torch.float64)
    teacher = torch.tensor([[row.attribution.probabilities[name] for name in TASK.labels] for row in rows]).double()  # type: ignore[index]
    softened = (teacher.log() / TEMPERATURE).softmax(-1)
    student = (scores / TEMPERATURE).log_softmax(-1)
    divergence = TEMPERATURE**2 * (softened * (softened.log() - student)).sum(-1)
    label = bench.losses(bench.instances, recipe="finetune")
    by_hand = (1 - TEACHER_SHARE) * label + TEACHER_SHARE * divergence
    assert_close(bench.losses(bench.instances), by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", ["seq2seq", "causal"])
def test_a_free_text_takes_half_of_the_loss(tmp_path: Path, rows: list[AnnotatedExample], architecture: str) -> None:
    bench = Bench(tmp_path, architecture, "step_by_step", list(map(with_text, rows)))
    label = bench.losses(bench.instances, recipe="finetune")
    text = bench.losses(
        [Instance(label=one.explanation) for one in bench.instances if one.explanation], recipe="finetune"
    )
    for weight in (0.5, 3.0):  # alpha is the paper's, whatever the weight of words is
        assert_close(bench.losses(bench.instances, weight), (label + text) / 2)


@pytest.mark.parametrize("architecture", ["classifier", "seq2seq", "causal"])
def test_the_words_alone_are_one_more_input(tmp_path: Path, rows: list[AnnotatedExample], architecture: str) -> None:
    bench = Bench(tmp_path, architecture, "rationale_input", rows)
    short = [
        row.model_copy(
            update={
                "example": row.example.model_copy(update={"input": " ".join(w.text for w in row.attribution.rationale)})
            }
        )
        for row in rows
    ]
    given = [Row(row.example) for row in short]
    words = build_instances(bench.adapter, given, parse_recipe("finetune"), seed=0, top_k=2)
    by_hand = bench.losses(bench.instances, recipe="finetune") + 0.7 * bench.losses(words, recipe="finetune")
    assert_close(bench.losses(bench.instances), by_hand)


@pytest.mark.parametrize("architecture", ["classifier", "seq2seq", "causal"])
def test_the_map_that_is_aligned_is_the_students_saliency(
    tmp_path: Path, rows: list[AnnotatedExample], architecture: str
) -> None:
    """The witness is the attribution code, which shares nothing with the objective but the model."""
    bench = Bench(tmp_path, architecture, "attribution_alignment", rows)
    asked = [AttributionExample(input=row.example.input, output=row.example.output) for row in rows]
    own = attribute(bench.adapter, asked, AttributionOptions(target="gold", labels=TASK.labels, predict=False))
    distances = []
    for row, found in zip(rows, own, strict=True):
        maps = [torch.tensor([word.score for word in one.words]).double() for one in (found, row.attribution)]
        student, teacher = (one / one.norm() for one in maps)
        distances.append((student - teacher).square().sum())
    by_hand = bench.losses(bench.instances, recipe="finetune") + 0.7 * torch.stack(distances)
    assert_close(bench.losses(bench.instances), by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", ["classifier", "seq2seq", "causal"])
def test_training_draws_the_students_map_to_the_teachers(
    tmp_path: Path, rows: list[AnnotatedExample], architecture: str
) -> None:
    bench = Bench(tmp_path, architecture, "attribution_alignment", rows)
    bench.model.requires_grad_(True)
    optimizer = torch.optim.Adam(bench.model.parameters(), lr=3e-3)

    def distance() -> torch.Tensor:
        return (bench.losses(bench.instances, 1.0) - bench.losses(bench.instances, recipe="finetune")).mean()

    before = distance().item()
    for _ in range(15):
        optimizer.zero_grad()
        distance().backward()
        optimizer.step()
    assert distance().item() < 0.8 * before
