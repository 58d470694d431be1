"""1. Which words of a text decide a model's answer?

    python examples/1_attribute_a_text.py

For a model of your own, replace `small_model()` by its folder or its name on the hub, such as
"distilbert-base-uncased-finetuned-sst-2-english", and the texts by yours. Nothing else needs to run.
"""

from rich import print  # shows the words in colour, where the terminal has colours
from small_model import small_model

import understudy

# Loading takes longer than explaining: load once, ask often.
model = understudy.load(small_model())

texts = [
    "Open a TCP socket and wait until the server answers.",
    "Return the square root of a decimal number, rounded to the context's precision.",
    "Wait until another thread releases the lock, or until the timeout expires.",
]
found = understudy.attribute(texts, model=model, top_k=3)
print(found)  # in a notebook, `found` alone shows the heat map

# Each attribution has the model's answer, every word with its score, and the best words: the rationale.
first = found[0]
print(f"\nThe model says '{first.prediction}' with probability {first.probability:.2f}, because of:")
for word in first.rationale:
    print(f"  {word.text:<10} {word.score:.3f}  (characters {word.start} to {word.end})")

# Another method, another question: why `networking` and not `files`, with signs (− speaks against it)?
other = understudy.attribute(
    texts[0], model=model, method="integrated_gradients", label="networking", against="files", top_k=3
)
print("\nWhy networking and not files?")
print(other)

page = found.save("maps.html")  # .json and .jsonl are for programs
print(f"\nThe maps as a page: {page}")
