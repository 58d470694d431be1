"""The training stage from end to end on tiny models: the same twice, the same when interrupted, and what it leaves."""

from __future__ import annotations

import fcntl
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from understudy.data.parquet import AnnotatedExample, read_examples, write_annotated, write_examples
from understudy.errors import InvalidRequest, ModelNotFound
from understudy.models.load import create, load_adapter, load_card, load_task
from understudy.models.writer import Writer
from understudy.schemas import Hyperparameters, LoraSpec, PredictionInput, TaskSpec
from understudy.serving.hf import HFEngine
from understudy.training.run import train
from understudy.training.spec import TrainEvent, TrainSpec
from understudy.training.validation import validate

MakeSpec = Callable[..., TrainSpec]

T5 = "scratch:t5-1x16"
GPT = "scratch:gpt2-1x16"
ARMS = [
    ("finetune", "scratch:bert-1x16"),
    ("rationale_gate", "scratch:bert-1x16"),
    ("rationale_gate+logit_kd+random_rationale", "scratch:bert-1x16"),
    ("saliency+logit_kd", T5),
    ("saliency+random_rationale", T5),
    ("saliency", "scratch:bert-1x16"),
    ("attribution_alignment", "scratch:bert-1x16"),
    ("rationale_input+shuffled_rationale", GPT),
    ("attribution_alignment+logit_kd", GPT),
]


class Interrupted(Exception):
    """What a test raises where a process would be ended."""


def quiet(event: TrainEvent) -> None:
    """Nobody listens."""


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def interrupt_at(step: int) -> Callable[[TrainEvent], None]:
    def emit(event: TrainEvent) -> None:
        if event.step >= step:
            raise Interrupted

    return emit


@pytest.mark.parametrize(("recipe", "model"), ARMS[2:4])
def test_the_same_seed_gives_bit_equal_models(make_spec: MakeSpec, tmp_path: Path, recipe: str, model: str) -> None:
    spec = make_spec(recipe, model)
    first, second = train(spec, tmp_path / "a", quiet), train(spec, tmp_path / "b", quiet)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert first.validation_loss == second.validation_loss


def test_another_seed_gives_another_model(make_spec: MakeSpec, tmp_path: Path) -> None:
    train(make_spec(), tmp_path / "a", quiet)
    train(make_spec(seed=1), tmp_path / "b", quiet)
    assert weights(tmp_path / "a") != weights(tmp_path / "b")


@pytest.mark.parametrize(
    ("recipe", "model", "step"),  # the step lies inside the first epoch of five steps, in the second, in the third
    [(*ARMS[2], 3), (*ARMS[3], 8), (*ARMS[2], 13)],
)
def test_an_interrupted_training_ends_as_if_it_had_not_been(
    make_spec: MakeSpec, tmp_path: Path, recipe: str, model: str, step: int
) -> None:
    spec = make_spec(recipe, model, steps=14)
    whole = train(spec, tmp_path / "whole", quiet)
    with pytest.raises(Interrupted):
        train(spec, tmp_path / "cut", interrupt_at(step))
    steps: list[int] = []
    resumed = train(spec, tmp_path / "cut", lambda event: steps.append(event.step))
    assert steps[0] > 1, "it began again from the start"
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert (resumed.best_step, resumed.validation_loss) == (whole.best_step, whole.validation_loss)


def test_the_seconds_of_all_runs_are_counted(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 100_000, 10))
    monkeypatch.setattr("understudy.training.trainer.time.monotonic", lambda: next(clock))
    spec = make_spec(steps=6)
    with pytest.raises(Interrupted):
        train(spec, tmp_path / "cut", interrupt_at(3))
    saved = json.loads((tmp_path / "cut" / "checkpoints" / "checkpoint-2" / "trainer_state.json").read_bytes())
    before = saved["stateful_callbacks"]["Stopwatch"]["attributes"]["seconds"]
    assert before > 0
    assert train(spec, tmp_path / "cut", quiet).seconds > before + 10


