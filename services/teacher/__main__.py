"""`python -m services.teacher`: serve until a signal comes, with settings from the environment."""

from __future__ import annotations

import sys

from services.teacher.settings import PREFIX, Settings
from understudy.errors import InvalidRequest
from understudy.keys import Keys
from understudy.server import refuse_open_door, serve


def main() -> None:
    settings = Settings()
    try:
        guarded = bool(Keys(settings.keys)) or settings.allow_anonymous
        refuse_open_door(settings.host, guarded=guarded, setting=PREFIX)
    except (InvalidRequest, OSError) as error:
        sys.exit(f"the teacher does not start: {error}")
    from services.teacher.app import create_app  # torch takes seconds, and a mistake must not
    from understudy.models.device import pick_device

    try:
        pick_device(settings.device)
    except InvalidRequest as error:
        sys.exit(f"the teacher does not start: {error}")
    serve(
        "teacher",
        create_app(settings),
        settings.host,
        settings.port,
        drain_seconds=settings.drain_seconds,
        allow_anonymous=settings.allow_anonymous,
    )


if __name__ == "__main__":
    main()
