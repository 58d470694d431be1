"""The Open Inference Protocol's errors, `{"error": "<message>"}`, made of ours at its addresses. Knows no route."""

from __future__ import annotations

import json
from collections.abc import Callable

from pydantic import BaseModel
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["ErrorString", "StringErrors"]


class ErrorString(BaseModel):
    error: str


class StringErrors:
    """Gives every error under `/v2` the protocol's shape, with its status and its other headers as they are.

    `said` makes of a message about the native fields one about tensors. It stands around the whole
    application, since a body that is too large or an unknown address never comes to a route.
    """

    def __init__(self, app: ASGIApp, said: Callable[[str], str]) -> None:
        self.app = app
        self.said = said

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not (scope["path"] + "/").startswith("/v2/"):
            await self.app(scope, receive, send)
            return
        held: list[Message] = []  # an error's messages, until all of it is there

        async def reshaped(message: Message) -> None:
            if not held and message.get("status", 200) < 400:
                await send(message)
                return
            held.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                await self._answer(send, held[0], b"".join(part.get("body", b"") for part in held[1:]))

        await self.app(scope, receive, reshaped)

    async def _answer(self, send: Send, start: Message, native: bytes) -> None:
        """Send the answer that begins with `start`, its body made one of the protocol's."""
        message = self.said(json.loads(native)["error"]["message"])
        body = json.dumps({"error": message}, ensure_ascii=False).encode()
        headers = MutableHeaders(raw=list(start["headers"]))
        headers["content-length"] = str(len(body))
        await send({**start, "headers": headers.raw})
        await send({"type": "http.response.body", "body": body})
