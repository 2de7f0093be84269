# SPDX-License-Identifier: Apache-2.0
"""Keys that rotations made."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Bring the schema from the version before to this one."""
    op.create_table(
        "token_keys",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("made_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
