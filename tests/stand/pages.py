"""What the documentation shows as code: its fenced blocks, the commands in them, and what each command must be.

A block that cannot be run or checked says why in a comment above it: `<!-- not run: the reason -->`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Block", "blocks", "commands", "pages"]

ROOT = Path(__file__).parents[2]
PROGRAMS = ("understudy ", "make ", "curl ", "python ", "docker ", "kubectl ", "pip ", "$ ")
"""A block without a language is one of commands where its first line begins with one of these, else an output."""

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```", re.DOTALL | re.MULTILINE
)
_REASON = re.compile(r"<!-- not run: (.+?) -->\s*\Z", re.DOTALL)
_HEREDOC = re.compile(r"<<-?'?(\w+)'?(.*)\n(?:.*\n)*?\1$", re.MULTILINE)
_ENDS = frozenset({"&&", "||", "|", ";", ";;", "&", "(", ")", "\n"})
_KEYWORDS = frozenset({"do", "then", "else", "while", "until", "if", "!", "nohup", "time"})
_VARIABLE = re.compile(r"[A-Za-z_]\w*=.*")


@dataclass(frozen=True)
class Block:
    """`page` is relative to the project, `line` is the fence's, `reason` why it is not run where it says so."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """The README and every page that somebody wrote; generated ones are made of what they tell."""
    written = (ROOT / "docs").rglob("*.md")
    return [ROOT / "README.md", *sorted(path for path in written if "generated" not in path.parts)]


def blocks(path: Path) -> Iterator[Block]:
    """The fenced blocks of a page in their order. Those of commands have the language `sh`."""
    page = path.read_text(encoding="utf-8")
    for found in _FENCE.finditer(page):
        indent = len(found["indent"])
        text = "".join(line[indent:] + "\n" for line in found["text"].splitlines())
        above = page[: found.start()]
        reason = _REASON.search(above)
        language = found["language"] or ("sh" if text.startswith(PROGRAMS) or text.startswith("# ") else "")
        language = {"console": "sh", "bash": "sh", "shell": "sh"}.get(language, language)
        yield Block(
            str(path.relative_to(ROOT)), above.count("\n") + 1, language, text, reason[1].strip() if reason else None
        )


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a shell's text, each as its words; variables that are set before a command are left out.

    Where lines begin with `$ `, the others are what was printed. What stands in `$(...)` are commands too.
    """
    if re.search(r"^\$ ", text, re.MULTILINE):
        text = "\n".join(_typed(text))
    for line in _whole_lines(_HEREDOC.sub(r"\2", text)):
        line, inner = _substituted(line)
        for one in inner:
            yield from commands(one)
        words: list[str] = []
        for word in [*_words(line), "\n"]:
            if word not in _ENDS:
                words.append(word)
                continue
            while words and (words[0] in _KEYWORDS or _VARIABLE.fullmatch(words[0])):
                words = words[1:]
            if words:
                yield words
            words = []


def _typed(text: str) -> Iterator[str]:
    going_on = False
    for line in text.splitlines():
        if going_on or line.startswith("$ "):
            yield line.removeprefix("$ ")
            going_on = line.endswith("\\")


def _whole_lines(text: str) -> Iterator[str]:
    """Lines put together where a backslash or an open quote says that they go on."""
    held = ""
    for line in text.splitlines():
        held = f"{held}\n{line}" if held else line
        if held.endswith("\\"):
            held = held[:-1]
            continue
        try:
            list(_words(held))
        except ValueError:  # a quote is open
            continue
        yield held
        held = ""
    if held:
        yield held


def _substituted(line: str) -> tuple[str, list[str]]:
    """LINE with `x` in the place of each `$(...)`, and what stood there."""
    inner = []
    while (start := line.find("$(")) >= 0:
        depth, end = 1, start + 2
        while depth and end < len(line):
            depth += {"(": 1, ")": -1}.get(line[end], 0)
            end += 1
        inner.append(line[start + 2 : end - 1])
        line = f"{line[:start]}x{line[end:]}"
    return line, inner


def _words(line: str) -> Iterator[str]:
    reader = shlex.shlex(line, posix=True, punctuation_chars="();|&")
    reader.whitespace_split = True
    reader.commenters = "#"
    yield from reader
