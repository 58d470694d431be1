"""`python -m services.teacher`: serve until a signal comes, with settings from the environment."""

from __future__ import annotations

from services.teacher.app import create_app
from services.teacher.settings import Settings
from understudy.server import serve

if __name__ == "__main__":
    settings = Settings()
    serve("teacher", create_app(settings), settings.host, settings.port)
