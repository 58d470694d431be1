"""`python -m services.teacher`: serve until a signal comes."""

from __future__ import annotations

import gc

import uvicorn

from services.teacher.app import create_app
from services.teacher.settings import Settings
from understudy.logs import configure


def main() -> None:
    configure("teacher")
    settings = Settings()
    # The libraries' half a million objects never go away: walking them at each full collection would stop requests
    # for a third of a second.
    gc.collect()
    gc.freeze()
    uvicorn.run(create_app(settings), host=settings.host, port=settings.port, log_config=None)


if __name__ == "__main__":
    main()
