"""The training stage: rows in, one trained model out, the same for every recipe, for students and for teachers.

`train` can be ended at any time and called again: it goes on from its last checkpoint, and where `result.json` is there
it only reads that. What another spec left in the same folder, or this one of files that held something else, is removed
first, and a second process that trains into it waits for the first. Equal specs on equal rows give bit-equal models on
one kind of CPU with one number of threads.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from understudy.artifacts import ArtifactStore, file_sha256
from understudy.data.parquet import read_annotated, read_examples
from understudy.environment import Environment
from understudy.errors import InvalidRequest
from understudy.models.base import ANSWER_TOKENS, Adapter
from understudy.models.fingerprint import fingerprint
from understudy.models.forms import SEPARATORS, compose
from understudy.models.likelihood import IGNORE
from understudy.models.load import ModelCard, adapt, architecture_of, create, save
from understudy.models.lora import merge, trained_parameters, wrap
from understudy.models.scratch import PREFIX
from understudy.schemas import Reasons
from understudy.training.collate import Collator
from understudy.training.objective import Objective
from understudy.training.plan import Plan, Shape, resolve
from understudy.training.recipes import Offer, Recipe, fits, parse_recipe
from understudy.training.spec import TrainEvent, TrainResult, TrainSpec
from understudy.training.trainer import DistillationTrainer, Stopwatch, last_checkpoint, training_arguments
from understudy.training.validation import validate, validation_rows
from understudy.training.views import EXPLAIN, Instance, Row, build_instances, label_template, select_rows

__all__ = ["train"]


def train(
    spec: TrainSpec, out: Path, emit: Callable[[TrainEvent], None], leave: Callable[[], bool] = lambda: False
) -> TrainResult:
    """Train what the spec asks for into `out/model`; `out/result.json` is written last.

    `leave` is asked after each step: when it says so, a checkpoint is written and SystemExit raised.

    Raises InvalidRequest or ModelError for a spec that cannot be trained, ModelNotFound for an unknown model.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        return _train(spec, out, emit, leave)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system takes back from a process that dies.

    Of several processes that share one training, as a launcher starts them, the first holds it for all.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    together = PartialState(cpu=not torch.accelerator.is_available()) if several else None
    with open(out / "lock", "w") as lock:
        if together is None or together.is_main_process:
            fcntl.flock(lock, fcntl.LOCK_EX)
        if together is not None:
            together.wait_for_everyone()
        yield
        if together is not None:
            together.wait_for_everyone()


def _train(spec: TrainSpec, out: Path, emit: Callable[[TrainEvent], None], leave: Callable[[], bool]) -> TrainResult:
    finished = out / "result.json"
    if _is_of(spec, out) and finished.is_file():
        return TrainResult.model_validate_json(finished.read_bytes())
    recipe = parse_recipe(spec.recipe, param="recipe")
    labelled = select_rows(_read(spec), spec.max_train_rows)
    sure, unsure = _labelled_by_teacher(spec)
    held_out = validation_rows(read_examples(spec.validation), spec.task.kind)
    # On the way fewer rows do, where reasons are written before each answer; in the end all arms answer the same ones.
    few = validation_rows(held_out, "generation") if recipe.form == "rationale_then_label" else held_out
    adapter = _untrained(spec, recipe, labelled, sure)
    taught = _within_window(adapter, sure) if recipe.reads("labels") else []
    rows = [*labelled, *taught]
    instances = build_instances(adapter, rows, recipe, seed=spec.seed, top_k=spec.top_k)
    # Of all rows that any arm may read, so that every arm takes the same number of steps.
    plan = resolve(spec.hyperparameters, rows=len(labelled) + len(sure), shape=_shape(spec, adapter))
    start = fingerprint(adapter)
    adapter = adapter.with_answer_tokens(_answer_tokens(instances, recipe))
    stopwatch = Stopwatch(spec.max_seconds, spec.stop_after, plan.seconds)
    trainer = DistillationTrainer(
        model=adapter.model,
        args=training_arguments(plan, out / "checkpoints", seed=spec.seed, parameters=adapter.model.num_parameters()),
        train_dataset=instances,
        eval_dataset=few,
        data_collator=Collator.of(adapter),
        objective=Objective(recipe, adapter.architecture, spec.rationale_weight),
        validate=lambda: validate(adapter, few),
        emit=emit,
        stopwatch=stopwatch,
        patience=plan.patience,
        leave=leave,
        rate=plan.rate,
    )
    _check_clock(plan, trainer)
    if trainer.is_world_process_zero():
        _claim(spec, out)
    trainer.accelerator.wait_for_everyone()
    trainer.resume(last_checkpoint(out / "checkpoints"))
    trained = trained_parameters(adapter.model)
    if spec.lora:
        merge(adapter.model)
    found: dict[str, Any] = {
        "teacher_labelled": len(taught),
        "unsure": unsure,
        "too_long": len(sure) - len(taught) if recipe.reads("labels") else 0,
        "trained_parameters": trained,
    }
    if few is not held_out:
        adapter.model.eval()  # the trainer leaves it as it trained it, with dropout
        last = validate(adapter, held_out)
        found |= {"validation_accuracy": last.accuracy, "validation_loss": last.loss, "validation_rows": len(held_out)}
    result = _result(trainer, plan, recipe, instances, out, stopwatch)
    result = result.model_copy(update={**found, "start": start})
    if trainer.is_world_process_zero():
        save(adapter.model, adapter.tokenizer, adapter.task, _card(spec, recipe, adapter, result), result.model)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        _write(finished, result.model_dump_json(indent=1))
    return result


