"""`python -m services.student`: serve until a signal comes."""

from __future__ import annotations

import gc

import uvicorn

from services.student.app import create_app
from services.student.settings import Settings
from understudy.logs import configure


def main() -> None:
    configure("student")
    settings = Settings()
    # What the libraries have made never goes away: without it a full collection stops requests for a moment only.
    gc.collect()
    gc.freeze()
    uvicorn.run(create_app(settings), host=settings.host, port=settings.port, log_config=None)


if __name__ == "__main__":
    main()
