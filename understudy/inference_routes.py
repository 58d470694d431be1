"""What every service of the Open Inference Protocol V2 says of a model, and how its routes read and answer tensors.

The format of requests and answers is `open_inference`'s; what the tensors mean is each service's own. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fastapi import Request, Response
from pydantic import BaseModel

from understudy.errors import ModelNotFound
from understudy.open_inference import HEADER_LENGTH, InferRequest, Tensor, read_request, unpack, write_response

__all__ = [
    "MetadataTensor",
    "ModelMetadata",
    "ModelReady",
    "ModelState",
    "check_version",
    "read_inference",
    "tensor_response",
]


class ModelReady(BaseModel):
    name: str
    ready: Literal[True] = True


class MetadataTensor(BaseModel):
    """`-1` is a dimension of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(BaseModel):
    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[MetadataTensor, ...]
    outputs: tuple[MetadataTensor, ...]

    @classmethod
    def of(
        cls, name: str, version: str, platform: str, inputs: Mapping[str, tuple[int, ...]], outputs: Mapping[str, str]
    ) -> ModelMetadata:
        """`inputs` are the shapes of BYTES tensors, `outputs` the datatypes of tensors with one value an example."""
        return cls(
            name=name,
            versions=(version,),
            platform=platform,
            inputs=tuple(MetadataTensor(name=one, datatype="BYTES", shape=shape) for one, shape in inputs.items()),
            outputs=tuple(
                MetadataTensor(name=one, datatype=datatype, shape=(-1,)) for one, datatype in outputs.items()
            ),
        )


class ModelState(BaseModel):
    name: str
    version: str
    state: Literal["READY"] = "READY"
    reason: str = ""


def check_version(model: str, version: str, own: str) -> None:
    """Raises ModelNotFound for any version but the model's own, which is the only one it has."""
    if own != version:
        raise ModelNotFound(f"model '{model}' has no version '{version}': its one version is '{own}'", param="version")


async def read_inference(request: Request, most: int) -> InferRequest:
    """The request's tensors, whatever their encoding; its body has at most `most` bytes once it is unpacked."""
    unpacked = unpack(await request.body(), request.headers.get("content-encoding"), most=most)
    return read_request(unpacked, request.headers.get(HEADER_LENGTH))


def tensor_response(asked: InferRequest, outputs: Sequence[Tensor], about: Mapping[str, Any]) -> Response:
    """The outputs that were asked for, as JSON, or in binary where that was asked for."""
    body, length = write_response(asked, outputs, about)
    if length is None:
        return Response(body, media_type="application/json")
    return Response(body, media_type="application/octet-stream", headers={HEADER_LENGTH: str(length)})
