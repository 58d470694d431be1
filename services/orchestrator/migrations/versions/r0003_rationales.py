"""Where the answers of teachers are that were given before."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rationales",
        sa.Column("key", sa.String(32), primary_key=True),
        sa.Column("shard", sa.String(64), nullable=False, index=True),
        sa.Column("place", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
