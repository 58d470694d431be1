"""The codec of the Open Inference Protocol: what a valid body means, and that every other one is a clear error."""

from __future__ import annotations

import gzip
import json
import random
import struct
import tracemalloc
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from understudy.errors import InvalidRequest, PayloadTooLarge, UnsupportedContent
from understudy.open_inference import InferRequest, Tensor, read_request, unpack, write_response

TEXTS = ["A dull film", "", "Naïve 🎬 – שלום", "zero\0inside"]


def body(**fields: Any) -> bytes:
    return json.dumps({"inputs": [text_input()]} | fields).encode()


def text_input(data: Any = ("a", "b"), **fields: Any) -> dict[str, Any]:
    return {"name": "text", "datatype": "BYTES", "shape": [len(data)], "data": list(data)} | fields


def elements(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def with_binary(section: bytes, *inputs: dict[str, Any], **fields: Any) -> tuple[bytes, str]:
    """A body whose inputs are described as given and followed by `section`, and the length of its JSON part."""
    head = json.dumps({"inputs": inputs} | fields).encode()
    return head + section, str(len(head))


def described(name: str, datatype: str, shape: Sequence[int], size: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape), "parameters": {"binary_data_size": size}}


def from_stock_client(*inputs: InferInput, **options: Any) -> InferRequest:
    sent, length = InferenceServerClient.generate_request_body(list(inputs), **options)
    return read_request(sent, None if length is None else str(length))


@pytest.mark.parametrize("binary", [True, False])
def test_texts_of_the_stock_client_are_read(binary: bool) -> None:
    given = InferInput("text", [2, 2], "BYTES")
    given.set_data_from_numpy(np.array(TEXTS, dtype=object).reshape(2, 2), binary_data=binary)
    request = from_stock_client(given, request_id="seven", parameters={"method": "saliency"})
    assert request.inputs["text"].rows() == [TEXTS[:2], TEXTS[2:]]
    assert (request.id, request.parameters, request.binary) == ("seven", {"method": "saliency"}, True)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    "values",
    [
        np.array([True, False]),
        *(np.array([np.iinfo(kind).min, np.iinfo(kind).max], kind) for kind in ("i1", "i2", "i4", "i8")),
        *(np.array([0, np.iinfo(kind).max], kind) for kind in ("u1", "u2", "u4", "u8")),
        *(np.array([-1.5, np.finfo(kind).max], kind) for kind in ("f2", "f4", "f8")),
    ],
    ids=lambda values: str(values.dtype),
)
def test_every_number_type_is_read_as_the_stock_client_sends_it(values: Any, binary: bool) -> None:
    from tritonclient.utils import np_to_triton_dtype

    given = InferInput("x", [1, 2], np_to_triton_dtype(values.dtype))
    given.set_data_from_numpy(values.reshape(1, 2), binary_data=binary)
    tensor = from_stock_client(given).inputs["x"]
    assert (tensor.shape, list(tensor.values)) == ((1, 2), values.tolist())


def test_outputs_name_what_is_wanted_and_how() -> None:
    given = InferInput("text", [1], "BYTES").set_data_from_numpy(np.array(["a"], dtype=object))
    wanted = [InferRequestedOutput("label"), InferRequestedOutput("words", binary_data=False)]
    request = from_stock_client(given, outputs=wanted)
    assert [(one.name, one.binary) for one in request.outputs] == [("label", True), ("words", False)]
    assert request.wants("label")
    assert not request.wants("probability")


def test_an_output_that_does_not_say_how_is_sent_as_all_are() -> None:
    outputs = [{"name": "a"}, {"name": "b", "parameters": {"binary_data": False}}]
    request = read_request(body(outputs=outputs, parameters={"binary_data_output": True}))
    assert [(one.name, one.binary) for one in request.outputs] == [("a", True), ("b", False)]


