"""Indexes for what every sweep asks: its cost must not grow with the items that wait or are done."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("work_items_of_phase", "work_items", ["job_id", "phase", "state"])
    to_send = sa.text("state = 'pending' AND sent_at IS NULL")
    columns = ["queue", "index", "seq"]
    op.create_index("work_items_to_send", "work_items", columns, sqlite_where=to_send, postgresql_where=to_send)
    op.create_index("work_items_under_way", "work_items", ["queue", "state", "sent_at"])
    op.create_index("work_items_by_time", "work_items", ["state", "not_before"])
    op.drop_index("work_items_by_queue", "work_items")
