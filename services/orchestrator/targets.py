"""Rows whose answers are longer than the models of a job can be taught or asked: set aside before anything costs.

A child process is asked, because only a model's own tokenizer can tell, and of long answers alone: most jobs have none.
A model that is not at hand here says nothing of them. What goes into a model as its input may have any length, for it
is cut there; an answer never is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from services.orchestrator import stages
from services.orchestrator.child import run_child
from services.orchestrator.context import Context
from services.orchestrator.jobs import Job
from understudy.data.parquet import write_examples
from understudy.data.rows import SourceRow
from understudy.data.stored import take
from understudy.schemas import Example, RejectedRow, TaskSpec

__all__ = ["keep_fitting"]

LONG = 256
"""Bytes of an answer from which its tokens are counted: these are some 64 of them, and windows have hundreds."""

SAMPLE = 2000
"""Training rows from which a new model's tokenizer is made here; it cuts a little finer than one made from all."""

Split = Literal["train", "validation", "test"]
Splits = Mapping[Split, Sequence[Example]]
Place = tuple[Split, int]


def keep_fitting(
    context: Context, job: Job, splits: Splits, check: Callable[[], None]
) -> tuple[dict[Split, Sequence[Example]], list[RejectedRow]]:
    """The splits without the rows that no training or evaluation could use, and those rows, each with the reason."""
    long = [(split, place) for split, rows in splits.items() for place, row in enumerate(rows) if _is_long(row)]
    lost = _too_long(job, splits, long, _measured(context, job, splits, long, check)) if long else {}
    kept = {
        split: take(rows, [place for place in range(len(rows)) if (split, place) not in lost]) if lost else rows
        for split, rows in splits.items()
    }
    return kept, list(lost.values())


def _is_long(row: Example) -> bool:
    return any(len(text.encode("utf-8", "replace")) > LONG for text in (row.output, *(row.choices or ())))


def _too_long(job: Job, splits: Splits, long: Sequence[Place], measured: Mapping[str, Any]) -> dict[Place, RejectedRow]:
    """The rows to set aside, in their order: each for the first model that cannot take one of its answers."""
    found: dict[Place, RejectedRow] = {}
    for who, one in measured.items():
        for number, tokens in one["excess"]:
            split, place = long[number]
            field = next((name for name in _read(job, who, split) if name in tokens), None)
            if field is None or (split, place) in found:
                continue
            row = splits[split][place]
            reason = (
                f"{field} takes {tokens[field]} tokens of the {who}, whose window has room for {one['room']}: shorten "
                "it, or take a model with a longer window"
            )
            line = row.line if isinstance(row, SourceRow) else place + 1
            found[split, place] = RejectedRow(split=split, line=line, reason=reason, param=field)
    return dict(sorted(found.items(), key=lambda item: (list(splits).index(item[0][0]), item[0][1])))


def _read(job: Job, who: str, split: Split) -> tuple[str, ...]:
    """The fields whose answers a model has to take in a split.

    Choices are scored wherever there are some. An output is taught and scored in training, and in a test it is only
    compared with; a teacher that is not trained never meets those of the validation rows.
    """
    trained = who == "student" or job.distillation.teacher.finetune
    taught = split == "train" or (split == "validation" and trained)
    return ("output", "choices") if taught else ("choices",)


def _measured(
    context: Context, job: Job, splits: Splits, long: Sequence[Place], check: Callable[[], None]
) -> Mapping[str, Any]:
    """`{"student": {"room": 496, "excess": [[3, {"output": 700}], ...]}, ...}`, by the place among the long ones."""
    context.settings.work.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=context.settings.work, prefix="targets-") as folder:
        here = Path(folder)
        write_examples(here / "rows.parquet", (splits[split][place] for split, place in long))
        write_examples(here / "train.parquet", splits["train"][:SAMPLE])
        spec = {
            "models": {"student": job.student_so_far} | ({"teacher": job.teacher} if job.distils else {}),
            "rows": str(here / "rows.parquet"),
            "train": str(here / "train.parquet"),
            "task": TaskSpec(template=job.spec.template).model_dump(mode="json"),
            "artifacts": context.settings.artifact_root,
        }
        return run_child(stages.targets, spec, here, emit=lambda _: None, check=check)
