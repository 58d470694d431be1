"""CSV and TSV with a header line, in constant memory.

The separator is the one with which the header names both an input and an output; nothing is guessed from the text
below it; a file of questions alone needs a name for the input only. Cells may hold quoted line breaks.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from understudy.data.formats.text import Row, check_utf8, lines, open_text, too_long
from understudy.data.rows import INPUT_NAMES, OUTPUT_NAMES, shown
from understudy.errors import InvalidRequest

__all__ = ["read_delimited"]

_SEPARATORS = (",", ";", "\t", "|")


def read_delimited(path: Path, *, answered: bool = True) -> Iterator[tuple[int, Row]]:
    """Yield (line, row), where `line` is the first of the lines that the row takes."""
    with open_text(path, newline="") as file:
        cut: list[str] = []
        text = _watched(file, cut)
        above, header = next(((number, line) for number, line in enumerate(text, start=1) if line.strip()), (0, ""))
        separator, names = _header(header, path, answered)
        reader = csv.reader(text, delimiter=separator, strict=True)
        while True:
            start = above + reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield start, _malformed(start, above + reader.line_num, error)
            else:
                if any(cell.strip() for cell in cells):
                    yield start, too_long() if cut else _row(names, cells)
            cut.clear()


def _watched(file: IO[str], cut: list[str]) -> Iterator[str]:
    """Yield lines for the CSV parser and note in `cut` those that are not whole."""
    for line, whole in lines(file):
        if not whole:
            cut.append(line[:80])
        yield line


def _header(line: str, path: Path, answered: bool) -> tuple[str, list[str]]:
    """The separator and the names of the columns, in lower case."""
    for separator in _SEPARATORS:
        names = _names(line, separator)
        if set(names) & set(INPUT_NAMES) and (not answered or set(names) & set(OUTPUT_NAMES)):
            _check_names(names, path)
            return separator, names
    columns = [f"one of {', '.join(INPUT_NAMES)} for the input"]
    columns += [f"one of {', '.join(OUTPUT_NAMES)} for the output"] if answered else []
    raise InvalidRequest(
        f"the first line of '{path.name}' must name the columns: {' and '.join(columns)}; it holds "
        f"'{shown(line.strip())}'"
    )


def _names(line: str, separator: str) -> list[str]:
    try:
        return [name.strip().lower() for name in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error:  # a name above the parser's limit is no name
        return []


def _check_names(names: list[str], path: Path) -> None:
    check_utf8("".join(names))
    twice, count = Counter(filter(None, names)).most_common(1)[0]
    if count > 1:
        raise InvalidRequest(f"'{path.name}' has two columns named '{shown(twice)}'", param=shown(twice))


def _row(names: list[str], cells: list[str]) -> Row:
    try:
        check_utf8("".join(cells))
    except InvalidRequest as error:
        return error
    if len(cells) != len(names):
        return InvalidRequest(f"the row has {len(cells)} cells where the header has {len(names)}")
    return dict(zip(names, cells, strict=True))


def _malformed(first: int, last: int, error: csv.Error) -> InvalidRequest:
    if "field larger" in str(error) or "unexpected end" in str(error):
        return InvalidRequest(
            f"lines {first}-{last}: a quote is not closed, or a cell is above {csv.field_size_limit()} characters"
        )
    return InvalidRequest(f"not valid CSV: {error}")
