"""One bad line costs that line only, whatever the format; a file that cannot be read at all says what would be."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from understudy.data.read import read_rows
from understudy.errors import InvalidRequest, UnknownName

GOOD = b'{"input": "a", "output": "b"}\n'
FIELDS = {"input": "a", "output": "b"}


def rows(path: Path, content: bytes) -> dict[int, Any]:
    """What each line was read as: its fields, or the reason why not."""
    path.write_bytes(content)
    return {line: row.message if isinstance(row, InvalidRequest) else row for line, row in read_rows(path)}


# --- JSON ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        b"\xef\xbb\xbf" + GOOD,
        GOOD.replace(b"\n", b"\r\n"),
        GOOD.rstrip(),
        GOOD.replace(b", ", b",\t\r"),
    ],
    ids=["plain", "byte-order-mark", "crlf", "no-last-newline", "white-space-inside"],
)
def test_ordinary_lines_are_read(tmp_path: Path, content: bytes) -> None:
    assert rows(tmp_path / "a.jsonl", content) == {1: FIELDS}


def test_blank_lines_are_counted_but_are_no_rows(tmp_path: Path) -> None:
    assert rows(tmp_path / "a.jsonl", b"\n" + GOOD + b"  \r\n\n" + GOOD) == {2: FIELDS, 5: FIELDS}


def test_unicode_line_separators_do_not_end_a_json_line(tmp_path: Path) -> None:
    text = "one\u2028two\u2029three\x85four\x0bfive\x0csix"
    line = json.dumps({"input": text}, ensure_ascii=False).encode()
    assert rows(tmp_path / "a.jsonl", line + b"\n") == {1: {"input": text}}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"input": "a\xff"}', "byte 0xff at character 13 is not UTF-8"),
        (b'{"input": "\xed\xa0\x80"}', "byte 0xed"),
        (b'{"input": NaN}', "NaN is not JSON"),
        (b'{"input": -Infinity}', "-Infinity is not JSON"),
        (b'{"input": "a"', "not valid JSON"),
        (b'{"input": "a\tb"}', "not valid JSON: Invalid control character"),
        (b"{'input': 'a'}", "not valid JSON"),
        (b'{"input": "a", "input": "b"}', "'input' is there twice"),
        (b'{"input": 1' + b"0" * 5000 + b"}", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'["a", "b"]', "must be a JSON object, not a list"),
        (b'"a"', "not a string"),
        (b"null", "not null"),
        (b"true", "not a boolean"),
        (b"7", "not a number"),
        (b'{"input": "' + b"a" * (9 * 2**20) + b'"}', "longer than"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_a_bad_line_says_why_and_the_lines_around_it_are_read(tmp_path: Path, line: bytes, reason: str) -> None:
    found = rows(tmp_path / "a.jsonl", GOOD + line + b"\n" + GOOD)
    assert reason in found.pop(2)
    assert found == {1: FIELDS, 3: FIELDS}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("lead", [b"", b"\xef\xbb\xbf", b"\r\n \n"])
def test_a_json_array_is_read_element_by_element(tmp_path: Path, indent: int | None, lead: bytes) -> None:
    content = json.dumps([FIELDS, 3, {"input": float("nan")}, FIELDS], indent=indent).encode()
    found = rows(tmp_path / "a.json", lead + content)
    assert "not a number" in found.pop(2)
    assert "NaN" in found.pop(3)
    assert found == {1: FIELDS, 4: FIELDS}


def test_lines_that_start_with_a_list_are_still_lines(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.jsonl", b'["input", "output"]\n' + GOOD)
    assert found[2] == FIELDS


def test_a_cut_off_json_array_says_where(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"one JSON array that cannot be read: .*line 3 column"):
        rows(tmp_path / "a.json", b'[\n{"input": "a"},\n{"input": ')


def test_an_array_too_large_to_hold_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.data.formats.jsonlines._MAX_ARRAY_BYTES", 10)
    with pytest.raises(InvalidRequest, match="one object a line instead"):
        rows(tmp_path / "a.json", json.dumps([FIELDS]).encode())


def test_a_line_of_100_megabytes_is_refused_without_being_held(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(GOOD + b'{"input": "')
        for _ in range(100):
            file.write(b"a" * 2**20)
        file.write(b'"}\n' + GOOD)
    tracemalloc.start()
    found = dict(read_rows(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(found.pop(2), InvalidRequest)
    assert found == {1: FIELDS, 3: FIELDS}
    assert peak < 50 * 2**20


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    def peak(count: int) -> int:
        path = tmp_path / name
        line = GOOD if name == "a.jsonl" else b"some input text,output\n"
        path.write_bytes((b"" if name == "a.jsonl" else b"input,output\n") + line * count)
        tracemalloc.start()
        for _ in read_rows(path):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(20_000) < peak(1_000) + 100_000


# --- CSV -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [b",", b";", b"\t", b"|"])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("lead", [b"", b"\xef\xbb\xbf"])
def test_the_header_tells_the_separator(tmp_path: Path, separator: bytes, ending: bytes, lead: bytes) -> None:
    table = [[b"Text", b" label "], [b"a, b; c|d", b"x"], [b"e", b"y"]]
    content = ending.join(separator.join(b'"%s"' % cell for cell in cells) for cells in table)
    assert rows(tmp_path / "a.csv", lead + content) == {
        2: {"text": "a, b; c|d", "label": "x"},
        3: {"text": "e", "label": "y"},
    }


def test_quoted_line_breaks_stay_in_the_cell_and_lines_are_counted_in_the_file(tmp_path: Path) -> None:
    content = b'\n\ninput,output\n"a\r\nb\n\nc",x\n\n"say ""hi""",y\n'
    assert rows(tmp_path / "a.csv", content) == {
        4: {"input": "a\r\nb\n\nc", "output": "x"},
        9: {"input": 'say "hi"', "output": "y"},
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"a\xe9,b", "byte 0xe9 at character 2 is not UTF-8"),
        (b"a", "1 cells where the header has 2"),
        (b"a,b,c", "3 cells where the header has 2"),
        (b'"a"b,c', "not valid CSV"),
        (b"a" * 200_000 + b",b", "a cell is above 131072 characters"),
        (b"a," * (5 * 2**20), "longer than"),
    ],
    ids=["bad-byte", "short", "long", "quote-inside", "long-cell", "long-line"],
)
def test_a_bad_csv_row_says_why_and_the_rows_around_it_are_read(tmp_path: Path, line: bytes, reason: str) -> None:
    found = rows(tmp_path / "a.csv", b"input,output\na,b\n" + line + b"\na,b\n")
    assert reason in found.pop(3)
    assert found == {2: FIELDS, 4: FIELDS}


