"""OpenAI's completions and chat completions, answered by a student: a label is the text, its probability a logprob.

The protocol: https://platform.openai.com/docs/api-reference/chat. A student answers one text, always in the same way:
fields that shape sampling are read and change nothing, those that ask for what it cannot do are refused by name, and so
is any that the protocol does not have. A whole answer stands as one token where logprobs are asked for. Ours beside the
protocol's: `explain` and `top_k`, `labels`, and `choices` for tasks that choose.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from services.student.desk import Desk, Found
from services.student.routes.state import ERRORS, FOREVER, Patience, TheDesk
from understudy.bodies import as_request
from understudy.data.rows import parse_input
from understudy.errors import InvalidRequest, UnderstudyError
from understudy.schemas import Answer, Prediction, PredictionRequest, Reasons, Request, Text, Word

__all__ = ["router"]

EVENTS = "text/event-stream"
IMPOSSIBLE = -9999.0
"""What OpenAI gives for the logarithm of a probability of zero."""

_CHOICES = re.compile(r"inputs\[\d+\]\.choices")  # they are given once, for all texts

_STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"description": "With `stream` the same in chunks, as server-sent events", "content": {EVENTS: {}}}
}

router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=ERRORS)


# --- requests --------------------------------------------------------------------------------------------------------


class StreamOptions(Request):
    include_usage: bool = False
    include_obfuscation: bool | None = None


class _Asked(Request):
    """What both kinds of request have. Fields without a meaning for a student take what means nothing, or anything."""

    model: str | None = Field(default=None, description="An artifact id or alias; the default alias where it is absent")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    explain: bool = Field(default=False, description="Name the words that decided the answer")
    top_k: int = Field(default=5, ge=1, le=100)
    labels: tuple[Text, ...] | None = Field(default=None, min_length=2)
    choices: tuple[Text, ...] | None = Field(default=None, min_length=2)

    temperature: float | None = Field(default=None, ge=0, le=2, description="Changes nothing: no answer is drawn")
    top_p: float | None = Field(default=None, ge=0, le=1, description="Changes nothing")
    seed: int | None = Field(default=None, description="Changes nothing")
    max_tokens: int | None = Field(default=None, ge=1, description="Changes nothing: a label is never cut")
    presence_penalty: float | None = Field(default=None, ge=-2, le=2, description="Changes nothing")
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2, description="Changes nothing")
    user: str | None = Field(default=None, description="Changes nothing")
    stop: None = Field(default=None, description="Not offered: a label is never cut")
    logit_bias: None = Field(default=None, description="Not offered")
    tools: None = Field(default=None, description="Not offered: a student answers with text")
    tool_choice: None = Field(default=None, description="Not offered")


class CompletionRequest(_Asked):
    """`prompt` is one text or several; each is answered on its own."""

    prompt: Text | Annotated[tuple[Text, ...], Field(min_length=1)]
    logprobs: int | None = Field(default=None, ge=0, le=5, description="The logprobs of so many labels")
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    suffix: None = None


class ContentPart(Request):
    type: Literal["text"]
    text: Text


class ChatMessage(Request):
    """`developer` is OpenAI's newer name for `system`."""

    role: Literal["system", "developer", "user"]
    content: Text | Annotated[tuple[ContentPart, ...], Field(min_length=1)]
    name: str | None = Field(default=None, description="Changes nothing")


class PlainText(Request):
    type: Literal["text"] = "text"


class ChatRequest(_Asked):
    """`messages` are one of the user, with one of the system before it or not: the rows that students are taught."""

    messages: tuple[ChatMessage, ...] = Field(min_length=1, max_length=2)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    max_completion_tokens: int | None = Field(default=None, ge=1, description="Changes nothing")
    response_format: PlainText | None = None
    modalities: tuple[Literal["text"]] | None = None
    metadata: dict[str, str] | None = Field(default=None, description="Changes nothing")
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = Field(default=None, description="Changes nothing")
    prompt_cache_key: str | None = Field(default=None, description="Changes nothing")


# --- answers ---------------------------------------------------------------------------------------------------------


