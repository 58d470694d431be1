"""`python -m services.teacher`: serve until a signal comes, with settings from the environment."""

from __future__ import annotations

import sys

from services.teacher.app import create_app
from services.teacher.settings import PREFIX, Settings
from understudy.errors import InvalidRequest
from understudy.server import refuse_open_door, serve

if __name__ == "__main__":
    settings = Settings()
    try:
        guarded = settings.allow_anonymous or bool(settings.keys)
        refuse_open_door(settings.host, guarded=guarded, setting=PREFIX)
        app = create_app(settings)
    except (InvalidRequest, OSError) as error:
        sys.exit(f"the teacher does not start: {error}")
    serve("teacher", app, settings.host, settings.port, drain_seconds=settings.drain_seconds)
