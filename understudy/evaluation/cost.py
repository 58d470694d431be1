"""What distilling cost, and what the student saves. Arithmetic on what the stages told; no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from understudy.evaluation.details import Cost
from understudy.evaluation.report import ArmRow
from understudy.evaluation.spec import ArmResult, TeacherFacts

__all__ = ["cost"]


def cost(runs: Sequence[ArmResult], arms: Sequence[ArmRow], student: ArmRow, teacher: TeacherFacts | None) -> Cost:
    """`runs` are all trainings, those of the curve among them; `arms` the recipes on all rows, `student` one of
    them."""
    plain = next((arm.seconds for arm in arms if arm.recipe == "finetune"), None)
    spent = [teacher.training_seconds, teacher.annotation_seconds] if teacher else []
    told = [seconds for seconds in spent if seconds is not None]
    beyond = sum(told) + student.seconds - plain if told and plain is not None else None
    saved = (teacher.latency_ms - student.latency_ms) / 1000 if teacher and teacher.latency_ms else None
    return Cost(
        teacher_training=teacher.training_seconds if teacher else None,
        annotation=teacher.annotation_seconds if teacher else None,
        annotation_tokens=teacher.annotation_tokens if teacher else None,
        finetune=plain,
        published=student.seconds,
        experiment=math.fsum(run.seconds for run in runs),
        experiment_tokens=sum(run.tokens for run in runs),
        runs=len(runs),
        beyond=beyond,
        latency_ratio=teacher.latency_ms / student.latency_ms if teacher and teacher.latency_ms else None,
        parameters_ratio=teacher.parameters / student.parameters if teacher else None,
        repaid_after=max(0, math.ceil(beyond / saved)) if beyond is not None and saved and saved > 0 else None,
    )