def test_an_answer_is_read_by_the_stock_client_in_both_forms() -> None:
    request = read_request(
        body(id="x", outputs=[{"name": "label"}, {"name": "p", "parameters": {"binary_data": True}}])
    )
    tensors = [
        Tensor.of_texts("label", TEXTS),
        Tensor("p", "FP32", (2, 1), [0.25, 0.5]),
        Tensor.of_texts("not wanted", TEXTS),
    ]
    sent, length = write_response(request, tensors, {"model_name": "m"})
    result = InferenceServerClient.parse_response_body(sent, header_length=length)
    assert [value.decode() if isinstance(value, bytes) else value for value in result.as_numpy("label")] == TEXTS
    assert result.as_numpy("p").tolist() == [[0.25], [0.5]]
    assert result.as_numpy("not wanted") is None
    assert result.get_response()["id"] == "x"
    assert result.get_response()["model_name"] == "m"
    assert ["data" in one for one in result.get_response()["outputs"]] == [True, False]


def test_an_answer_in_binary_holds_every_text() -> None:
    request = read_request(body(parameters={"binary_data_output": True}))
    sent, length = write_response(request, [Tensor.of_texts("label", TEXTS), Tensor("n", "INT64", (1,), [7])], {})
    result = InferenceServerClient.parse_response_body(sent, header_length=length)
    assert [value.decode() for value in result.as_numpy("label")] == TEXTS
    assert result.as_numpy("n").tolist() == [7]


def test_an_answer_without_binary_data_is_all_json() -> None:
    sent, length = write_response(read_request(body()), [Tensor.of_texts("label", TEXTS)], {})
    assert length is None
    assert json.loads(sent)["outputs"] == [{"name": "label", "datatype": "BYTES", "shape": [4], "data": TEXTS}]


def test_nested_and_flat_data_mean_the_same() -> None:
    flat = read_request(body(inputs=[text_input(["a", "b"], shape=[2, 1])]))
    nested = read_request(body(inputs=[text_input([["a"], ["b"]], shape=[2, 1])]))
    assert flat == nested
    assert nested.inputs["text"].column() == ["a", "b"]


def test_binary_sections_follow_each_other_in_the_order_of_the_inputs() -> None:
    sent = with_binary(
        elements(b"one") + b"\x01\x00" + elements(b"two"),
        described("text", "BYTES", [1], 7),
        described("count", "INT16", [1], 2),
        {"name": "flag", "datatype": "BOOL", "shape": [1], "data": [True]},
        described("target", "BYTES", [1], 7),
    )
    found = read_request(*sent).inputs
    assert [found[name].values for name in ("text", "count", "flag", "target")] == [[b"one"], [1], [True], [b"two"]]


HUGE = 2**62

