"""`python -m services.orchestrator`: serve until a signal comes, with settings from the environment."""

from __future__ import annotations

from services.orchestrator.app import create_app
from services.orchestrator.settings import Settings
from understudy.server import serve

if __name__ == "__main__":
    settings = Settings()
    serve("orchestrator", create_app(settings), settings.host, settings.port)
