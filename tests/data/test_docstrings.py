"""The quickstart's data set: real, clean, the same every time, and accepted by our own checks to the last row."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.data.docstrings import CHAPTERS, chapter_sizes, docstring_examples
from understudy.data.rows import content_key
from understudy.data.validate import infer_task, load_split
from understudy.errors import NotFound
from understudy.schemas import Example

WORDS = "this text has more than a dozen words so that it is long enough"


@pytest.fixture(scope="module")
def texts() -> list[Example]:
    return docstring_examples()


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A standard library of our own, in a folder whose name must not matter."""
    folder = tmp_path / "test" / "lib"
    folder.mkdir(parents=True)
    (folder / "argparse.py").write_text("")
    return folder


def write(library: Path, name: str, *docs: str) -> None:
    path = library / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"def f{i}():\n    {doc!r}\n\n" for i, doc in enumerate(docs)))


def test_there_are_thousands_of_texts_in_nine_balanced_enough_chapters(texts: list[Example]) -> None:
    sizes = chapter_sizes(texts)
    assert len(texts) > 3000
    assert set(sizes) == set(CHAPTERS)
    assert min(sizes.values()) > 100
    assert max(sizes.values()) < 0.3 * len(texts)
    assert list(sizes.values()) == sorted(sizes.values(), reverse=True)


def test_every_text_is_one_clean_line_of_12_to_150_words(texts: list[Example]) -> None:
    for example in texts:
        assert 12 <= len(example.input.split(" ")) <= 150
        assert example.input.isprintable()


def test_any_beginning_of_the_set_is_a_fair_sample(texts: list[Example]) -> None:
    whole, start = chapter_sizes(texts), chapter_sizes(texts[:500])
    assert all(abs(start[name] / 500 - whole[name] / len(texts)) < 0.08 for name in CHAPTERS)


def test_our_own_checks_reject_none_of_it(texts: list[Example], tmp_path: Path) -> None:
    path = tmp_path / "docstrings.jsonl"
    path.write_text("".join(example.model_dump_json() + "\n" for example in texts), encoding="utf-8")
    loaded, rejected = load_split(path, "train")
    assert loaded == texts
    assert rejected == []
    assert infer_task(loaded).labels == tuple(sorted(CHAPTERS))


def test_the_content_alone_decides_the_order(texts: list[Example]) -> None:
    keys = [content_key(example.input, None) for example in texts]
    assert keys == sorted(keys)


def test_sources_are_parsed_and_never_run(library: Path) -> None:
    (library / "csv.py").write_text(f'"""{WORDS}"""\nraise SystemExit\n')
    (library / "glob.py").write_text('x = "\\d"\n')  # an old escape, which warns when it is compiled
    assert [(example.id, example.output) for example in docstring_examples(library)] == [("csv.py:1", "data formats")]


def test_modules_classes_and_functions_have_texts(library: Path) -> None:
    (library / "queue.py").write_text(
        f'class A:\n    """{WORDS} a"""\n    async def b(self):\n        """{WORDS} b\n\n   c"""\n'
    )
    assert {example.id: example.input for example in docstring_examples(library)} == {
        "queue.py:1": f"{WORDS} a",
        "queue.py:3": f"{WORDS} b c",
    }


def test_tests_and_installed_packages_are_left_out(library: Path) -> None:
    for folder in ("test", "tests", "idle_test", "site-packages"):
        write(library, f"idlelib/{folder}/a.py", f"{WORDS} in {folder}")
    write(library, "unknown.py", f"{WORDS} unknown")
    write(library, "idlelib/editor.py", f"{WORDS} kept")
    assert [example.id for example in docstring_examples(library)] == ["idlelib/editor.py:1"]


def test_a_text_is_there_once_and_one_that_two_chapters_share_is_not_there(library: Path) -> None:
    write(library, "csv.py", WORDS, f"{WORDS} shared", f"{WORDS}\n", "too short")
    write(library, "glob.py", f"{WORDS} shared")
    assert [(example.id, example.input) for example in docstring_examples(library)] == [("csv.py:1", WORDS)]


def test_a_long_text_is_cut_and_an_unprintable_one_left_out(library: Path) -> None:
    write(library, "csv.py", "word " * 400, f"{WORDS} \x00", f"{WORDS} \ud800")
    assert [example.input for example in docstring_examples(library)] == [" ".join(["word"] * 150)]


def test_a_python_without_sources_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="name a data file instead"):
        docstring_examples(tmp_path)
