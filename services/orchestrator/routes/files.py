"""`/v1/files`: upload, list, fetch and delete, as OpenAI's clients do it."""

from __future__ import annotations

import hashlib
import shutil
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, File, Form, Query, Request, Response, UploadFile
from fastapi.responses import FileResponse
from sqlalchemy import Connection

from services.orchestrator.context import Context
from services.orchestrator.idempotency import Replay, fingerprint
from services.orchestrator.jobs import new_id
from services.orchestrator.routes.state import ONCE, OnceKey, Scope, TheCaller, TheContext, TheKeys, answered, replayed
from services.orchestrator.store import FileRow
from services.orchestrator.wire import Deleted, FileObject, IdPage, file_object
from understudy.data.read import FORMATS
from understudy.errors import (
    ArtifactNotFound,
    Conflict,
    InvalidRequest,
    PayloadTooLarge,
    UnknownName,
    UnsupportedContent,
)

__all__ = ["router"]

PURPOSES = ("fine-tune",)
MAX_NAME_BYTES = 200

router = APIRouter(prefix="/v1/files", tags=["files"])


async def _only_what_is_read(request: Request) -> None:
    given = request.headers.get("content-type", "")
    if given.split(";")[0].strip().lower() != "multipart/form-data":
        raise UnsupportedContent(f"content type '{given[:100]}' is not read here: send multipart/form-data")
    for name in await request.form():
        if name not in ("file", "purpose"):
            raise InvalidRequest(f"{name[:50]}: there is no such field", param=name[:50])


@router.post(
    "",
    summary="Upload a data file",
    dependencies=[Depends(_only_what_is_read)],
    response_model=FileObject,
    responses=ONCE,
)
def create(
    context: TheContext,
    file: Annotated[UploadFile, File(description="JSON lines, CSV, TSV or Parquet")],
    purpose: Annotated[str, Form(description="fine-tune")],
    caller: TheCaller,
    keys: TheKeys,
    scope: Scope,
    key: OnceKey = None,
) -> Response:
    if purpose not in PURPOSES:
        raise UnknownName.among("purpose", purpose[:50], PURPOSES, param="purpose")
    size, most = file.size or 0, context.settings.max_upload_bytes
    if size > most:
        raise PayloadTooLarge(f"the file has {size} bytes, and at most {most} are accepted", param="file")
    if size == 0:
        raise InvalidRequest("the file is empty", param="file")
    name = _clean(file.filename or "")
    digest = hashlib.file_digest(file.file, "sha256").hexdigest() if key else ""  # type: ignore[arg-type]
    with context.idempotency.request(scope, key, fingerprint({"name": name, "bytes": digest})) as turn:
        if isinstance(turn, Replay):
            return replayed(turn)
        keys.check_room(caller, size)
        row = _stored(context, file, name, size)
        answer = file_object(row).model_dump_json()

        def also(sql: Connection) -> None:
            keys.count_file(sql, caller, row.id, size)
            turn.answer(sql, 200, answer)

        # Bytes of a request that loses a race for its quota here have no row: garbage collection takes them.
        context.files.add(row, also)
        if not context.artifacts.exists(row.artifact):  # the last file with these bytes was deleted in this moment
            _stored(context, file, name, size)
    return answered(answer)


@router.get("", summary="The files, newest first")
def list_files(
    context: TheContext,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> IdPage[FileObject]:
    rows, more = context.files.page(after, limit, purpose, newest_first=order == "desc")
    return IdPage.of([file_object(row) for row in rows], more)


@router.get("/{file_id}", summary="A file's facts")
def retrieve(context: TheContext, file_id: str) -> FileObject:
    return file_object(context.files.get(file_id))


@router.get("/{file_id}/content", summary="A file's bytes", response_class=FileResponse)
def content(context: TheContext, file_id: str) -> FileResponse:
    file = context.files.get(file_id)
    return FileResponse(
        context.path_of(file),
        media_type="application/octet-stream",
        filename=file.filename,
        headers={"X-Content-Type-Options": "nosniff"},
    )


@router.delete("/{file_id}", summary="Remove a file that no job reads")
def delete(context: TheContext, file_id: str) -> Deleted:
    file = context.files.get(file_id)
    if context.files.delete(file_id):
        with suppress(ArtifactNotFound, Conflict):  # garbage collection was first; or another has uploaded them again
            context.artifacts.delete(file.artifact, lambda: context.files.check_unheld(file.artifact))
    return Deleted(id=file_id, object="file")


def _clean(filename: str) -> str:
    """The base name alone, without what could end a line or a header; a name without an ending means JSON lines."""
    base = PurePosixPath(filename.replace("\\", "/")).name
    name = "".join(character for character in base if character.isprintable() and character != '"').strip(" .")
    suffix = PurePosixPath(name).suffix.lower() if name else ""
    if suffix and suffix not in FORMATS:
        raise UnknownName.among("file type", suffix, FORMATS, param="file")
    stem = PurePosixPath(name).stem or "upload"
    return stem.encode()[:MAX_NAME_BYTES].decode(errors="ignore") + (suffix or ".jsonl")


def _stored(context: Context, file: UploadFile, name: str, size: int) -> FileRow:
    """Store the bytes under a name of ours: what the user called the file is a column and never a path."""
    file.file.seek(0)
    with TemporaryDirectory() as folder:
        with (Path(folder) / f"data{PurePosixPath(name).suffix}").open("wb") as copy:
            shutil.copyfileobj(file.file, copy)
        artifact = context.artifacts.publish("file", Path(folder)).id
    return FileRow(
        id=new_id("file-"),
        created_at=int(time.time()),
        filename=name,
        purpose="fine-tune",
        bytes=size,
        artifact=artifact,
    )
