"""3. Distil a large model into a small one, in one process, and read whether it worked.

    python examples/3_distil_and_read_the_verdict.py

A teacher explains each training row; students learn its words beside the label. Each recipe is trained beside two
controls: plain fine-tuning, and the same recipe on random words. The verdicts compare them on rows that nothing else
has seen.

For your own task: in place of `rows` name your file ("reviews.csv" with the columns input and output), a teacher that
knows the task ("google/flan-t5-xl"; leave the two lines on its training out) and a small student
("google/flan-t5-small"). Leave `recipe`, `search` and `max_steps` out to have all recipes tried, the best in full.
"""

from rich import print

import understudy
from understudy.data.docstrings import docstring_examples

# Sentences of Python's documentation with their chapters; as many as fit into a minute.
rows = [{"input": row.input, "output": row.output} for row in docstring_examples()[:1200]]

result = understudy.distill(
    rows,
    teacher="scratch:bert-2x96",  # made from nothing, so it has to learn the task first
    finetune_teacher=True,
    teacher_max_steps=250,
    student="scratch:bert-1x64",
    recipe="rationale_gate",
    search=False,
    seeds=2,  # two trainings of each arm: luck shows
    max_steps=200,
    top_k=8,
)
print(result)  # in a notebook, `result` alone shows the report's page

# Every figure is there for programs as well.
print("\nIn one sentence each:")
for verdict in result.verdicts:
    print("→", verdict)
published = result.report.student
print(f"\nPublished: {published.recipe}, {100 * published.accuracy:.1f} % right, {published.size_mb:.1f} MB")

# The student answers at once; with `explain` it also names its reasons.
print(result.predict(["Wait until another thread releases the lock."], explain=True))

# Without a `home` everything is gone when this program ends, unless the student is kept.
print(f"Kept: {result.save('student')} (understudy.load('student') loads it)")