WRONG_JSON: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not valid JSON"),
    "not utf-8": (b'{"inputs": "\xff"}', "not valid JSON"),
    "not json": (b"{", "not valid JSON"),
    "nan": (b'{"inputs": NaN}', "not valid JSON"),
    "nested too deep": (b'{"inputs":' + b"[" * 100_000, "not valid JSON"),
    "number too long": (b'{"inputs":' + b"9" * 10_000 + b"}", "not valid JSON"),
    "no object": (b"[]", "the request should be an object"),
    "no inputs": (b"{}", "inputs should be a list"),
    "inputs no list": (b'{"inputs": {}}', "inputs should be a list"),
    "input no object": (b'{"inputs": ["text"]}', "an input should be an object"),
    "input without a name": (body(inputs=[text_input(name=None)]), "each has a name"),
    "input with an endless name": (body(inputs=[text_input(name="a" * 201)]), "each has a name"),
    "input with half a character for a name": (body(inputs=[text_input(name="\ud800")]), "each has a name"),
    "input twice": (body(inputs=[text_input(), text_input()]), "inputs name 'text' twice"),
    "id no string": (body(id=7), "id should be a string"),
    "parameters no object": (body(parameters=[]), "parameters should be an object"),
    "binary_data_output no flag": (body(parameters={"binary_data_output": "yes"}), "binary_data_output should be true"),
    "outputs no list": (body(outputs={"name": "label"}), "outputs should be a list"),
    "output no object": (body(outputs=["label"]), "an output should be an object"),
    "output twice": (body(outputs=[{"name": "a"}, {"name": "a"}]), "outputs name 'a' twice"),
    "output binary_data no flag": (
        body(outputs=[{"name": "a", "parameters": {"binary_data": 1}}]),
        "output 'a': binary_data should be true",
    ),
    "classification": (
        body(outputs=[{"name": "a", "parameters": {"classification": 3}}]),
        "'a': the extension behind 'classification'",
    ),
    "shared memory": (
        body(inputs=[text_input(parameters={"shared_memory_region": "r"})]),
        "'text': the extension behind 'shared_memory_region'",
    ),
    "no datatype": (body(inputs=[text_input(datatype=None)]), "'text': datatype is None: choose from"),
    "datatype unknown": (body(inputs=[text_input(datatype="STRING")]), "'text': datatype is 'STRING': choose from"),
    "no shape": (body(inputs=[text_input(shape=None)]), "'text': shape should be a list"),
    "shape no list": (body(inputs=[text_input(shape=2)]), "'text': shape should be a list"),
    "negative shape": (body(inputs=[text_input(shape=[-1, -2])]), "'text': shape should be a list"),
    "fraction in shape": (body(inputs=[text_input(shape=[2.0])]), "'text': shape should be a list"),
    "bool in shape": (body(inputs=[text_input(["a"], shape=[True])]), "'text': shape should be a list"),
    "size beyond 64 bits": (body(inputs=[text_input(shape=[2**70])]), "'text': shape should be a list"),
    "too many dimensions": (body(inputs=[text_input(["a"], shape=[1] * 17)]), "'text': shape has 17 dimensions"),
    "shape too small": (body(inputs=[text_input(shape=[1])]), "'text': shape [1] does not match its 2 elements"),
    "shape huge": (body(inputs=[text_input(shape=[HUGE, HUGE])]), "does not match its 2 elements"),
    "shape huge and empty": (body(inputs=[text_input(shape=[0, HUGE])]), "does not match its 2 elements"),
    "no data": (body(inputs=[text_input() | {"data": None}]), "it has no data"),
    "data no list": (body(inputs=[text_input() | {"data": "ab"}]), "it has no data"),
    "nested data ragged": (body(inputs=[text_input([["a"], ["b", "c"]], shape=[2, 1])]), "in dimension 1"),
    "nested data mixed": (body(inputs=[text_input([["a"], "b"], shape=[2, 1])]), "in dimension 1"),
    "nested data too deep": (body(inputs=[text_input([["a"], ["b"]], shape=[2])]), "element 0 is no string: a list"),
    "nested data in other order": (body(inputs=[text_input([["a", "b"]], shape=[2, 1])]), "in dimension 0"),
    "number for text": (body(inputs=[text_input([1, 2])]), "'text': element 0 is no string: 1"),
    "half a character": (body(inputs=[text_input(["a", "\ud800"])]), "'text': element 1 has half of a surrogate"),
    "text for number": (body(inputs=[text_input(datatype="INT8")]), "'text': element 0 is no INT8: 'a'"),
    "number too large": (body(inputs=[text_input([1, 256], datatype="UINT8")]), "'text': element 1 is no UINT8: 256"),
    "fraction for integer": (body(inputs=[text_input([1.5], datatype="INT64")]), "element 0 is no INT64"),
    "bool for integer": (body(inputs=[text_input([True], datatype="INT64")]), "element 0 is no INT64"),
    "integer for bool": (body(inputs=[text_input([1], datatype="BOOL")]), "element 0 is no BOOL"),
    "beyond floats": (body(inputs=[text_input([10**400], datatype="FP64")]), "element 0 is no FP64"),
    "beyond single floats": (body(inputs=[text_input([1e39], datatype="FP32")]), "element 0 is no FP32"),
}


