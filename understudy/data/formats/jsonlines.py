"""JSON Lines, one object a line, in constant memory; a file that is one JSON array is read as a whole."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from understudy.data.formats.text import Row, check_utf8, lines, open_text, too_long
from understudy.errors import InvalidRequest

__all__ = ["read_json"]

_MAX_ARRAY_BYTES = 64 * 2**20


def read_json(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield (line, row); for an array, its elements are counted instead of lines."""
    # Only "\n" ends a line: a JSON string may hold every other separator that Unicode has.
    with open_text(path, newline="\n") as file:
        if _is_array(file):
            yield from enumerate(_elements(path), start=1)
            return
        file.seek(0)
        for number, (line, whole) in enumerate(lines(file), start=1):
            if line.strip():
                yield number, _parse(line) if whole else too_long()


def _parse(line: str) -> Row:
    try:
        check_utf8(line)
        return _object(json.loads(line, parse_constant=_refuse_constant, object_pairs_hook=_unique))
    except InvalidRequest as error:
        return error
    except RecursionError:
        return InvalidRequest("the JSON is nested too deeply")
    except ValueError as error:
        return InvalidRequest(f"not valid JSON: {error}")


def _is_array(file: IO[str]) -> bool:
    """True for `[...]` around the whole file. A first line that is a value of its own, with more below, is a line."""
    numbered = ((line, whole) for line, whole in lines(file) if line.strip())
    first, whole = next(numbered, ("", True))
    if not first.lstrip().startswith("["):
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return True
    return whole and next(numbered, None) is None


def _elements(path: Path) -> Iterator[Row]:
    if path.stat().st_size > _MAX_ARRAY_BYTES:
        raise InvalidRequest(
            f"'{path.name}' is one JSON array of more than {_MAX_ARRAY_BYTES} bytes: write one object a line instead"
        )
    try:
        elements = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique)
    except RecursionError:
        raise InvalidRequest(f"'{path.name}' is nested too deeply") from None
    except ValueError as error:
        raise InvalidRequest(f"'{path.name}' is one JSON array that cannot be read: {error}") from error
    yield from map(_element, elements)


def _element(value: Any) -> Row:
    try:
        json.dumps(value, allow_nan=False)
        return _object(value)
    except InvalidRequest as error:
        return error
    except ValueError:
        return InvalidRequest("NaN and Infinity are not JSON: write null or a number")


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")
        raise InvalidRequest(f"a row must be a JSON object, not {kind}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise InvalidRequest(f"the field {twice[:80]!a} is there twice")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"{name} is not JSON: write null or a number")