def _check_clock(plan: Plan, trainer: DistillationTrainer) -> None:
    if plan.seconds is not None and trainer.args.world_size > 1:
        raise InvalidRequest(
            f"{trainer.args.world_size} processes share a training step by step, and their clocks would end it at "
            "different ones: give max_steps in place of seconds",
            param="hyperparameters.seconds",
        )


def _read(spec: TrainSpec) -> list[Row]:
    if spec.annotated:
        return [Row(one.example, one.attribution) for one in read_annotated(*spec.train)]
    return [Row(example) for example in read_examples(*spec.train)]


def _labelled_by_teacher(spec: TrainSpec) -> tuple[list[Row], int]:
    """The rows whose output is the teacher's answer, where it was sure enough, and how many it was not sure of."""
    found = [Row(one.example, one.attribution) for one in (read_annotated(*spec.unlabelled) if spec.unlabelled else [])]
    sure = [row for row in found if row.attribution and (row.attribution.probability or 0.0) >= spec.min_probability]
    return sure, len(found) - len(sure)


def _within_window(adapter: Adapter, rows: Sequence[Row]) -> list[Row]:
    """The rows whose output the student can be taught: a teacher with a longer window writes longer answers."""
    return [row for row in rows if adapter.fits(compose(adapter.form, row.example.output, []))]


def _answer_tokens(instances: Sequence[Instance], recipe: Recipe) -> int:
    """How much the student may write: its longest target and a quarter more, since new texts have longer answers."""
    read = recipe.reads("words")  # a free text is learned from, and never asked for
    sides = [side for one in instances for side in (one.label, one.explanation if read else None) if side]
    longest = max(len(side.labels) - side.labels.count(IGNORE) for side in sides)
    return max(ANSWER_TOKENS, 16 * math.ceil(longest * 1.25 / 16))


def _untrained(spec: TrainSpec, recipe: Recipe, rows: Sequence[Row], more: Sequence[Row]) -> Adapter:
    """The model to be trained, with the adapter that tokenises for it and asks it at validation.

    A tokenizer from scratch is trained on `more` as well, so that all arms have the same one.
    """
    store = ArtifactStore(spec.artifacts) if spec.artifacts else None
    architecture = architecture_of(spec.model, store)
    problem = fits(recipe, architecture, spec.task, _offers(spec, rows))
    if problem or not rows:
        raise InvalidRequest(problem or "there is no row to train on", param="recipe" if problem else "train")
    if spec.lora and spec.model.startswith(PREFIX):
        raise InvalidRequest(
            f"lora trains a small update of weights that stay, and those of '{spec.model}' are random: leave lora out, "
            "or take a pretrained student",
            param="lora",
        )
    terms = recipe.terms(architecture)
    model, tokenizer = create(
        spec.model,
        store=store,
        task=spec.task,
        texts=[row.example.input for row in (*rows, *more)],
        # In every arm, so that all tokenizers made here are equal.
        targets=[*(row.example.output for row in (*rows, *more)), *SEPARATORS.values()],
        seed=spec.seed,
        pooling="gate" if "gate" in terms else "tags" if "tags" in terms else "mean",
    )
    adapter = adapt(model, tokenizer, label_template(recipe, spec.task, architecture)).with_form(recipe.form)
    model.requires_grad_(True)  # an adapter freezes what it is given
    if spec.lora:
        wrap(model, spec.lora, seed=spec.seed)
    return adapter


def _offers(spec: TrainSpec, rows: Sequence[Row]) -> set[Offer]:
    offers: set[Offer] = set()
    if any(row.example.rationale for row in rows):
        offers.add("rationale")
    if spec.unlabelled:
        offers.add("unlabelled")
    if any(row.attribution and row.attribution.token_probabilities for row in rows):
        offers.add("tokens")
    return offers


