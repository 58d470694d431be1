"""The first ten minutes: the whole loop on real text, on one machine, over the same HTTP that everybody uses.

Text comes from Python's own documentation, so that nothing has to be fetched. Sizes were chosen by measurement (see
docs/experiments.md and docs/performance.md) to end within six minutes on two cores: ten candidates of a quarter of the
steps, then at most seven arms with three seeds.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from understudy.client import OrchestratorClient, StudentClient
from understudy.data.docstrings import docstring_examples
from understudy.display import PhaseBars, prediction_view, report_view
from understudy.jobs import cancelled_by_interrupt, submit, watch
from understudy.schemas import PredictionInput, PredictionRequest
from understudy.stack import Stack, StackConfig

__all__ = ["QUICKSTART_JOB", "config", "run", "write_data"]

QUICKSTART_JOB: Mapping[str, Any] = {
    "model": "scratch:bert-1x64",
    "seed": 0,
    "metadata": {"made_by": "understudy quickstart"},
    "method": {
        "type": "distillation",
        "distillation": {
            "teacher": {"model": "scratch:bert-2x128", "finetune": True, "hyperparameters": {"max_steps": 600}},
            "recipe": "auto",
            "seeds": [0, 1, 2],
            "hyperparameters": {"max_steps": 250},
            "attribution": {"method": "saliency", "top_k": 8},
            "alias": "production",
        },
    },
}

# Written for this file, so that no model has seen them.
SENTENCES = (
    "Open a connection to the mail server, log in over TLS and send the message to every recipient.",
    "Wait until another thread releases the lock, or until the timeout expires.",
    "Return the variance of the sample, given the mean that was computed before.",
    "Walk the directory tree, copy each file to the backup folder and keep its permissions.",
    "Parse the XML document and return the text of the first element with that tag.",
)


def config(home: Path) -> StackConfig:
    """The stack's usual ports, or any free one where somebody else has one: a first run must not fail on that."""
    usual = StackConfig(home)
    ports = (usual.port, usual.teacher_port, usual.student_port)
    port, teacher_port, student_port = (port if _is_free(port) else 0 for port in ports)
    return StackConfig(home, port=port, teacher_port=teacher_port, student_port=student_port)


def write_data(path: Path) -> int:
    """Write the docstring data set as JSON lines and return its number of rows."""
    examples = docstring_examples()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(example.model_dump_json(include={"id", "input", "output"}) + "\n" for example in examples)
    return len(examples)


def run(stack: Stack, console: Console, job_body: Mapping[str, Any] = QUICKSTART_JOB) -> dict[str, Any]:
    """Data, upload, job, report, predictions, against a stack that runs. Returns them as JSON values."""
    data = stack.config.home / "docstrings.jsonl"
    console.print(
        f"\n[bold]1. Data[/]  {write_data(data):,} texts from Python's own documentation, nine classes: {data}"
    )
    with OrchestratorClient(stack.orchestrator_url) as orchestrator, PhaseBars(console) as bars:
        job = submit(orchestrator, {"training_file": data}, job_body)
        console.print(f"[bold]2. Job[/]   {job}, submitted to {stack.orchestrator_url}")
        with cancelled_by_interrupt(orchestrator, job):
            report = watch(orchestrator, job, bars.update, stack.check)
        done = orchestrator.job(job)
        model = done["fine_tuned_model"]  # an alias may name the model before it for another second
        page = stack.config.home / "report.html"
        page.write_text(orchestrator.report_html(job), encoding="utf-8")
    console.print("\n[bold]3. Report[/]")
    console.print(report_view(report))
    console.print("\n[bold]4. The served student[/]  asked about new sentences, the words that it names marked\n")
    with StudentClient(stack.student_url) as student:
        inputs = tuple(PredictionInput(input=sentence) for sentence in SENTENCES)
        answer = student.predict(PredictionRequest(model=model, inputs=inputs))
    asked = list(zip(inputs, answer.predictions, strict=True))
    for one, prediction in asked:
        console.print(prediction_view(one.input, prediction, colours=console.color_system is not None))
    console.print("\n[bold]5. Go on[/]", _next_steps(stack, job, page), highlight=False, soft_wrap=True)
    return {
        "job": done,
        "report": report.model_dump(mode="json"),
        "page": str(page),
        "predictions": [{"input": one.input} | said.model_dump(mode="json") for one, said in asked],
    }


def _next_steps(stack: Stack, job: str, page: Path) -> str:
    return f"""
  the report        {page}
  the log           {stack.log_path}
  the stack again   {_command()} up --home {stack.config.home}
  your own data     {_command()} distill FILE --teacher NAME_OR_PATH --student NAME_OR_PATH
  while it runs     curl {stack.orchestrator_url}/v1/fine_tuning/jobs/{job}
                    curl {stack.teacher_url}/v1/models
                    curl {stack.student_url}/v1/predictions -H 'content-type: application/json' \\
                      -d '{{"inputs": ["Return the sum of two fractions."]}}'
  what they offer   {stack.orchestrator_url}/docs · {stack.teacher_url}/docs · {stack.student_url}/docs"""


def _command() -> str:
    """How to call us from this folder: by name where that is on the PATH, else by the environment's own file."""
    if shutil.which("understudy"):
        return "understudy"
    return os.path.relpath(Path(sys.executable).parent / "understudy")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
