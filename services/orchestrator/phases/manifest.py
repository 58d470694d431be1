"""The manifest of a job: its data, its teacher and each of its trainings, named by artifact and content."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from services.orchestrator.context import Context
from services.orchestrator.jobs import Job
from services.orchestrator.phases.train import Trained, student_spec
from understudy.evaluation.manifest import ArmRecord, Data, FileRef, Manifest, TeacherRecord, weights_of

__all__ = ["manifest"]


def manifest(context: Context, job: Job, trained: Sequence[Trained], test: Path) -> Manifest:
    """What can be told before the test split is answered."""
    assert job.facts.task is not None
    spec = student_spec(context, job, trained[0].arm.name, trained[0].seed)
    return Manifest(
        task=job.facts.task,
        data=Data(
            train=_refs(context, spec.train),
            annotated=spec.annotated,
            unlabelled=_refs(context, spec.unlabelled),
            validation=_ref(context, spec.validation),
            test=_ref(context, test),
        ),
        arms=tuple(_arm(context, job, one) for one in trained),
        teacher=_teacher(job) if job.distils else None,
    )


def _arm(context: Context, job: Job, trained: Trained) -> ArmRecord:
    return ArmRecord.of(
        student_spec(context, job, trained.arm.name, trained.seed, size=trained.size),
        trained.result,
        weights_of(context.artifacts.get(trained.artifact).files),
        size=trained.size,
        artifact=trained.artifact,
    )


def _teacher(job: Job) -> TeacherRecord:
    teacher = job.distillation.teacher
    return TeacherRecord(
        model=teacher.model,
        reference=job.facts.teacher,
        finetuned=teacher.finetune,
        fingerprint=job.facts.fingerprint,
    )


def _refs(context: Context, paths: Iterable[Path]) -> tuple[FileRef, ...]:
    return tuple(_ref(context, path) for path in paths)


def _ref(context: Context, path: Path) -> FileRef:
    """A file of an artifact, which lies in a folder of the artifact's name."""
    artifact = context.artifacts.get(path.parent.name)
    return FileRef(artifact=artifact.id, path=path.name, sha256=artifact.files[path.name])