class TopLogprob(Answer):
    token: str
    logprob: float
    bytes: tuple[int, ...]


class TokenLogprob(TopLogprob):
    top_logprobs: tuple[TopLogprob, ...]


class ChatLogprobs(Answer):
    """One entry, the whole answer; `top_logprobs` are the likeliest labels."""

    content: tuple[TokenLogprob, ...]
    refusal: None = None


class CompletionLogprobs(Answer):
    tokens: tuple[str, ...]
    token_logprobs: tuple[float, ...]
    top_logprobs: tuple[dict[str, float], ...]
    text_offset: tuple[int, ...]


class AssistantMessage(Answer):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class _Choice(Answer):
    """`words` are the reasons, where `explain` asked for them: spans of the text, and how many were in none of it.

    `finish_reason` is `length` where the student had written as many tokens as it may before the answer was whole.
    """

    index: int
    finish_reason: Literal["stop", "length"]
    words: tuple[Word, ...] | None = None
    dropped_words: int = 0


class ChatChoice(_Choice):
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None


class CompletionChoice(_Choice):
    text: str
    logprobs: CompletionLogprobs | None = None


class Usage(Answer):
    """Tokens as the student's own tokenizer counts them: those that it read, and those of the answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class _Completed(Answer):
    """`system_fingerprint` is the artifact that answered."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    reasons: Reasons | None = None
    usage: Usage


class ChatCompletion(_Completed):
    object: Literal["chat.completion"] = "chat.completion"
    choices: tuple[ChatChoice, ...]


class Completion(_Completed):
    object: Literal["text_completion"] = "text_completion"
    choices: tuple[CompletionChoice, ...]


# --- routes ----------------------------------------------------------------------------------------------------------


@router.post(
    "/chat/completions",
    summary="The answer to one message, as OpenAI's clients ask for it",
    response_model=ChatCompletion,
    responses=_STREAMED,
)
async def chat(body: ChatRequest, desk: TheDesk, patience: Patience = FOREVER) -> Response:
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs is for requests with logprobs: true", param="top_logprobs")
    found, usage = await _ask(desk, body, [_text(body)], patience, "messages")
    choices = tuple(
        ChatChoice(
            index=i,
            finish_reason=_finish_reason(one),
            message=AssistantMessage(content=one.label),
            logprobs=_chat_logprobs(one, body.top_logprobs or 0) if body.logprobs else None,
            words=one.words,
            dropped_words=one.dropped_words,
        )
        for i, one in enumerate(found.predictions)
    )
    answer = ChatCompletion(**_about("chatcmpl", found, body), usage=usage, choices=choices)
    return _sent(answer, body, _chat_chunks(answer))


@router.post(
    "/completions",
    summary="The answers to one text or several, as OpenAI's older clients ask for them",
    response_model=Completion,
    responses=_STREAMED,
)
async def complete(body: CompletionRequest, desk: TheDesk, patience: Patience = FOREVER) -> Response:
    prompts = [body.prompt] if isinstance(body.prompt, str) else list(body.prompt)
    found, usage = await _ask(desk, body, prompts, patience, "prompt")
    choices = tuple(
        CompletionChoice(
            index=i,
            finish_reason=_finish_reason(one),
            text=one.label,
            logprobs=None if body.logprobs is None else _completion_logprobs(one, body.logprobs),
            words=one.words,
            dropped_words=one.dropped_words,
        )
        for i, one in enumerate(found.predictions)
    )
    answer = Completion(**_about("cmpl", found, body), usage=usage, choices=choices)
    return _sent(answer, body, [choice.model_dump(mode="json") for choice in choices])


async def _ask(desk: Desk, body: _Asked, texts: Sequence[str], patience: float, param: str) -> tuple[Found, Usage]:
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options is for requests with stream: true", param="stream_options")
    fields = {
        "model": body.model,
        "inputs": [{"input": text, "choices": body.choices} for text in texts],
        "explain": body.explain,
        "top_k": body.top_k,
        "labels": body.labels,
    }
    try:
        found = await desk.predict(as_request(PredictionRequest, fields, whole=param), patience)
    except UnderstudyError as error:
        raise _said_of(error, param, several=len(texts) > 1) from error
    return found, await asyncio.to_thread(_usage, found, texts)


