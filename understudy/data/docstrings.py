"""The data set that every Python carries: the standard library's docstrings, labelled with their chapter.

The sources are parsed and never imported. A chapter is the part of the library reference that a module belongs to; the
table is ours, and modules that it does not name are left out. Versions of Python differ by a few texts: the set is the
same for every run of one version.
"""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from understudy.data.rows import content_key
from understudy.errors import NotFound
from understudy.schemas import Example

__all__ = ["CHAPTERS", "chapter_sizes", "docstring_examples"]

# Modules of every version that we support: a name that this Python does not have is not an error.
_MODULES = {
    "networking": (
        "cgi ftplib http imaplib ipaddress nntplib poplib selectors smtplib socket socketserver ssl telnetlib "
        "urllib webbrowser wsgiref xmlrpc"
    ),
    "concurrency": "_threading_local asyncio concurrent multiprocessing queue sched subprocess threading",
    "files": (
        "_pyio bz2 filecmp fileinput fnmatch genericpath glob gzip lzma ntpath os pathlib posixpath shutil "
        "stat tarfile tempfile zipapp zipfile zipimport"
    ),
    "data formats": (
        "base64 binhex configparser csv dbm email html json mailbox mimetypes netrc pickle pickletools "
        "plistlib quopri shelve tomllib xml"
    ),
    "math and time": (
        "_pydatetime _pydecimal _strptime bisect calendar colorsys datetime decimal fractions heapq numbers "
        "random statistics zoneinfo"
    ),
    "text": (
        "argparse cmd codecs difflib encodings getopt gettext locale optparse pprint re reprlib rlcompleter "
        "string stringprep textwrap"
    ),
    "language": (
        "_collections_abc abc ast code codeop collections compileall contextlib copy dataclasses dis enum "
        "functools importlib inspect keyword linecache modulefinder opcode operator pkgutil py_compile runpy "
        "symtable tokenize traceback types typing weakref"
    ),
    "testing": (
        "bdb cProfile doctest faulthandler logging pdb profile pstats timeit trace tracemalloc unittest warnings"
    ),
    "gui": "curses idlelib tkinter turtle turtledemo",
}
CHAPTERS = tuple(_MODULES)

# Shorter texts say too little about their module; longer ones repeat themselves and cost time.
_MIN_WORDS, _MAX_WORDS = 12, 150
_SKIPPED = frozenset({"test", "tests", "idle_test", "site-packages", "__pycache__"})


def docstring_examples(library: Path | None = None) -> list[Example]:
    """Every docstring of at least 12 words, cut at 150, once, in an order that mixes the chapters.

    The order is that of a hash of the text: the same on every machine, and any beginning of it is a fair sample. A text
    that two chapters share belongs to neither. Raises NotFound where Python came without its sources.
    """
    library = library or Path(sysconfig.get_path("stdlib"))
    if not (library / "argparse.py").is_file():
        raise NotFound(f"the sources of Python's standard library are not at {library}: name a data file instead")
    found: dict[str, list[Example]] = {}
    for chapter, modules in _MODULES.items():
        for path in _sources(library, modules.split()):
            for line, text in _docstrings(path):
                name = f"{path.relative_to(library).as_posix()}:{line}"
                found.setdefault(content_key(text, None), []).append(Example(id=name, input=text, output=chapter))
    return [same[0] for _, same in sorted(found.items()) if len({example.output for example in same}) == 1]


def chapter_sizes(examples: Sequence[Example]) -> dict[str, int]:
    """How many texts each chapter has, the largest first."""
    return dict(Counter(example.output for example in examples).most_common())


def _sources(library: Path, modules: Iterable[str]) -> Iterator[Path]:
    """The files of the modules, in sorted order: a module is a file or a package."""
    for module in modules:
        paths = [library / f"{module}.py", *sorted((library / module).rglob("*.py"))]
        yield from (path for path in paths if path.is_file() and not _SKIPPED & set(path.relative_to(library).parts))


def _docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of the module, its classes and its functions: words with one space between them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # old escapes in the library's own strings
        tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        words = (ast.get_docstring(node) or "").split()
        text = " ".join(words[:_MAX_WORDS])
        if len(words) >= _MIN_WORDS and text.isprintable():
            yield getattr(node, "lineno", 1), text
