"""4. Distil and ask through the stock `openai` client: what speaks to OpenAI speaks to Understudy.

    python examples/4_openai_client.py                          # starts a stack of its own, and ends it
    python examples/4_openai_client.py http://127.0.0.1:8000/v1 http://127.0.0.1:8002/v1
                                                                # one that runs: `understudy up`, or a server

Only the addresses differ from OpenAI's, and `method`, which names the teacher. For your own task change the file, the
teacher and the student, and leave `finetune` out for a teacher that knows the task.
"""

import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from openai import OpenAI

from understudy.data.docstrings import docstring_examples
from understudy.stack import Stack, StackConfig

METHOD = {
    "type": "distillation",
    "distillation": {
        "teacher": {"model": "scratch:bert-2x64", "finetune": True, "hyperparameters": {"max_steps": 250}},
        "recipe": "rationale_gate",
        "hyperparameters": {"max_steps": 200},
        "attribution": {"top_k": 8},
        "alias": "chapters",  # the name under which the student is served
    },
}


def main(orchestrator_url: str, student_url: str) -> None:
    # A stack on 127.0.0.1 asks for no key, but the client insists on having one.
    client = OpenAI(base_url=orchestrator_url, api_key="none")

    # OpenAI's chat rows. {"input": ..., "output": ...}, CSV and Parquet are read too.
    data = Path("chapters.jsonl")
    rows = [
        {"messages": [{"role": "user", "content": row.input}, {"role": "assistant", "content": row.output}]}
        for row in docstring_examples()[:1000]
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    file = client.files.create(file=data, purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="scratch:bert-1x64", training_file=file.id, extra_body={"method": METHOD}
    )
    print(f"{job.id} is {job.status}")
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(1)
        job = client.fine_tuning.jobs.retrieve(job.id)
    if job.status != "succeeded":
        sys.exit(f"the job {job.status}: {job.error.message if job.error else 'no reason was given'}")

    # The job's story, which holds the verdicts of the report.
    for event in list(client.fine_tuning.jobs.list_events(job.id, limit=100))[::-1]:
        if "BEAT" in event.message or "INCONCLUSIVE" in event.message:
            print("→", event.message)

    # The student speaks OpenAI's chat as well. It takes up a new model within some seconds of its publication.
    student = OpenAI(base_url=student_url, api_key="none", max_retries=10)
    answer = student.chat.completions.create(
        model="chapters", messages=[{"role": "user", "content": "Open a TCP socket and wait for the server."}]
    )
    print(f"The student says: {answer.choices[0].message.content}")


if __name__ == "__main__":
    with ExitStack() as closing:
        if len(sys.argv) == 3:
            main(sys.argv[1], sys.argv[2])
        else:
            print("Starting a stack ...")
            stack = closing.enter_context(Stack(StackConfig(Path("stack"), port=0, teacher_port=0, student_port=0)))
            main(f"{stack.orchestrator_url}/v1", f"{stack.student_url}/v1")
