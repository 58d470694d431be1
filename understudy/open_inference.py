"""The Open Inference Protocol V2 on the wire: tensors from and to JSON, and the binary tensor extension.

The protocol: https://github.com/kserve/open-inference-protocol (`inference_rest.md`). The extension, which the stock
client uses unless it is told not to: Triton's `extension_binary_data.md`. Bytes in, tensors out, and back. Knows no
service, no address and no model; which tensors a model reads and gives is for the routes to say.

All that a body says of itself is checked against the bytes that are there before anything is made of it. Whatever is
wrong raises InvalidRequest, whose message names the tensor; a defect in a body is never a defect of ours.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from understudy.errors import InvalidRequest, PayloadTooLarge, UnknownName, UnsupportedContent

__all__ = [
    "HEADER_LENGTH",
    "InferRequest",
    "Tensor",
    "WantedOutput",
    "example_rows",
    "read_request",
    "unpack",
    "write_response",
]

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The HTTP header that says how many bytes of a body are JSON; binary tensors are the rest. Absent: all is JSON."""

_NUMBERS = {
    "BOOL": "u1",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_DATATYPES = (*_NUMBERS, "BYTES")  # BF16 has neither a form in JSON nor one in numpy
_MOST_DIMENSIONS = 16
_COUNT = re.compile(r"[0-9]{1,18}")
_WBITS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


@dataclass(frozen=True)
class Tensor:
    """`values` are all elements in row-major order: numbers, booleans, or `bytes` where the datatype is BYTES."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[Any]

    @classmethod
    def of_texts(cls, name: str, texts: Sequence[str]) -> Tensor:
        """A BYTES tensor (N,) of UTF-8 texts."""
        return cls(name, "BYTES", (len(texts),), [text.encode() for text in texts])

    def rows(self) -> list[list[str]]:
        """The texts of a BYTES tensor (N, M), or (N,) as N rows of one.

        Raises InvalidRequest for another datatype, for another shape, and for bytes that are no UTF-8.
        """
        if self.datatype != "BYTES":
            raise _wrong(self.name, f"datatype is {self.datatype}: texts are sent as BYTES")
        if len(self.shape) not in (1, 2):
            raise _wrong(self.name, f"shape is {list(self.shape)}: texts are sent as [N] or [N, M]")
        texts = [self._text(position, value) for position, value in enumerate(self.values)]
        width = self.shape[1] if len(self.shape) == 2 else 1
        return [texts[row * width : (row + 1) * width] for row in range(self.shape[0] if width else 0)]

    def column(self) -> list[str]:
        """The texts of a BYTES tensor (N,) or (N, 1); raises InvalidRequest as `rows` does."""
        if len(self.shape) == 2 and self.shape[1] != 1:
            raise _wrong(self.name, f"shape is {list(self.shape)}: one text a row is sent as [N] or [N, 1]")
        return [row[0] for row in self.rows()]

    def _text(self, position: int, value: bytes) -> str:
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _wrong(self.name, f"element {position} is not valid UTF-8 ({error.reason})") from error


@dataclass(frozen=True)
class WantedOutput:
    """An output that a request names, and whether it is to be sent as binary data."""

    name: str
    binary: bool


@dataclass(frozen=True)
class InferRequest:
    """`outputs` is empty where the request names none, which means all. `binary` is for outputs that do not say."""

    inputs: Mapping[str, Tensor]
    outputs: tuple[WantedOutput, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None
    binary: bool = False

    def wants(self, output: str) -> bool:
        return not self.outputs or any(one.name == output for one in self.outputs)


def unpack(body: bytes, encoding: str | None, most: int) -> bytes:
    """Undo a Content-Encoding, `gzip` or `deflate`, without ever making more than `most` bytes.

    Raises UnsupportedContent for another encoding, PayloadTooLarge, or InvalidRequest for a body that is not so packed.
    """
    name = (encoding or "identity").strip().lower()
    if name == "identity":
        return body
    if name not in _WBITS:
        raise UnsupportedContent(
            f"content encoding '{name[:100]}' is not read here: send gzip, deflate, or the body as it is",
            param="Content-Encoding",
        )
    unpacker = zlib.decompressobj(wbits=_WBITS[name])
    try:
        unpacked = unpacker.decompress(body, most + 1)
    except zlib.error as error:
        raise InvalidRequest(f"the body is not valid {name}: {error}", param="Content-Encoding") from error
    if len(unpacked) > most:
        raise PayloadTooLarge(f"the body unpacks to more than the {most} bytes that are accepted here")
    if not unpacker.eof or unpacker.unused_data:
        raise InvalidRequest(f"the body is not one whole {name} stream", param="Content-Encoding")
    return unpacked


def read_request(body: bytes, header_length: str | None = None) -> InferRequest:
    """Read an inference request; `header_length` is the value of its HEADER_LENGTH, where it has one.

    Raises InvalidRequest for anything that is not a request of the protocol.
    """
    head, binary = _split(body, header_length)
    request = _object(_json(head), "the request")
    parameters = _object(request.get("parameters", {}), "parameters")
    for_all = _flag(parameters, "binary_data_output", "parameters") or False
    wanted = [_wanted(one, for_all) for one in _list(request.get("outputs", []), "outputs")]
    _no_twins([one.name for one in wanted], "outputs")
    name = request.get("id")
    if name is not None and not isinstance(name, str):
        raise InvalidRequest("id should be a string", param="id")
    return InferRequest(
        inputs=_inputs(_list(request.get("inputs"), "inputs"), binary),
        outputs=tuple(wanted),
        parameters={key: value for key, value in parameters.items() if key != "binary_data_output"},
        id=name,
        binary=for_all,
    )


def write_response(
    request: InferRequest, outputs: Sequence[Tensor], about: Mapping[str, Any]
) -> tuple[bytes, int | None]:
    """The body of the answer to a request, and its HEADER_LENGTH, None where all of it is JSON.

    `about` is what stands beside the outputs: `model_name`, `model_version`, `parameters`. Outputs that the request
    does not want are left out; each is sent in the form that the request chose for it.
    """
    binary = {one.name: one.binary for one in request.outputs}
    described, sections = [], []
    for tensor in outputs:
        if not request.wants(tensor.name):
            continue
        row: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if binary.get(tensor.name, request.binary):
            sections.append(_packed(tensor))
            row["parameters"] = {"binary_data_size": len(sections[-1])}
        else:
            row["data"] = [value.decode() if isinstance(value, bytes) else value for value in tensor.values]
        described.append(row)
    answer = dict(about) | ({} if request.id is None else {"id": request.id}) | {"outputs": described}
    head = json.dumps(answer, separators=(",", ":")).encode()
    return b"".join([head, *sections]), len(head) if sections else None


# --- reading ---------------------------------------------------------------------------------------------------------


def example_rows(request: InferRequest, fields: Mapping[str, str]) -> list[dict[str, Any]]:
    """One set of fields for each example of a request; `fields` says which field each input tensor fills.

    `choices` has a row of values for each example, all others one value. `text` must be there. Raises UnknownName or
    InvalidRequest, whose `param` names the tensor.
    """
    for name in request.inputs:
        if name not in fields:
            raise UnknownName.among("input tensor", name, fields, param="inputs")
    if "text" not in request.inputs:
        raise InvalidRequest("the input tensor 'text' is missing", param="inputs")
    columns: dict[str, Sequence[Any]] = {
        name: tensor.rows() if name == "choices" else tensor.column() for name, tensor in request.inputs.items()
    }
    count = len(columns["text"])
    if not count:
        raise InvalidRequest("tensor 'text': it is empty: send one text or more", param="tensors.text")
    for name, values in columns.items():
        if len(values) != count:
            raise InvalidRequest(
                f"tensor '{name}': it has {len(values)} rows, and 'text' has {count}", param=f"tensors.{name}"
            )
    return [{fields[name]: values[row] for name, values in columns.items()} for row in range(count)]


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    if not _COUNT.fullmatch(header_length.strip()) or not 0 < int(header_length) <= len(body):
        raise InvalidRequest(
            f"{HEADER_LENGTH} is '{header_length[:100]}': it should be the length of the JSON part, "
            f"between 1 and the body's {len(body)} bytes",
            param=HEADER_LENGTH,
        )
    return body[: int(header_length)], body[int(header_length) :]


def _json(text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the request is not valid JSON ({str(error)[:200]})") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _inputs(described: Sequence[Any], binary: bytes) -> dict[str, Tensor]:
    """Read each input; the binary sections follow one another in the order of the inputs and fill the body exactly."""
    tensors, used = [], 0
    for one in described:
        row = _object(one, "an input")
        name = _name(row, "input")
        parameters = _object(row.get("parameters", {}), f"input '{name}': parameters")
        _no_extensions(name, parameters, ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"))
        datatype, shape = _datatype(name, row), _shape(name, row)
        size = parameters.get("binary_data_size")
        if size is None:
            values = _from_json(name, datatype, shape, row)
        else:
            if "data" in row:
                raise _wrong(name, "it has both 'data' and 'binary_data_size': send one of them")
            left = len(binary) - used
            if type(size) is not int or not 0 <= size <= left:
                raise _wrong(name, f"binary_data_size is {_shown(size)}, and {left} bytes of binary data are left")
            values = _from_bytes(name, datatype, shape, binary[used : used + size])
            used += size
        tensors.append(Tensor(name, datatype, shape, values))
    if used != len(binary):
        raise InvalidRequest(f"inputs: {len(binary) - used} bytes of binary data belong to no input", param="inputs")
    _no_twins([tensor.name for tensor in tensors], "inputs")
    return {tensor.name: tensor for tensor in tensors}


def _datatype(name: str, row: Mapping[str, Any]) -> str:
    given = row.get("datatype")
    if given not in _DATATYPES:
        raise _wrong(name, f"datatype is {_shown(given)}: choose from {', '.join(_DATATYPES)}")
    return str(given)


def _shape(name: str, row: Mapping[str, Any]) -> tuple[int, ...]:
    given = row.get("shape")
    if not isinstance(given, list) or not all(type(size) is int and 0 <= size < 2**63 for size in given):
        raise _wrong(name, "shape should be a list of whole numbers from 0 up")
    if len(given) > _MOST_DIMENSIONS:
        raise _wrong(name, f"shape has {len(given)} dimensions: at most {_MOST_DIMENSIONS}")
    return tuple(given)


def _from_json(name: str, datatype: str, shape: tuple[int, ...], row: Mapping[str, Any]) -> list[Any]:
    values = row.get("data")
    if not isinstance(values, list):
        raise _wrong(name, "it has no data: send a list as 'data', or binary data with its 'binary_data_size'")
    if values and isinstance(values[0], list):
        values = _flat(name, shape, values)
    if len(values) != math.prod(shape):
        raise _wrong(name, f"shape {list(shape)} does not match its {len(values)} elements")
    return _checked(name, datatype, values)


def _flat(name: str, shape: tuple[int, ...], nested: list[Any]) -> list[Any]:
    """The elements of nested lists, level by level, so that depth costs no recursion and a size is never believed."""
    level = [nested]
    for depth, size in enumerate(shape):
        if any(not isinstance(part, list) or len(part) != size for part in level):
            raise _wrong(name, f"shape {list(shape)} does not match its nested data in dimension {depth}")
        level = [inner for part in level for inner in part]
    return level


def _checked(name: str, datatype: str, values: list[Any]) -> list[Any]:
    """The elements of JSON data as the datatype has them."""
    if datatype == "BYTES":
        return [_encoded(name, position, value) for position, value in enumerate(values)]
    kinds, low, high = _range(datatype)
    for position, value in enumerate(values):
        if type(value) not in kinds or not low <= value <= high:
            raise _wrong(name, f"element {position} is no {datatype}: {_shown(value)}")
    return values


def _range(datatype: str) -> tuple[tuple[type, ...], float, float]:
    """What the elements of a datatype are in JSON, and their least and greatest; a bool is no number here."""
    if datatype == "BOOL":
        return (bool,), 0, 1
    if datatype.startswith("FP"):
        largest = float(np.finfo(_NUMBERS[datatype]).max)
        return (int, float), -largest, largest
    bounds = np.iinfo(_NUMBERS[datatype])
    return (int,), int(bounds.min), int(bounds.max)


def _encoded(name: str, position: int, value: Any) -> bytes:
    if not isinstance(value, str):
        raise _wrong(name, f"element {position} is no string: {_shown(value)}")
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _wrong(name, f"element {position} has half of a surrogate pair, which is no text") from error


def _from_bytes(name: str, datatype: str, shape: tuple[int, ...], section: bytes) -> list[Any]:
    count = math.prod(shape)
    if datatype == "BYTES":
        return _byte_elements(name, shape, count, section)
    expected = count * np.dtype(_NUMBERS[datatype]).itemsize
    if len(section) != expected:
        raise _wrong(name, f"shape {list(shape)} of {datatype} takes {expected} bytes, not {len(section)}")
    values: list[Any] = np.frombuffer(section, _NUMBERS[datatype]).tolist()
    if datatype == "BOOL":
        if any(value > 1 for value in values):
            raise _wrong(name, "a BOOL is a byte that is 0 or 1")
        return [bool(value) for value in values]
    return values


def _byte_elements(name: str, shape: tuple[int, ...], count: int, section: bytes) -> list[bytes]:
    """Each element is its length (4 bytes, little-endian) and then its bytes."""
    values: list[bytes] = []
    at = 0
    while at < len(section):
        start = at + 4
        length = int.from_bytes(section[at:start], "little")
        at = start + length
        if start > len(section) or at > len(section):
            raise _wrong(name, f"its binary data ends within element {len(values)}")
        values.append(section[start:at])
    if len(values) != count:
        raise _wrong(name, f"shape {list(shape)} does not match its {len(values)} elements")
    return values


def _wanted(described: Any, for_all: bool) -> WantedOutput:
    row = _object(described, "an output")
    name = _name(row, "output")
    parameters = _object(row.get("parameters", {}), f"output '{name}': parameters")
    _no_extensions(name, parameters, ("classification", "shared_memory_region", "shared_memory_byte_size"))
    binary = _flag(parameters, "binary_data", f"output '{name}'")
    return WantedOutput(name, for_all if binary is None else binary)


def _no_extensions(name: str, parameters: Mapping[str, Any], refused: Sequence[str]) -> None:
    for key in refused:
        if key in parameters:
            raise _wrong(name, f"the extension behind '{key}' is not offered here")


def _no_twins(names: Sequence[str], where: str) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise InvalidRequest(f"{where} name '{name}' twice", param=where)


def _name(row: Mapping[str, Any], kind: str) -> str:
    name = row.get("name")
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 200:
        raise InvalidRequest(f"{kind}s: each has a name of 1 to 200 printable characters", param=f"{kind}s")
    return name


def _flag(parameters: Mapping[str, Any], key: str, where: str) -> bool | None:
    value = parameters.get(key)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"{where}: {key} should be true or false", param=key)
    return value


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{what} should be an object")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidRequest(f"{what} should be a list", param=what)
    return value


def _shown(value: Any) -> str:
    """A value of JSON for a message: short, and safe to print."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return repr(value)[:40]


def _wrong(name: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"tensor '{name}': {what}", param=f"tensors.{name}")


# --- writing ---------------------------------------------------------------------------------------------------------


def _packed(tensor: Tensor) -> bytes:
    if tensor.datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in tensor.values)
    return np.asarray(tensor.values, _NUMBERS[tensor.datatype]).tobytes()
