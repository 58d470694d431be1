"""The one trainer: transformers' loop, checkpoints, precision and resuming around the objective of a recipe.

It differs from its base class in this: the loss is the objective's, summed over examples and divided by the number of
examples of the whole optimisation step; the examples of a step are alike in length; validation asks the model for
answers; a loss that is not finite ends the training; one that had ended is not trained on. Knows nothing of recipes,
files or templates.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState, TrainerState

from understudy.errors import InvalidRequest, ModelError
from understudy.models.likelihood import IGNORE
from understudy.training.collate import Tensors
from understudy.training.objective import Objective
from understudy.training.plan import VALIDATIONS, Plan, Precision, micro_batch
from understudy.training.sampler import LengthBuckets
from understudy.training.spec import TrainEvent
from understudy.training.validation import Validation

__all__ = ["DistillationTrainer", "Stopwatch", "last_checkpoint", "training_arguments"]

_LOG_EVENTS = 50
LEFT = 143  # the exit status of who ends on SIGTERM
_FROM_BF16 = 50_000_000
"""Parameters from which bfloat16 pays on an accelerator; a small model waits for memory and not for arithmetic."""


class Stopwatch(TrainerCallback, ExportableState):
    """Seconds and tokens over all runs of a training that was interrupted; kept in its checkpoints.

    After `limit` seconds, or `stop_after` steps, it ends the training at the step that is reached, with a last
    validation. With `whole` seconds the training takes that long instead of a number of steps, the seconds `aside` of
    its validations left out: it is logged and validated at even shares of that time. `clock` is monotonic.
    """

    def __init__(
        self,
        limit: float | None = None,
        stop_after: int | None = None,
        whole: float | None = None,
        clock: Callable[[], float] = lambda: time.monotonic(),
    ) -> None:
        self.limit = limit
        self.stop_after = stop_after
        self.whole = whole
        self.clock = clock
        self.before = 0.0
        self.aside = 0.0
        self.logged = 0  # even shares of `whole` that were told of
        self.tokens: Any = 0  # a tensor while it grows, so that no step waits for it
        self.started: float | None = None

    def on_train_begin(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        self.read(state)
        self.started = self.clock()

    def read(self, state: TrainerState) -> None:
        """Go on from what a checkpoint says; a fresh state has zeros there."""
        kept = state.stateful_callbacks["Stopwatch"]["attributes"]
        self.before, self.tokens = kept["seconds"], kept.get("tokens", 0)
        self.aside, self.logged = kept.get("aside", 0.0), kept.get("logged", 0)

    def on_step_end(self, _: Any, state: Any, control: Any, **___: Any) -> None:
        if self.whole is not None:
            self._keep_time(control)
        late = self.limit is not None and self.seconds >= self.limit
        if late or (self.stop_after is not None and state.global_step >= self.stop_after):
            control.should_training_stop = control.should_evaluate = control.should_save = True

    def _keep_time(self, control: Any) -> None:
        """Log, validate and end by the clock."""
        reached = int(self.share * _LOG_EVENTS)
        if reached > self.logged:
            control.should_log = True
            if reached * VALIDATIONS // _LOG_EVENTS > self.logged * VALIDATIONS // _LOG_EVENTS:
                control.should_evaluate = control.should_save = True
        self.logged = reached
        control.should_training_stop = control.should_training_stop or self.share >= 1

    @property
    def seconds(self) -> float:
        return self.before + (self.clock() - self.started if self.started is not None else 0.0)

    @property
    def share(self) -> float:
        """How much of a training of `whole` seconds is over."""
        assert self.whole is not None
        return min(1.0, (self.seconds - self.aside) / self.whole)

    def expected_steps(self, state: TrainerState) -> int:
        """All steps that the training will take; by the clock as many as its pace so far lets expect."""
        if self.whole is None:
            return int(state.max_steps)
        return max(state.global_step, round(state.global_step / max(self.share, 1 / _LOG_EVENTS)))

    def state(self) -> dict[str, Any]:
        counted = {"tokens": int(self.tokens), "aside": self.aside, "logged": self.logged}
        return {"args": {}, "attributes": {"seconds": self.seconds, **counted}}


class _Patience(EarlyStoppingCallback):
    """transformers' own, which counts on where an interrupted training had stopped."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        super().on_train_begin(args, state, control, **more)
        kept = state.stateful_callbacks[type(self).__name__]["attributes"]
        self.early_stopping_patience_counter = kept["early_stopping_patience_counter"]


