"""`python -m services.orchestrator`: the API with its settings from the environment."""

from __future__ import annotations

import uvicorn

from services.orchestrator.app import create_app
from services.orchestrator.settings import Settings
from understudy.logs import configure

if __name__ == "__main__":
    configure("orchestrator")
    settings = Settings()
    uvicorn.run(create_app(settings), host=settings.host, port=settings.port, log_config=None)
