"""5. A few labelled rows and many texts without a label: let the teacher label them, keep the student, use it.

    python examples/5_few_labels_many_texts.py

In our experiments nothing helped more than the teacher's answers on rows that nobody had labelled: a student is as good
as the rows that it has seen. `min_probability` leaves out the answers that the teacher is unsure of.

For your own task change the files, the teacher and the student as in example 3; both files may be CSV.
"""

import csv
from pathlib import Path

import understudy
from understudy.data.docstrings import docstring_examples

rows = docstring_examples()
labelled, texts, asked = rows[:500], rows[500:1500], rows[1500:1505]

# Files, as you would have them. A list of dictionaries or a data frame will do as well.
with Path("labelled.csv").open("w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(["input", "output"])
    writer.writerows([row.input, row.output] for row in labelled)
with Path("unlabelled.csv").open("w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(["input"])
    writer.writerows([row.input] for row in texts)

result = understudy.distill(
    "labelled.csv",
    unlabelled="unlabelled.csv",
    min_probability=0.3,
    teacher="scratch:bert-2x64",
    finetune_teacher=True,
    teacher_max_steps=250,
    student="scratch:bert-1x64",
    recipe=["teacher_labels"],
    search=False,
    seeds=2,
    max_steps=150,
    home=".understudy/examples",  # a folder that stays: the student is found in it under its alias
    alias="chapters",
)
for verdict in result.verdicts:
    print("→", verdict)

# In another program, on another day: load it by its alias and ask about many texts at once.
student = understudy.load("chapters", home=".understudy/examples")
print(student)
answers = student.predict([row.input for row in asked])
for row, answer in zip(asked, answers, strict=True):
    print(f"{answer.label:<15} {answer.probability:.0%}  {row.input[:70]}")

print("\nTo serve it over HTTP:  understudy up --home .understudy/examples")