class _Leave(TrainerCallback):
    """Makes the step that is reached a checkpoint when the process is asked to end, and ends it then."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self.asked = asked
        self.leaves = False

    def on_step_end(self, args: Any, _: Any, control: Any, **___: Any) -> None:
        if args.world_size == 1 and self.asked():  # several processes would have to agree on the step
            self.leaves = control.should_save = True

    def on_save(self, *_: Any, **__: Any) -> None:
        if self.leaves:
            raise SystemExit(LEFT)


class _Events(TrainerCallback):
    def __init__(self, emit: Callable[[TrainEvent], None], stopwatch: Stopwatch) -> None:
        self.emit = emit
        self.stopwatch = stopwatch

    def on_log(self, _: Any, state: Any, __: Any, logs: dict[str, float], **___: Any) -> None:
        if state.is_world_process_zero and ("loss" in logs or "eval_accuracy" in logs):
            self.emit(
                TrainEvent(
                    step=state.global_step,
                    total_steps=self.stopwatch.expected_steps(state),
                    loss=logs.get("loss"),
                    validation_accuracy=logs.get("eval_accuracy"),
                )
            )


class DistillationTrainer(Trainer):
    """`validate` answers how good the model is now; it is called about ten times and the best checkpoint is kept.

    After `patience` validations that were not better than the best before them the training ends. `rate` is the
    learning rate's factor by share of the stopwatch's time, where a training has one in place of steps. When `leave`
    says so a checkpoint is written and SystemExit raised.
    """

    loss_is_scaled_for_ga = True  # by the number of examples of the step, see compute_loss

    def __init__(
        self,
        *,
        objective: Objective,
        validate: Callable[[], Validation],
        emit: Callable[[TrainEvent], None],
        stopwatch: Stopwatch,
        patience: int | None = None,
        rate: Callable[[float], float] | None = None,
        leave: Callable[[], bool] = lambda: False,
        **kwargs: Any,
    ) -> None:
        patient = [_Patience(patience)] if patience is not None else []
        super().__init__(callbacks=[stopwatch, _Events(emit, stopwatch), *patient, _Leave(leave)], **kwargs)
        self.rate = rate
        self.objective = objective
        self.stopwatch = stopwatch
        self.validate = validate
        self.model_accepts_loss_kwargs = False  # the model never computes a loss
        self.remove_callback(PrinterCallback)

    def resume(self, checkpoint: str | None) -> None:
        """Train, on from a checkpoint where there is one; of a training that had ended only the best step is loaded."""
        state = TrainerState.load_from_json(f"{checkpoint}/{TRAINER_STATE_NAME}") if checkpoint else None
        if state is None or not state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
            self.train(resume_from_checkpoint=checkpoint)
            return
        self.state = state
        self.stopwatch.read(state)
        self._load_best_model()

    def get_batch_samples(
        self, epoch_iterator: Iterator[Tensors], num_batches: int, device: torch.device
    ) -> tuple[list[Tensors], Tensor]:
        """The micro-batches of one step, and how many examples they hold on all devices together."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        examples = torch.tensor(sum(len(batch["label"]["labels"]) for batch in batches), device=device)
        read = torch.stack([_tokens(batch).to(device) for batch in batches]).sum()
        counts = self.accelerator.gather(torch.stack([examples, read]).reshape(1, 2)).sum(0)
        self.stopwatch.tokens = self.stopwatch.tokens + counts[1]
        return batches, counts[0]

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthBuckets:
        instances = self.train_dataset if train_dataset is None else train_dataset
        step = self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthBuckets([one.length for one in instances], step, self.args.seed)

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """By the clock where the training has a time, else transformers' own by steps."""
        if self.stopwatch.whole is None or self.rate is None:
            return super().create_scheduler(num_training_steps, optimizer)
        rate, stopwatch = self.rate, self.stopwatch
        scheduler = LambdaLR(optimizer or self.optimizer, lambda _: rate(stopwatch.share))
        self.lr_scheduler = scheduler
        return scheduler

    def compute_loss(
        self,
        model: Any,
        inputs: Tensors,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """This micro-batch's share of the mean over the step's examples, times the devices that average it again."""
        losses = self.objective(model, inputs)  # (B,)
        count = len(losses) if num_items_in_batch is None else num_items_in_batch
        loss = losses.sum() * self.accelerator.num_processes / count
        return (loss, {}) if return_outputs else loss

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[None]:  # noqa: ARG002
        """One around all passes of an objective: each by itself would round every weight anew, and keep the copies."""
        return self.accelerator.autocast()

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Ask the model in eval mode and report accuracy, loss and the rank that picks the best checkpoint."""
        began = self.stopwatch.clock()
        self.model.eval()
        found = self.validate()
        self.model.train()
        self.stopwatch.aside += self.stopwatch.clock() - began
        metrics = {"eval_accuracy": found.accuracy, "eval_loss": found.loss, "eval_rank": found.rank}
        self.log(dict(metrics))
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Raises ModelError where a loss is not a number: all later steps would be lost too."""
        for name in ("loss", "eval_loss"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise ModelError(
                    f"the {'training' if name == 'loss' else 'validation'} loss is {logs[name]} at step "
                    f"{self.state.global_step}: lower learning_rate_multiplier",
                    param="hyperparameters.learning_rate_multiplier",
                )
        super().log(logs, start_time)


def _tokens(batch: Tensors) -> Tensor:
    """Tokens of all the views of a batch: inputs, and targets where the model writes them apart."""
    views = [view for view in batch.values() if isinstance(view, dict) and "inputs" in view]
    found = [view["inputs"]["attention_mask"].sum() for view in views]
    found += [(view["labels"] != IGNORE).sum() for view in views if "decoder_input_ids" in view["inputs"]]
    prompts = batch.get("distribution", {}).get("prompts")
    if prompts is not None:
        found += [prompts["attention_mask"].sum(), (batch["distribution"]["labels"] != IGNORE).sum()]
    return torch.stack(found).sum()


def training_arguments(plan: Plan, out: Path, *, seed: int, parameters: int) -> TrainingArguments:
    """The plan in transformers' words. Raises InvalidRequest for a precision that this machine does not compute in."""
    bfloat16 = _computes_in_bfloat16(plan.precision, parameters)
    arguments = TrainingArguments(
        output_dir=str(out),
        seed=seed,
        max_steps=plan.steps,
        learning_rate=plan.learning_rate,
        lr_scheduler_type=plan.schedule,
        warmup_steps=plan.warmup_steps,
        weight_decay=plan.weight_decay,
        per_device_train_batch_size=1,  # set below, when the devices are known
        eval_strategy="steps",
        eval_steps=plan.validate_every,
        save_strategy="steps",
        save_steps=plan.validate_every,
        save_total_limit=2,  # the best and the last
        load_best_model_at_end=True,
        metric_for_best_model="rank",
        greater_is_better=True,
        logging_steps=max(1, plan.steps // _LOG_EVENTS),
        logging_nan_inf_filter=False,  # a loss that is not finite must be seen, see DistillationTrainer.log
        bf16=bfloat16,
        # Said aloud, because several processes find each other on processors only where they are asked for.
        use_cpu=not torch.cuda.is_available() and (bfloat16 or not torch.accelerator.is_available()),
        report_to="none",
        log_level="error",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    arguments.mixed_precision = "bf16" if bfloat16 else "no"  # whatever a launcher's environment says
    # One process drives one device; for several, a launcher starts as many, and the batch is shared by them.
    arguments._n_gpu = min(1, arguments.n_gpu)
    size = micro_batch(plan.batch_size, parameters, arguments.world_size)
    arguments.per_device_train_batch_size = size
    arguments.gradient_accumulation_steps = plan.batch_size // (size * arguments.world_size)
    return arguments


def _computes_in_bfloat16(asked: Precision, parameters: int) -> bool:
    """Weights stay float32: products are rounded, sums and updates are not (mixed precision, arXiv 1905.12322)."""
    able = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    if asked == "bfloat16" and torch.cuda.is_available() and not able:
        raise InvalidRequest(
            f"{torch.cuda.get_device_name()} does not compute in bfloat16: choose float32",
            param="hyperparameters.precision",
        )
    return asked == "bfloat16" or (asked == "auto" and parameters >= _FROM_BF16 and able)


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole; its state is written last, so a cut-off one has none that can be read."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))
    return next((str(path) for path in found if _is_whole(path)), None)


def _is_whole(checkpoint: Path) -> bool:
    try:
        return bool(json.loads((checkpoint / "trainer_state.json").read_bytes()))
    except (OSError, ValueError):
        return False
