"""How much longer do texts become when a student's vocabulary is trimmed?

    python benchmarks/experiment_vocabulary.py --tokenizer FOLDER --data FOLDER FOLDER

Trims the tokenizer to a task's training texts, as `cut:6v8000` does, with the vocabulary chosen on the first 1000 of
them or on all, and counts the tokens of the validation texts against those of the whole vocabulary. Writes
`results/vocabulary.json`; the last line is JSON: the growth for each data set, size and number of texts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from understudy.data.task import infer_task
from understudy.data.validate import load_split
from understudy.models.vocabulary import trim_for
from understudy.schemas import Example

RESULT = Path(__file__).parent / "results" / "vocabulary.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder with a fast tokenizer")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of JSON lines")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 4000, 8000, 16000])
    parser.add_argument("--texts", type=int, default=1000, help="the smaller number of training texts")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    runs = [run for folder in options.data for run in _runs(tokenizer, folder, options.sizes, options.texts)]
    written = {"date": options.date, "tokenizer": options.tokenizer.name, "tokens": len(tokenizer), "runs": runs}
    RESULT.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({f"{run['data']} {run['size']} {run['texts']}": round(run["growth"], 3) for run in runs}))


def _runs(tokenizer: Any, folder: Path, sizes: Sequence[int], few: int) -> list[dict[str, Any]]:
    training, held_out = (load_split(folder / f"{split}.jsonl", split)[0] for split in ("train", "validation"))
    texts = [row.input for row in held_out]
    before = _tokens(tokenizer, texts)
    return [
        {
            "data": folder.name,
            "size": size,
            "texts": count,
            **_trimmed(tokenizer, size, training[:count], texts, before),
        }
        for size in sizes
        for count in (few, len(training))
    ]


def _trimmed(
    tokenizer: Any, size: int, training: Sequence[Example], texts: Sequence[str], before: int
) -> dict[str, float | int]:
    """How many more tokens, as a share, and how many texts the trimmed tokenizer writes otherwise than the whole."""
    targets = [row.output for row in training if row.output is not None]
    trimmed, _ = trim_for(tokenizer, size, infer_task(training), texts=[row.input for row in training], targets=targets)
    changed = sum(_again(trimmed, text) != _again(tokenizer, text) for text in texts)
    return {"growth": _tokens(trimmed, texts) / before - 1, "changed": changed}


def _tokens(tokenizer: Any, texts: Sequence[str]) -> int:
    return sum(len(row) for row in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"])


def _again(tokenizer: Any, text: str) -> str:
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return str(tokenizer.decode(ids, skip_special_tokens=True))


if __name__ == "__main__":
    main()
