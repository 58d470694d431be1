"""Lines of a text file, with bounds: no line is held that is longer than any example can be.

Bytes that are not UTF-8 pass through as surrogate escapes, so that `check_utf8` can refuse the one row they are in.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from understudy.errors import InvalidRequest

__all__ = ["Row", "check_utf8", "lines", "open_text", "too_long"]

Row = dict[str, Any] | InvalidRequest
"""The fields of a row, or the reason why there are none."""

# In characters: the longest input in escaped JSON takes 1.2 million, and a row has choices and a rationale beside it.
_MAX_LINE = 8 * 2**20


def open_text(path: Path, newline: str) -> IO[str]:
    """Open as UTF-8, with or without a byte order mark. Raises InvalidRequest for UTF-16."""
    with path.open("rb") as file:
        if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise InvalidRequest(f"'{path.name}' is UTF-16: save it as UTF-8")
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def lines(file: IO[str]) -> Iterator[tuple[str, bool]]:
    """Yield (line, True), or (the beginning of it, False) for a line that is too long."""
    while line := file.readline(_MAX_LINE):
        whole = len(line) < _MAX_LINE or line.endswith(("\n", "\r"))
        yield line, whole
        while not whole and (rest := file.readline(_MAX_LINE)):
            whole = rest.endswith(("\n", "\r"))


def too_long() -> InvalidRequest:
    return InvalidRequest(f"the line is longer than {_MAX_LINE} characters")


def check_utf8(text: str) -> None:
    """Raise InvalidRequest where a byte could not be decoded."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) - 0xDC00  # how `surrogateescape` hides a byte
        raise InvalidRequest(f"byte 0x{byte:02x} at character {error.start + 1} is not UTF-8") from None
