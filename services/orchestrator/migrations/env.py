"""What Alembic runs for each command: the revisions, within the transaction of whoever called (see `migrate`)."""

from __future__ import annotations

from alembic import context

from services.orchestrator.database import metadata

# SQLite's DDL is transactional as well, once the driver leaves BEGIN to us; Alembic assumes that it does not.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()
