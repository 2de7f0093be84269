# SPDX-License-Identifier: Apache-2.0
"""A cache per machine: what was cached before is fetched again when somebody asks for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Bring the schema from the version before to this one."""
    op.drop_table("image_cache")
    op.create_table(
        "image_cache",
        sa.Column("node", sa.String(length=255), nullable=False),
        sa.Column("image_id", sa.String(length=36), nullable=False),
        sa.Column("key", sa.String(length=80), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("hits", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.Column("accessed_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("node", "image_id"),
    )
