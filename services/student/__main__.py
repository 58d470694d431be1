"""`python -m services.student`: serve until a signal comes, with settings from the environment."""

from __future__ import annotations

from services.student.app import create_app
from services.student.settings import Settings
from understudy.server import serve

if __name__ == "__main__":
    settings = Settings()
    serve("student", create_app(settings), settings.host, settings.port)
