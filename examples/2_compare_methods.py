"""2. Which attribution method can be trusted with my model and my texts?

    python examples/2_compare_methods.py

Methods disagree, and no method is best everywhere. What they claim can be tested: without the words that a method
names, the model should lose its answer; with them alone, it should keep it. Random words and the first words are always
compared too: a method that is no better than those says nothing.

For a model of your own, replace `small_model()` by its folder or its name on the hub, and the rows by yours (a CSV's
path will do). More rows give narrower intervals; 200 are a good start.
"""

from rich import print
from small_model import small_model

import understudy
from understudy.data.docstrings import docstring_examples

# The model has not seen the first 200 texts. Each has the right answer as its `output`.
rows = [{"input": row.input, "output": row.output} for row in docstring_examples()[:40]]

found = understudy.compare(
    rows,
    model=understudy.load(small_model()),
    methods=["saliency", "input_x_gradient", "integrated_gradients:n_steps=10", "occlusion"],
)
print(found)  # comprehensiveness high is good, sufficiency low is good; * is the best of a column

# For programs: the sentences below the table, and every figure.
print(f"\n{len(found.table.rows)} methods; {len(found.to_json()):,} characters of JSON; and in words:")
print(found.sentences)