def _shape(spec: TrainSpec, adapter: Adapter) -> Shape:
    body = getattr(adapter.model.config, "encoder", None) or adapter.model.config
    return Shape(
        architecture=adapter.architecture,
        parameters=adapter.model.num_parameters(),
        width=body.hidden_size,
        layers=body.num_hidden_layers,
        scratch=spec.model.startswith(PREFIX),
        lora=spec.lora is not None,
    )


def _result(
    trainer: DistillationTrainer,
    plan: Plan,
    recipe: Recipe,
    instances: Sequence[Instance],
    out: Path,
    stopwatch: Stopwatch,
) -> TrainResult:
    best = _best(trainer.state)
    return TrainResult(
        model=out / "model",
        validation_accuracy=best["eval_accuracy"],
        validation_loss=best["eval_loss"],
        validation_rows=len(trainer.eval_dataset),
        best_step=int(best["step"]),
        steps=trainer.state.global_step,
        batch_size=plan.batch_size,
        learning_rate=plan.learning_rate,
        seconds=stopwatch.seconds,
        planned_steps=plan.steps if plan.seconds is None else trainer.state.global_step,
        tokens=int(stopwatch.tokens),
        parameters=trainer.model.num_parameters(),
        device=str(trainer.args.device),
        instances=len(instances),
        without_words=_lacking(instances, recipe),
        without_distribution=_untaught(instances, recipe),
        truncated=sum(one.label.truncated > 0 for one in instances),
        environment=_environment(trainer),
    )


def _environment(trainer: DistillationTrainer) -> Environment:
    device = trainer.args.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Environment.here(threads=torch.get_num_threads(), device=name, processes=trainer.args.world_size)


def _lacking(instances: Sequence[Instance], recipe: Recipe) -> int:
    """Rows without the reasons that the recipe reads; where they are part of what is written, nothing tells them."""
    if recipe.rationale is None or recipe.form != "label":
        return 0
    return sum(not one.has_reasons for one in instances)


def _untaught(instances: Sequence[Instance], recipe: Recipe) -> int:
    """Rows without a distribution that the student can follow, where the recipe reads one."""
    return sum(not (one.distribution or one.expected) for one in instances) if recipe.reads("distribution") else 0


def _best(state: Any) -> dict[str, float]:
    """What was logged when the checkpoint that is kept was validated."""
    return next(
        entry for entry in state.log_history if "eval_rank" in entry and entry["step"] == state.best_global_step
    )


def _card(spec: TrainSpec, recipe: Recipe, adapter: Adapter, result: TrainResult) -> ModelCard:
    terms = recipe.terms(adapter.architecture)
    writes = "explanation" in terms and recipe.reads("words")  # a free text names no words
    learned: Reasons = (
        "gate" if terms & {"gate", "tags"} else "generated" if writes or recipe.form != "label" else "saliency"
    )
    return ModelCard(
        base_model=spec.model,
        recipe=recipe.name,
        seed=spec.seed,
        reasons=learned,
        form=recipe.form,
        explain_template=EXPLAIN + spec.task.template if "explanation" in terms else None,
        top_k=spec.top_k,
        max_tokens=adapter.max_tokens,
        answer_tokens=adapter.longest_answer or ANSWER_TOKENS,
        validation={
            "accuracy": result.validation_accuracy,
            "loss": result.validation_loss,
            "rows": result.validation_rows,
            "step": result.best_step,
        },
    )


def _is_of(spec: TrainSpec, out: Path) -> bool:
    """Whether what is in the folder was made for this very spec, of files that held what they hold now.

    One that is gone says nothing against it. A claim that does not tell what its files held is no one's.
    """
    claimed = out / "spec.json"
    if not claimed.is_file():
        return False
    left = json.loads(claimed.read_bytes())
    if left.get("spec") != spec.model_dump(mode="json"):
        return False
    return all(left["files"].get(path) == digest for path, digest in _files(spec).items())


def _claim(spec: TrainSpec, out: Path) -> None:
    """Make the folder this spec's: a checkpoint or a model of another one must never pass for its own."""
    if _is_of(spec, out):
        return
    (out / "result.json").unlink(missing_ok=True)
    for name in ("checkpoints", "model"):
        shutil.rmtree(out / name, ignore_errors=True)
    _write(out / "spec.json", json.dumps({"spec": spec.model_dump(mode="json"), "files": _files(spec)}))


def _files(spec: TrainSpec) -> dict[str, str]:
    """The SHA-256 of the files of rows. A model has only its name: to read large weights again would take long."""
    return {str(path): file_sha256(path) for path in (*spec.train, *spec.unlabelled, spec.validation) if path.is_file()}


def _write(path: Path, text: str) -> None:
    aside = path.with_suffix(".part")
    aside.write_text(text + "\n", encoding="utf-8")
    os.replace(aside, path)