def test_a_checkpoint_that_was_cut_off_is_passed_over(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(steps=14)
    train(spec, tmp_path / "whole", quiet)
    with pytest.raises(Interrupted):
        train(spec, tmp_path / "cut", interrupt_at(9))
    newest = tmp_path / "cut" / "checkpoints" / "checkpoint-10"
    newest.mkdir()
    (newest / "trainer_state.json").write_text('{"global_step": 1')
    train(spec, tmp_path / "cut", quiet)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_finished_training_is_not_done_again(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    first = train(spec, tmp_path / "out", quiet)
    (tmp_path / "train.parquet").unlink()
    assert train(spec, tmp_path / "out", interrupt_at(0)) == first


def test_what_another_spec_left_is_neither_read_nor_continued(make_spec: MakeSpec, tmp_path: Path) -> None:
    wanted = make_spec("rationale_gate", steps=14)
    train(wanted, tmp_path / "alone", quiet)
    train(make_spec("finetune", steps=6), tmp_path / "shared", quiet)
    with pytest.raises(Interrupted):
        train(make_spec("rationale_gate", steps=14, seed=1), tmp_path / "shared", interrupt_at(6))
    assert train(wanted, tmp_path / "shared", quiet).steps == 14
    assert weights(tmp_path / "shared") == weights(tmp_path / "alone")


def test_a_file_that_holds_other_rows_now_is_another_training(
    make_spec: MakeSpec, tmp_path: Path, rows: list[AnnotatedExample]
) -> None:
    """The bench writes its files where the last ones were: the paths of a spec do not say what was trained on."""
    train(make_spec(), tmp_path / "finished", quiet)
    with pytest.raises(Interrupted):
        train(make_spec(), tmp_path / "cut", interrupt_at(4))
    spec = make_spec(rows=rows[:10])
    assert train(spec, tmp_path / "finished", quiet).instances == 10
    train(spec, tmp_path / "cut", quiet)
    assert weights(tmp_path / "cut") == weights(tmp_path / "finished"), "it went on from what other rows had made"
    write_examples(spec.validation, [row.example for row in rows[:4]])
    assert train(spec, tmp_path / "finished", quiet).validation_rows == 4


def test_a_claim_that_does_not_tell_what_its_files_held_is_no_ones(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(steps=14)
    train(spec, tmp_path / "whole", quiet)
    with pytest.raises(Interrupted):
        train(make_spec("finetune", steps=14, seed=1), tmp_path / "cut", interrupt_at(6))
    (tmp_path / "cut" / "spec.json").write_text(spec.model_dump_json() + "\n")  # as claims were written before
    steps: list[int] = []
    train(spec, tmp_path / "cut", lambda event: steps.append(event.step))
    assert steps[0] == 1
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_two_processes_do_not_train_into_one_folder_at_once(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec, out = make_spec(steps=6), tmp_path / "out"
    out.mkdir()
    events: list[TrainEvent] = []
    with open(out / "lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as another process would hold it
        second = threading.Thread(target=train, args=(spec, out, events.append))
        second.start()
        second.join(timeout=1.0)
        assert second.is_alive()
        assert events == []
    second.join(timeout=60)
    assert (out / "result.json").is_file()


def test_what_is_left_is_a_model_folder_and_the_result(make_spec: MakeSpec, tmp_path: Path) -> None:
    result = train(make_spec("rationale_gate"), tmp_path / "out", quiet)
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names == {
        "lock",
        "result.json",
        "spec.json",
        "model/card.json",
        "model/config.json",
        "model/model.safetensors",
        "model/task.json",
        "model/tokenizer.json",
        "model/tokenizer_config.json",
    }
    card = load_card(result.model)
    assert card is not None
    assert (card.reasons, card.recipe, card.seed, card.explain_template) == ("gate", "rationale_gate", 0, None)
    assert card.validation["accuracy"] == result.validation_accuracy


@pytest.mark.parametrize(("recipe", "model"), [("rationale_gate+logit_kd", "scratch:bert-1x16"), ("saliency", T5)])
def test_the_served_student_gives_the_accuracy_that_training_reported(
    make_spec: MakeSpec, tmp_path: Path, rows: list[AnnotatedExample], recipe: str, model: str
) -> None:
    result = train(make_spec(recipe, model, steps=12), tmp_path / "out", quiet)
    engine = HFEngine.load(result.model)
    answers = engine.predict([PredictionInput(input=row.example.input) for row in rows], explain=True, top_k=2)
    right = sum(answer.label == row.example.output for answer, row in zip(answers, rows, strict=True))
    assert right / len(rows) == result.validation_accuracy


def test_a_two_task_student_is_asked_with_the_prefixes_it_was_trained_with(make_spec: MakeSpec, tmp_path: Path) -> None:
    task = TaskSpec(kind="classification", labels=("bad", "good"), template="Review: {input}")
    result = train(make_spec("saliency", T5, steps=1, task=task), tmp_path / "out", quiet)
    card, asked = load_card(result.model), load_task(result.model)
    assert card is not None
    assert asked is not None
    assert asked.template == "predict: Review: {input}"
    assert (card.reasons, card.explain_template) == ("generated", "explain: Review: {input}")


@pytest.mark.parametrize(
    ("recipe", "model"),
    [
        ("finetune", "scratch:bert-1x32"),
        ("rationale_gate+logit_kd", "scratch:bert-1x32"),
        ("logit_kd", "scratch:t5-1x32"),
    ],
)
def test_a_student_learns_a_task_that_one_word_decides(
    make_spec: MakeSpec, tmp_path: Path, recipe: str, model: str
) -> None:
    hyper = Hyperparameters(n_epochs=1000, max_steps=80, batch_size=12, learning_rate_multiplier=1.5)
    result = train(make_spec(recipe, model, hyperparameters=hyper), tmp_path / "out", quiet)
    assert result.validation_accuracy == 1.0


def test_the_gate_learns_the_teachers_words_and_the_control_does_not(
    make_spec: MakeSpec, tmp_path: Path, rows: list[AnnotatedExample]
) -> None:
    hyper = Hyperparameters(n_epochs=1000, max_steps=120, batch_size=12, learning_rate_multiplier=1.5)
    found = {}
    for recipe in ("rationale_gate", "rationale_gate+random_rationale"):
        spec = make_spec(recipe, "scratch:bert-1x32", hyperparameters=hyper, top_k=1)
        engine = HFEngine.load(train(spec, tmp_path / recipe, quiet).model)
        answers = engine.predict([PredictionInput(input=row.example.input) for row in rows], explain=True, top_k=1)
        named = [answer.words[0].text for answer in answers if answer.words]
        found[recipe] = sum(word in ("wonderful", "charming", "dreadful", "boring") for word in named) / len(rows)
    assert found["rationale_gate"] == 1.0
    assert found["rationale_gate+random_rationale"] < 0.7


def test_a_decoder_can_be_fine_tuned_as_a_teacher(
    make_spec: MakeSpec, tmp_path: Path, rows: list[AnnotatedExample]
) -> None:
    plain = tmp_path / "plain.parquet"
    write_examples(plain, [row.example for row in rows])
    hyper = Hyperparameters(n_epochs=1000, max_steps=200, batch_size=12, learning_rate_multiplier=1.5)
    task = TaskSpec(kind="classification", labels=("bad", "good"), template="{input} It was")
    spec = make_spec(model="scratch:gpt2-1x32", train=(plain,), annotated=False, hyperparameters=hyper, task=task)
    assert train(spec, tmp_path / "out", quiet).validation_accuracy == 1.0


def test_an_open_task_is_validated_by_what_the_model_writes(make_spec: MakeSpec, tmp_path: Path) -> None:
    hyper = Hyperparameters(n_epochs=1000, max_steps=200, batch_size=12, learning_rate_multiplier=1.5)
    spec = make_spec("finetune", "scratch:t5-1x32", task=TaskSpec(), hyperparameters=hyper)
    assert train(spec, tmp_path / "out", quiet).validation_accuracy > 0.9


@pytest.mark.parametrize(("model", "pairs", "times", "most"), [(T5, 30, 2, 512), ("scratch:gpt2-1x16", 60, 3, 256)])
def test_a_student_may_write_what_it_was_taught_and_a_quarter_more(
    make_spec: MakeSpec, tmp_path: Path, rows: list[AnnotatedExample], model: str, pairs: int, times: int, most: int
) -> None:
    """A decoder shares its window with the text, so that it may not reach what it was taught."""
    task, longest = TaskSpec(), " ".join(["good", "bad"] * pairs)
    bounds = {}
    for name, output in (("short", "good"), ("long", longest), ("longest", " ".join([longest] * times))):
        first = rows[0].model_copy(update={"example": rows[0].example.model_copy(update={"output": output})})
        result = train(make_spec(model=model, task=task, rows=[first, *rows[1:]], steps=2), tmp_path / name, quiet)
        card, adapter = load_card(result.model), load_adapter(str(result.model), device="cpu")
        assert card is not None
        assert isinstance(adapter, Writer)
        bounds[name] = card.answer_tokens
        assert card.answer_tokens == adapter.answer_tokens == adapter.longest_answer
        assert adapter.reaches(output) is (name != "longest" or model == T5)
        taken = len(adapter.written_ids(output, ended=True))
    assert bounds["short"] == 64
    assert bounds["long"] % 16 == 0
    assert taken > bounds["long"] > 150
    assert bounds["longest"] <= most


def test_what_the_teacher_answered_at_too_great_length_is_no_label(
    make_spec: MakeSpec, tmp_path: Path, rows: list[AnnotatedExample]
) -> None:
    unlabelled = tmp_path / "unlabelled.parquet"
    said = rows[0].model_copy(update={"example": rows[0].example.model_copy(update={"output": "good " * 600})})
    write_annotated(unlabelled, [said, *rows[1:4]])
    spec = make_spec("teacher_labels", T5, task=TaskSpec(), unlabelled=(unlabelled,), steps=2)
    result = train(spec, tmp_path / "out", quiet)
    assert (result.teacher_labelled, result.unsure, result.too_long) == (3, 0, 1)


def test_all_arms_take_the_same_steps_on_the_same_rows(make_spec: MakeSpec, tmp_path: Path) -> None:
    hyper = Hyperparameters(n_epochs=1, batch_size=5)
    results = [
        train(make_spec(recipe, model, hyperparameters=hyper), tmp_path / recipe, quiet) for recipe, model in ARMS
    ]
    assert {(result.steps, result.batch_size, result.instances) for result in results} == {(5, 5, 24)}


def test_rows_without_words_are_counted_and_still_train_their_label(
    make_spec: MakeSpec, tmp_path: Path, rows: list[AnnotatedExample]
) -> None:
    silent = {"rationale": (), "words": (), "probabilities": None}
    changed = [
        row.model_copy(update={"attribution": row.attribution.model_copy(update=silent)}) if i < 3 else row
        for i, row in enumerate(rows)
    ]
    for recipe, model in (("rationale_gate+logit_kd", "scratch:bert-1x16"), ("saliency+logit_kd", T5)):
        result = train(make_spec(recipe, model, rows=changed), tmp_path / recipe, quiet)
        assert (result.without_words, result.without_distribution, result.instances) == (3, 3, 24)


def test_progress_is_told_with_about_ten_validations(make_spec: MakeSpec, tmp_path: Path) -> None:
    events: list[TrainEvent] = []
    train(make_spec(steps=25), tmp_path / "out", events.append)
    validated = [event.step for event in events if event.validation_accuracy is not None]
    assert validated == [3, 6, 9, 12, 15, 18, 21, 24, 25]
    assert {event.total_steps for event in events} == {25}
    assert [event.step for event in events if event.loss is not None] == list(range(1, 26))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"recipe": "label_then_rationale"}, "trains causal or seq2seq students"),
        ({"recipe": "teacher_labels"}, "unlabelled_file"),
        ({"lora": LoraSpec()}, "pretrained student"),
        ({"task": TaskSpec()}, "fixed label set"),
        ({"recipe": "nonsense"}, "unknown recipe"),
    ],
)
def test_a_spec_that_cannot_be_trained_says_why(
    make_spec: MakeSpec, tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        train(make_spec(**changes), tmp_path / "out", quiet)
    assert caught.value.param == ("lora" if "lora" in changes else "recipe")
    assert not (tmp_path / "out" / "spec.json").exists()


def test_an_unknown_model_is_named(make_spec: MakeSpec, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no/such-model"):
        train(make_spec(model="no/such-model"), tmp_path / "out", quiet)


def test_students_with_and_without_a_gate_start_from_the_same_encoder(rows: list[AnnotatedExample]) -> None:
    texts = [row.example.input for row in rows]
    task = TaskSpec(kind="classification", labels=("bad", "good"))
    models = [
        create("scratch:bert-1x16", store=None, task=task, texts=texts, targets=[], seed=3, pooling=pooling)[0]
        for pooling in ("mean", "gate")
    ]
    plain, gated = (model.encoder.state_dict() for model in models)
    assert all(torch.equal(plain[name], gated[name]) for name in plain)


def test_rows_that_the_teacher_labelled_train_the_recipe_that_reads_them_and_no_other(
    make_spec: MakeSpec, tmp_path: Path, rows: list[AnnotatedExample]
) -> None:
    half = tmp_path / "unlabelled.parquet"
    doubtful = rows[-1].attribution.model_copy(update={"probability": 0.4})
    write_annotated(half, [*rows[12:-1], rows[-1].model_copy(update={"attribution": doubtful})])
    # An epoch is all rows that any arm may read, so that equal epochs are equal steps.
    given = {"rows": rows[:12], "unlabelled": (half,), "hyperparameters": Hyperparameters(n_epochs=1, batch_size=1)}
    plain = train(make_spec("finetune", **given), tmp_path / "plain", quiet)
    taught = train(make_spec("teacher_labels", **given), tmp_path / "taught", quiet)
    assert (plain.instances, plain.teacher_labelled) == (12, 0)
    assert (taught.instances, taught.teacher_labelled, taught.unsure) == (12 + 11, 11, 1)
    assert plain.steps == taught.steps == 12 + 11
    assert plain.parameters == taught.parameters, "the tokenizer is trained on the same texts"


@pytest.mark.parametrize(("recipe", "scratch"), [("rationale_gate", "scratch:bert-1x16"), ("saliency", T5)])
def test_low_rank_adapters_leave_a_plain_model(make_spec: MakeSpec, tmp_path: Path, recipe: str, scratch: str) -> None:
    model = str(train(make_spec(model=scratch), tmp_path / "pretrained", quiet).model)
    given = make_spec(recipe, model, steps=14, lora=LoraSpec(rank=2))
    plain = train(make_spec(recipe, model, steps=1), tmp_path / "plain", quiet)
    found = train(given, tmp_path / "whole", quiet)
    assert found.parameters == plain.parameters == plain.trained_parameters
    assert found.trained_parameters is not None
    assert found.trained_parameters < found.parameters
    engine = HFEngine.load(tmp_path / "whole" / "model")
    assert not any("lora" in name for name, _ in engine.adapter.model.named_modules())
    with pytest.raises(Interrupted):
        train(given, tmp_path / "cut", interrupt_at(8))
    train(given, tmp_path / "cut", quiet)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_every_arm_is_judged_by_the_same_validation_rows(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.training.validation.MAX_WRITTEN", 5)
    plain = train(make_spec("finetune", T5, steps=2), tmp_path / "plain", quiet)
    spec = make_spec("rationale_then_label", T5, steps=2)
    writes = train(spec, tmp_path / "writes", quiet)
    assert writes.validation_rows == plain.validation_rows == 24
    saved = validate(load_adapter(str(writes.model), device="cpu"), read_examples(spec.validation))
    assert (writes.validation_accuracy, writes.validation_loss) == pytest.approx((saved.accuracy, saved.loss))


def test_a_training_has_its_seconds_and_says_how_many_steps_they_were(make_spec: MakeSpec, tmp_path: Path) -> None:
    events: list[TrainEvent] = []
    spec = make_spec(hyperparameters=Hyperparameters(seconds=1.0, batch_size=5))
    result = train(spec, tmp_path, events.append)
    assert result.seconds >= 1.0
    assert result.steps == result.planned_steps >= 1
    assert (events[-1].step, events[-1].total_steps) == (result.steps, result.steps)
    assert any(event.validation_accuracy is not None for event in events)
