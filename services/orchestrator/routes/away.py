"""What the API answers while its database or its disk cannot do their part: 503, and when to ask again."""

from __future__ import annotations

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from services.orchestrator.away import is_away, no_space, told
from understudy.edge import render

__all__ = ["answer_while_away"]

log = structlog.get_logger()


def answer_while_away(app: FastAPI) -> None:
    """Have the application say so; a defect of ours stays one."""
    otherwise = app.exception_handlers[HTTPException]

    async def refused(request: Request, error: Exception) -> Response:
        """FastAPI tells a disk that is full while it receives an upload as a body that cannot be read."""
        if isinstance(error.__cause__, OSError) and no_space(error.__cause__):
            return await _disk(request, error.__cause__)
        answer = otherwise(request, error)
        return answer if isinstance(answer, Response) else await answer

    app.add_exception_handler(SQLAlchemyError, _database)
    app.add_exception_handler(OSError, _disk)
    app.add_exception_handler(HTTPException, refused)


async def _database(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, SQLAlchemyError) or not is_away(error):
        raise error
    log.warning("database_away", path=request.url.path, error=str(error)[:300])
    return render(told(error))


async def _disk(request: Request, error: Exception) -> JSONResponse:
    full = no_space(error)
    if full is None:
        raise error
    log.warning("disk_full", path=request.url.path, error=full.message)
    return render(full)
