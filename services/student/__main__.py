"""`python -m services.student`: serve until a signal comes."""

from __future__ import annotations

import uvicorn

from services.student.app import create_app
from services.student.settings import Settings


def main() -> None:
    settings = Settings()
    uvicorn.run(create_app(settings), host=settings.host, port=settings.port)


if __name__ == "__main__":
    main()
