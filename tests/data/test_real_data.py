"""Five data sets as people published them: every row is read, or is one of the duplicates that we know of."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.data.validate import infer_task, load_split, remove_leaks

# (accepted, duplicates) of each split, and the rows whose question a later split asks too
KNOWN = {
    "commonsense_qa": ("choice", {"train": (8767, 0), "validation": (974, 0), "test": (1221, 0)}, 0),
    "esnli": ("classification", {"train": (9990, 10), "validation": (4998, 2), "test": (5000, 0)}, 0),
    "sst2": ("classification", {"train": (6911, 9), "validation": (872, 0), "test": (1821, 0)}, 2),
    "svamp": ("generation", {"train": (800, 0), "test": (200, 0)}, 0),
    "tweet_sentiment": ("classification", {"train": (11986, 14), "validation": (1000, 0), "test": (2999, 1)}, 6),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_published_data_set_is_read_to_the_last_row(real_data: Path, name: str) -> None:
    kind, counts, leaks = KNOWN[name]
    loaded = {split: load_split(real_data / name / f"{split}.jsonl", split) for split in counts}  # type: ignore[arg-type]
    assert {split: (len(kept), len(rejected)) for split, (kept, rejected) in loaded.items()} == counts
    assert all(row.reason.startswith("the same input as line") for _, rejected in loaded.values() for row in rejected)
    train, validation, test = (loaded.get(split, ([], []))[0] for split in ("train", "validation", "test"))
    assert len(remove_leaks(train, validation, test)[2]) == leaks
    assert infer_task(train).kind == kind