def _text(body: ChatRequest) -> str:
    """What a student reads of a chat, which is what it was taught of a row of messages.

    Raises InvalidRequest for a conversation: no student was taught one.
    """
    fields = {"messages": [message.model_dump(mode="json", exclude_none=True) for message in body.messages]}
    return parse_input(fields).input


def _said_of(error: UnderstudyError, param: str, *, several: bool) -> UnderstudyError:
    """An error about `inputs[0]`, as one about the field of this protocol."""

    def renamed(text: str) -> str:
        text = _CHOICES.sub("choices", text)
        return (text if several else text.replace("inputs[0]", param)).replace("inputs", param)

    about = None if error.param is None else renamed(error.param)
    return type(error)(renamed(error.message), param=about, retry_after=error.retry_after)


def _usage(found: Found, texts: Sequence[str]) -> Usage:
    read = sum(found.model.counts(texts, None))
    written = sum(found.model.written(one.label) for one in found.predictions)
    return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


def _about(prefix: str, found: Found, body: _Asked) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": found.name,
        "system_fingerprint": found.model.artifact,
        "reasons": found.model.reasons if body.explain else None,
    }


def _finish_reason(one: Prediction) -> Literal["stop", "length"]:
    return "length" if one.unfinished else "stop"


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else IMPOSSIBLE


def _likeliest(one: Prediction, count: int) -> list[tuple[str, float]]:
    """The likeliest labels with their logprobs; of an open answer the answer itself."""
    known = one.probabilities or {one.label: one.probability}
    best = sorted(known, key=lambda label: -known[label])[:count]
    return [(label, _log(known[label])) for label in best]


def _chat_logprobs(one: Prediction, count: int) -> ChatLogprobs:
    top = tuple(
        TopLogprob(token=label, logprob=value, bytes=tuple(label.encode())) for label, value in _likeliest(one, count)
    )
    entry = TokenLogprob(
        token=one.label, logprob=_log(one.probability), bytes=tuple(one.label.encode()), top_logprobs=top
    )
    return ChatLogprobs(content=(entry,))


def _completion_logprobs(one: Prediction, count: int) -> CompletionLogprobs:
    return CompletionLogprobs(
        tokens=(one.label,),
        token_logprobs=(_log(one.probability),),
        top_logprobs=(dict(_likeliest(one, count)),),
        text_offset=(0,),
    )


# --- streams: the whole answer is known before the first chunk, so that an error still has its status -----------------


def _chat_chunks(answer: ChatCompletion) -> list[dict[str, Any]]:
    chunks: list[dict[str, Any]] = []
    for choice in answer.choices:
        whole = choice.model_dump(mode="json", exclude={"message", "finish_reason"})
        delta = choice.message.model_dump(mode="json")
        chunks.append({**whole, "delta": delta, "finish_reason": None})
        chunks.append({"index": choice.index, "delta": {}, "logprobs": None, "finish_reason": choice.finish_reason})
    return chunks


def _sent(answer: ChatCompletion | Completion, body: _Asked, chunks: Sequence[Mapping[str, Any]]) -> Response:
    if not body.stream:
        return Response(answer.model_dump_json(), media_type="application/json")
    counted = bool(body.stream_options and body.stream_options.include_usage)
    return StreamingResponse(_events(answer, chunks, counted), media_type=EVENTS)


def _events(answer: ChatCompletion | Completion, chunks: Sequence[Mapping[str, Any]], counted: bool) -> Iterator[str]:
    shared = answer.model_dump(mode="json", exclude={"choices", "usage"})
    if isinstance(answer, ChatCompletion):
        shared["object"] = "chat.completion.chunk"
    usage = {"usage": None} if counted else {}
    for chunk in chunks:
        yield _event({**shared, "choices": [chunk], **usage})
    if counted:
        yield _event({**shared, "choices": [], "usage": answer.usage.model_dump(mode="json")})
    yield "data: [DONE]\n\n"


def _event(chunk: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"
