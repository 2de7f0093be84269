# SPDX-License-Identifier: Apache-2.0
"""Fences: what was undone is not made by a request that comes later"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Bring the schema from the version before to this one."""
    op.create_table(
        "fences",
        sa.Column("thing", sa.String(length=64), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("thing"),
    )
    op.create_index(op.f("ix_fences_seen_at"), "fences", ["seen_at"], unique=False)
