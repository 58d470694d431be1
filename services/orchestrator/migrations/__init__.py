"""The database's revisions, oldest first in `versions`; `services.orchestrator.migrate` applies them."""
