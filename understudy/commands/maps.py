"""`understudy attribute` from end to end: maps of a text or of a file's rows, or the table of methods.

Prints and writes; what is asked, and who answers, is `explain`'s. Answers go to standard output, progress to the
other, so that `--json` can be read by a program.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from understudy.attribution.heatmap import to_html
from understudy.attribution.terminal import attribution_view, comparison_view, faithfulness_view, words_view
from understudy.attribution.verdict import sentences
from understudy.client import TeacherClient
from understudy.commands.output import aside, progress
from understudy.errors import InvalidRequest
from understudy.explain import (
    Explainer,
    InProcess,
    Question,
    Service,
    Settings,
    Source,
    Summary,
    compare,
    explain,
    load,
    write_aside,
)
from understudy.schemas import AttributionOptions, AttributionResponse

__all__ = ["Outputs", "answering", "show_comparison", "show_maps"]

Methods = Sequence[tuple[str, Settings]]

SHOWN = 3
"""Rows of a file whose maps are printed; a page or a file has them all."""


@dataclass(frozen=True)
class Outputs:
    """Where maps go beside the terminal: a page, a file of JSON lines, or standard output as JSON alone."""

    html: Path | None = None
    lines: Path | None = None
    json: bool = False


@dataclass
class _Found:
    """One method's answers; of questions and results the first `most`, all where it is None."""

    most: int | None
    summary: Summary = field(default_factory=Summary)
    questions: list[Question] = field(default_factory=list)
    answer: AttributionResponse | None = None

    def add(self, questions: Sequence[Question], answer: AttributionResponse) -> None:
        self.summary.add(questions, answer.results)
        room = None if self.most is None else max(0, self.most - len(self.questions))
        before = self.answer.results if self.answer else ()
        self.questions += questions[:room]
        self.answer = answer.model_copy(update={"results": before + answer.results[:room]})


@contextmanager
def answering(
    model: str | None, url: str | None, *, api_key: str | None, store: Path, device: str, dtype: str, batch: int
) -> Iterator[Explainer]:
    """Who answers: the service at `url`, else the model in this process. Raises InvalidRequest without either."""
    if url:
        with TeacherClient(url, api_key=api_key) as client:
            yield Service(client, model)
    elif model is None:
        raise InvalidRequest("name the model: a folder, an artifact, a hub name; or a running teacher with --url")
    else:
        with aside.status(f"Loading {model} ..."):
            loaded = load(model, store=store, device=device, dtype=dtype, batch=batch)
        yield loaded


def show_maps(
    console: Console, explainer: Explainer, source: Source, methods: Methods, options: AttributionOptions, to: Outputs
) -> None:
    """Explain each question with each method, print the maps or write them, and sum up those of a file."""
    if to.lines and len(methods) > 1:
        raise InvalidRequest("the lines of a file do not say which method they are of: name one", param="out")
    found: list[_Found] = []
    total = len(source.questions) * len(methods)
    with _lines(to.lines) as add, progress("explained") as step:
        for name, settings in methods:
            found.append(_Found(most=None if to.html or to.json or not source.file else SHOWN))
            asked = options.model_copy(update={"method": name, "settings": settings})
            for questions, answer in explain(explainer, source, asked):
                found[-1].add(questions, answer)
                for result in answer.results:
                    add(result.model_dump_json())
                step(sum(one.summary.explained for one in found), total)
    if to.html:
        with write_aside(to.html) as add:
            add(_page(found))
    for one in found:
        if to.json:
            print(one.answer.model_dump_json() if one.answer else "")
        else:
            _print(console, one, source, len(found) > 1)
    if not to.json:
        _print_written(console, to)


def show_comparison(
    console: Console, explainer: Explainer, source: Source, methods: Methods, options: AttributionOptions, to: Outputs
) -> None:
    """The table of methods, always beside the controls, and what it shows. Raises InvalidRequest for a service."""
    if not isinstance(explainer, InProcess):
        raise InvalidRequest("methods are compared in this process: name the model itself with --model", param="url")
    if to.html or to.lines or options.rows:
        raise InvalidRequest("a comparison has no maps: leave out --html, --out and --rows", param="compare")
    with progress("explained") as step:
        found = compare(explainer, source, methods, options, step)
    if to.json:
        print(json.dumps({"model": explainer.name, **dataclasses.asdict(found), "sentences": sentences(found)}))
        return
    console.print(comparison_view(found))
    _print_rejected(console, source)


def _lines(path: Path | None) -> AbstractContextManager[Callable[[str], None]]:
    return write_aside(path) if path else nullcontext(lambda _: None)


def _page(found: Sequence[_Found]) -> str:
    """All maps on one page; with several methods each text has them one below the other."""
    answers = [one.answer for one in found if one.answer]
    first = answers[0]
    several = len(answers) > 1
    shown = [(question, answer, i) for i, question in enumerate(found[0].questions) for answer in answers]
    return to_html(
        [answer.results[i] for _, answer, i in shown],
        [question.input for question, _, _ in shown],
        title="What decides the model's answers",
        facts={
            "Model": first.model,
            "Method": ", ".join(map(_method, answers)),
            "Explained answer": first.target,
            "Precision": first.precision,
            "Fingerprint": first.fingerprint,
        },
        headings=[
            " · ".join(filter(None, [_name(question, i), _method(answer) if several else ""]))
            for question, answer, i in shown
        ],
    )


def _name(question: Question, position: int) -> str:
    return question.id or (f"Line {question.line}" if question.line else f"Example {position + 1}")


def _method(answer: AttributionResponse) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in answer.settings.items())
    return f"{answer.method} ({settings})" if settings else answer.method


def _print(console: Console, found: _Found, source: Source, named: bool) -> None:
    """The maps that were kept and, of a file, what all of them have in common."""
    assert found.answer is not None  # a source has at least one question
    colours = console.color_system is not None and not console.no_color
    if named or source.file:
        console.print(Text(f"\n{_method(found.answer)}", "bold"))
    shown = SHOWN if source.file else None
    for question, result in zip(found.questions[:shown], found.answer.results[:shown], strict=True):
        console.print()
        console.print(attribution_view(question.input, result, colours=colours))
    if source.file:
        _print_summary(console, found.summary)
        _print_rejected(console, source)


def _print_summary(console: Console, summary: Summary) -> None:
    answered = f", {summary.right / summary.judged:.1%} answered as the file says" if summary.judged else ""
    cut = f", {summary.truncated:,} longer than the model's window" if summary.truncated else ""
    console.print(Text(f"\n{summary.explained:,} rows explained{answered}{cut}", "bold"))
    console.print("\n  Most often a reason, by the answer that is explained, and in how many rows:", style="dim")
    console.print(words_view(summary.words))
    if summary.faithfulness:
        console.print("\n  Means over the rows:", style="dim")
        console.print(faithfulness_view(summary.faithfulness))


def _print_rejected(console: Console, source: Source) -> None:
    if source.rejected:
        count = len(source.rejected)
        were = "1 row was" if count == 1 else f"{count:,} rows were"
        console.print(Text(f"\n  {were} set aside: {'; '.join(source.rejected[:3])}", "dim"))


def _print_written(console: Console, to: Outputs) -> None:
    for path in filter(None, (to.lines, to.html)):
        console.print(Text(f"\n  written: {path}", "dim"), soft_wrap=True)