@pytest.mark.parametrize(("sent", "complaint"), WRONG_JSON.values(), ids=WRONG_JSON.keys())
def test_a_body_that_is_no_request_is_refused_with_the_reason(sent: bytes, complaint: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_request(sent)
    assert complaint in caught.value.message
    assert len(caught.value.message.encode()) < 1000  # it can be sent, and is short


def _binary(section: bytes, size: Any, shape: Sequence[int] = (2,), datatype: str = "BYTES") -> tuple[bytes, str]:
    return with_binary(section, described("text", datatype, shape, size))


TWO = elements(b"ab", b"c")

WRONG_BINARY: dict[str, tuple[tuple[bytes, str], str]] = {
    "size negative": (_binary(TWO, -1), "binary_data_size is -1"),
    "size beyond the body": (_binary(TWO, len(TWO) + 1), f"binary_data_size is {len(TWO) + 1}, and {len(TWO)} bytes"),
    "size huge": (_binary(TWO, 2**63), "binary_data_size is 9223372036854775808"),
    "size no number": (_binary(TWO, "11"), "binary_data_size is '11'"),
    "size a flag": (_binary(b"\x01", True, [1], "INT8"), "binary_data_size is True"),
    "size a list": (_binary(TWO, [1]), "binary_data_size is a list"),
    "bytes left over": (_binary(TWO + b"x", len(TWO)), "1 bytes of binary data belong to no input"),
    "all bytes left over": (with_binary(TWO, text_input()), "11 bytes of binary data belong to no input"),
    "sections overlap": (
        with_binary(TWO, described("text", "BYTES", [2], 11), described("target", "BYTES", [2], 11)),
        "tensor 'target': binary_data_size is 11, and 0 bytes",
    ),
    "data twice": (
        with_binary(TWO, described("text", "BYTES", [2], 11) | {"data": ["a", "b"]}),
        "both 'data' and 'binary_data_size'",
    ),
    "ends within a length": (_binary(TWO[:-3], len(TWO) - 3), "ends within element 1"),
    "ends within an element": (_binary(TWO[:-1], len(TWO) - 1), "ends within element 1"),
    "element claims four gigabytes": (_binary(b"\xff\xff\xff\xff", 4), "ends within element 0"),
    "shape too small": (_binary(TWO, 11, [1]), "shape [1] does not match its 2 elements"),
    "shape huge": (_binary(TWO, 11, [HUGE, HUGE]), "does not match its 2 elements"),
    "numbers too short": (_binary(b"1234567", 7, [2], "FP32"), "takes 8 bytes, not 7"),
    "numbers of a huge shape": (_binary(b"12345678", 8, [HUGE, HUGE], "FP32"), "bytes, not 8"),
    "bool of two": (_binary(b"\x02", 1, [1], "BOOL"), "a BOOL is a byte that is 0 or 1"),
    "header length beyond the body": ((body(), "1000"), "Inference-Header-Content-Length is '1000'"),
    "header length zero": ((body(), "0"), "Inference-Header-Content-Length is '0'"),
    "header length negative": ((body(), "-1"), "Inference-Header-Content-Length is '-1'"),
    "header length no number": ((body(), "١"), "Inference-Header-Content-Length is '١'"),
    "header length huge": ((body(), "9" * 5000), "Inference-Header-Content-Length is '999"),
    "header length too short": ((body(), "10"), "not valid JSON"),
}


@pytest.mark.parametrize(("sent", "complaint"), WRONG_BINARY.values(), ids=WRONG_BINARY.keys())
def test_binary_data_that_lies_is_refused_with_the_reason(sent: tuple[bytes, str], complaint: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_request(*sent)
    assert complaint in caught.value.message


def test_nothing_is_allocated_from_a_declared_size() -> None:
    sent = [
        _binary(TWO, 11, [2**40]),
        _binary(b"\xff\xff\xff\x7f" + b"x" * 7, 11),
        _binary(b"12345678", 8, [2**40], "FP64"),
        (body(inputs=[text_input(shape=[2**40])]), None),
        (body(inputs=[text_input([["a"]], shape=[2**40, 1])]), None),
    ]
    tracemalloc.start()
    try:
        for one in sent:
            with pytest.raises(InvalidRequest):
                read_request(*one)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("tensor", "complaint"),
    [
        (Tensor("text", "INT8", (1,), [1]), "datatype is INT8: texts are sent as BYTES"),
        (Tensor("text", "BYTES", (), [b"a"]), "shape is []"),
        (Tensor("text", "BYTES", (1, 1, 1), [b"a"]), "shape is [1, 1, 1]"),
        (Tensor("text", "BYTES", (1, 2), [b"a", b"b"]), "shape is [1, 2]"),
        (Tensor("text", "BYTES", (HUGE, 0), []), f"shape is [{HUGE}, 0]"),
        (Tensor("text", "BYTES", (2,), [b"a", b"\xff"]), "element 1 is not valid UTF-8"),
    ],
)
def test_a_tensor_that_is_no_column_of_texts_says_so(tensor: Tensor, complaint: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        tensor.column()
    assert caught.value.message.startswith("tensor 'text': ")
    assert complaint in caught.value.message


def test_rows_of_nothing_cost_nothing() -> None:
    assert Tensor("choices", "BYTES", (HUGE, 0), []).rows() == []
    assert Tensor("text", "BYTES", (0, 1), []).column() == []


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_packed_bodies_are_unpacked_within_bounds(encoding: str, pack: Any) -> None:
    assert unpack(pack(b"x" * 1000), encoding, most=1000) == b"x" * 1000
    with pytest.raises(PayloadTooLarge, match="more than the 999 bytes"):
        unpack(pack(b"x" * 1000), encoding, most=999)
    for wrong in (b"", b"x" * 1000, pack(b"x" * 1000)[:-1], pack(b"x") + b"y"):
        with pytest.raises(InvalidRequest, match=encoding):
            unpack(wrong, encoding, most=1000)


def test_a_small_body_that_unpacks_to_gigabytes_is_never_made() -> None:
    bomb = zlib.compress(b"\0" * 50_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            unpack(bomb, "deflate", most=1000)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_other_encodings_are_refused() -> None:
    assert unpack(b"x", None, most=10) == unpack(b"x", "identity", most=10) == b"x"
    with pytest.raises(UnsupportedContent, match="content encoding 'br'"):
        unpack(b"x", "br", most=10)


def mutated(sent: bytes, chance: random.Random) -> bytes:
    """The body with a few bytes changed, dropped, doubled, or put elsewhere."""
    changed = bytearray(sent)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        at = chance.randrange(len(changed) + 1)
        end = min(len(changed), at + chance.randint(1, 12))
        kind = chance.randrange(5)
        if kind == 0:
            changed[at:end] = chance.randbytes(end - at)
        elif kind == 1:
            del changed[at:end]
        elif kind == 2:
            changed[at:at] = changed[at:end]
        elif kind == 3:
            changed[at:at] = chance.choice(
                [b"-1", b"9" * 30, b"[", b"]", b"null", b'"', b"\\ud800", b"\xff\xff\xff\xff"]
            )
        else:
            del changed[at:]
        changed = changed or bytearray(b"0")
    return bytes(changed)


def test_mutations_of_a_valid_body_are_read_or_refused_and_never_a_defect() -> None:
    whole, length = with_binary(
        elements("Naïve 🎬".encode(), b"two") + struct.pack("<2f", 0.5, 1.5),
        described("text", "BYTES", [2, 1], 22),
        described("weight", "FP32", [2], 8),
        text_input([["a"], ["b"]], name="target", shape=[2, 1]),
        id="x",
        outputs=[{"name": "label", "parameters": {"binary_data": True}}],
        parameters={"binary_data_output": False, "top_k": 3},
    )
    head, section = whole[: int(length)], whole[int(length) :]
    chance = random.Random(7)
    read = 0
    for _ in range(4000):
        first, last = chance.choice([(mutated(head, chance), section), (head, mutated(section, chance))])
        header = chance.choice([str(len(first))] * 6 + [length, str(chance.randint(0, len(whole))), None])
        try:
            found = read_request(first + last, header)
            columns = [tensor.column() for tensor in found.inputs.values() if tensor.datatype == "BYTES"]
        except InvalidRequest:
            continue
        read += 1
        write_response(found, [Tensor.of_texts("label", texts) for texts in columns], {})
    assert 100 < read < 2000  # the mutations are neither all fatal nor all harmless