def test_a_quote_that_is_never_closed_names_the_lines_it_took(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.csv", b'input,output\na,b\n"a,b\na,b\na,b\n')
    assert found == {2: FIELDS, 3: "lines 3-5: a quote is not closed, or a cell is above 131072 characters"}


def test_rows_of_empty_cells_are_no_rows(tmp_path: Path) -> None:
    assert rows(tmp_path / "a.csv", b"input,output\n , \na,b\n   \n,,,\n") == {3: FIELDS}


@pytest.mark.parametrize(
    "header", [b"great film,positive", b"input,comment", b"a\xff,b", b'"input', b"a" * 200_000], ids=lambda h: h[:9]
)
def test_a_csv_without_usable_column_names_is_refused(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(InvalidRequest):
        rows(tmp_path / "a.csv", header + b"\na,b\n")


@pytest.mark.timeout(20)
def test_a_row_made_to_be_slow_is_refused_in_time(tmp_path: Path) -> None:
    names = ", ".join(f'"{i}": 0' for i in range(300_000))
    assert "twice" in rows(tmp_path / "a.jsonl", f'{{{names}, "x": 1, "x": 2}}'.encode())[1]
    header = ",".join(["input,output", *map(str, range(300_000)), "x,x"])
    with pytest.raises(InvalidRequest, match="two columns named 'x'"):
        rows(tmp_path / "a.csv", header.encode() + b"\na,b\n")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="two columns named 'input'"):
        rows(tmp_path / "a.csv", b"input,input,output\na,b,c\n")


# --- Parquet -------------------------------------------------------------------------------------------------------


def test_parquet_columns_of_any_type_become_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table(
        {
            "input": pa.array(["a", "b"]).dictionary_encode(),
            "output": pa.array([1, None], pa.uint8()),
            "choices": pa.array([["x"], None], pa.list_(pa.large_string())),
            "extra": pa.array([{"p": 1}, None]),
        }
    )
    pq.write_table(table, path)
    assert dict(read_rows(path)) == {
        1: {"input": "a", "output": 1, "choices": ["x"], "extra": {"p": 1}},
        2: {"input": "b", "output": None, "choices": None, "extra": None},
    }


def test_one_parquet_text_that_is_not_utf8_costs_its_row_only(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    raw = pa.array([b"good", b"bad\xff", b"fine"], pa.binary())
    text = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(pa.table({"input": text}), path)
    found = dict(read_rows(path))
    assert isinstance(found[2], InvalidRequest)
    assert "0xff" in found[2].message
    assert (found[1], found[3]) == ({"input": "good"}, {"input": "fine"})


@pytest.mark.parametrize("content", [b"PAR1", b"not parquet at all", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_a_broken_parquet_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"a\.parquet"):
        rows(tmp_path / "a.parquet", content)


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.xlsx", "a.txt", "a", "a.jsonl.gz"])
def test_an_unknown_extension_lists_those_that_are_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnknownName, match=r"choose from \.csv, \.json, \.jsonl, \.ndjson, \.parquet, \.tsv"):
        rows(tmp_path / name, GOOD)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".JSONL"])
def test_an_empty_file_is_refused(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(InvalidRequest, match="is empty"):
        rows(tmp_path / f"a{suffix}", b"")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"there is no file 'gone\.jsonl'"):
        read_rows(tmp_path / "gone.jsonl")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_utf16_with_a_byte_order_mark_is_refused_with_the_way_out(tmp_path: Path, encoding: str, suffix: str) -> None:
    mark = b"" if encoding == "utf-16" else "\ufeff".encode(encoding)
    with pytest.raises(InvalidRequest, match="save it as UTF-8"):
        rows(tmp_path / f"a{suffix}", mark + GOOD.decode().encode(encoding))
